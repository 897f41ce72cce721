"""rkt's grammar for `--volume` and `--mount`: a query string with commas, `%2C` for one's own."""

from __future__ import annotations

from kvmrkt.appc import types
from kvmrkt.appc.image_manifest import check_text
from kvmrkt.appc.pod_manifest import Volume
from kvmrkt.cli.flags import faulty
from kvmrkt.cli.values import parse_bool
from kvmrkt.errors import KvmrktError
from kvmrkt.pods.mounts import clean
from kvmrkt.pods.request import MountRequest

_VOLUME_KEYS = {
    "host": {"kind", "source", "readOnly", "recursive"},
    "empty": {"kind", "readOnly", "mode", "uid", "gid"},
}
_ALL_KEYS = frozenset().union(*_VOLUME_KEYS.values())
_MAX_ID = 2**32 - 2


def parse_mount(text: str) -> MountRequest:
    """rkt's `volume=NAME,target=PATH`; raises UsageError."""
    try:
        fields = _fields(text)
        if unknown := set(fields) - {"volume", "target"}:
            raise ValueError(f'unknown mount parameter "{min(unknown)}"')
        for key in ("volume", "target"):
            if key not in fields:
                raise ValueError(f"missing {key}= parameter")
        if not types.is_ac_name(fields["volume"]):
            raise ValueError(f'invalid volume name "{fields["volume"]}"')
        _check_path(fields["target"], "target")
    except (ValueError, KvmrktError) as error:
        raise faulty(
            "--mount", text, str(error), hint="write volume=NAME,target=/absolute/path"
        ) from None
    return MountRequest(fields["volume"], clean(fields["target"]))


def parse_volume(text: str) -> Volume:
    """A volume in rkt's words; raises UsageError.

    `NAME,kind=host,source=PATH[,readOnly=BOOL][,recursive=BOOL]` or
    `NAME,kind=empty[,readOnly=BOOL][,mode=0755][,uid=0][,gid=0]`.
    """
    name, _, rest = text.partition(",")
    try:
        if not types.is_ac_name(name):
            raise ValueError(f'"{name}" is not a volume\'s name')
        return _volume(name, _fields(rest))
    except (ValueError, KvmrktError) as error:
        raise faulty(
            "--volume", text, str(error),
            hint="write NAME,kind=host,source=/absolute/path or NAME,kind=empty",
        ) from None  # fmt: skip


def _volume(name: str, fields: dict[str, str]) -> Volume:
    if unknown := set(fields) - _ALL_KEYS:
        raise ValueError(f'unknown volume parameter "{min(unknown)}"')
    kind = fields.get("kind", "")
    if kind not in _VOLUME_KEYS:
        raise ValueError('unrecognized volume kind: should be one of "empty", "host"')
    if foreign := set(fields) - _VOLUME_KEYS[kind]:
        raise ValueError(f"{min(foreign)}= is not for kind={kind}")
    read_only = parse_bool(fields.get("readOnly", "false"))
    if kind == "empty":
        return Volume(
            name=name, kind=kind, read_only=read_only, mode=_mode(fields.get("mode", "0755")),
            uid=_id(fields.get("uid", "0")), gid=_id(fields.get("gid", "0")),
        )  # fmt: skip
    source = fields.get("source", "")
    if not source:
        raise ValueError("source for host volume cannot be empty")
    _check_path(source, "source")
    recursive = parse_bool(fields.get("recursive", "true"))
    return Volume(name=name, kind=kind, source=source, read_only=read_only, recursive=recursive)


def _check_path(path: str, what: str) -> None:
    if not path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{what} must be an absolute path without ..")
    check_text(path, what)


def _mode(text: str) -> str:
    if not text or len(text) > 5 or set(text) - set("01234567") or int(text, 8) > 0o7777:
        raise ValueError(f'"{text}" is not an octal mode (like 0755)')
    return text


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > _MAX_ID:
        raise ValueError(f'"{text}" is not an ID')
    return int(text)


def _fields(text: str) -> dict[str, str]:
    """Keys and values, each key once. A `%` begins an escape as in rkt; a `+` is itself."""
    fields: dict[str, str] = {}
    for part in text.split(",") if text else []:
        key, equals, value = (_unescaped(half) for half in part.partition("="))
        if not equals:
            raise ValueError(f'"{part}" is not key=value')
        if key in fields:
            raise ValueError(f"label {key} with multiple values")
        fields[key] = value
    return fields


def _unescaped(text: str) -> str:
    if "%" not in text:
        return text
    import re
    from urllib.parse import unquote

    if broken := re.search(r"%(?![0-9A-Fa-f]{2}).{0,2}", text):
        raise ValueError(f'invalid URL escape "{broken[0]}"')
    return unquote(text, errors="strict")
