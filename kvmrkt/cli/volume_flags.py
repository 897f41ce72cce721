"""rkt's grammar for `--volume` and `--mount`."""

from __future__ import annotations

from kvmrkt.appc import types
from kvmrkt.appc.pod_manifest import Volume
from kvmrkt.cli.values import parse_bool
from kvmrkt.errors import UsageError
from kvmrkt.pods.request import MountRequest


def parse_mount(text: str) -> MountRequest:
    """rkt's `volume=NAME,target=PATH`; raises UsageError."""
    fields = dict(_pairs(text, "--mount"))
    unknown = set(fields) - {"volume", "target"}
    if unknown or len(fields) != 2:
        raise UsageError(
            f"invalid --mount {text}: "
            + (f"unknown key {min(unknown)}" if unknown else "incomplete"),
            hint="write volume=NAME,target=/absolute/path",
        )
    if not fields["target"].startswith("/") or ".." in fields["target"].split("/"):
        raise UsageError(f"invalid --mount {text}: target must be an absolute path without ..")
    return MountRequest(fields["volume"], fields["target"].rstrip("/") or "/")


_VOLUME_KEYS = {
    "host": {"kind", "source", "readOnly", "recursive"},
    "empty": {"kind", "readOnly", "mode", "uid", "gid"},
}


def parse_volume(text: str) -> Volume:
    """A volume in rkt's words; raises UsageError.

    `NAME,kind=host,source=PATH[,readOnly=BOOL][,recursive=BOOL]` or
    `NAME,kind=empty[,readOnly=BOOL][,mode=0755][,uid=0][,gid=0]`.
    """
    name, _, rest = text.partition(",")
    if not types.is_ac_name(name):
        raise UsageError(f'invalid --volume {text}: "{name}" is not a volume\'s name')
    fields = dict(_pairs(rest, "--volume"))
    kind = fields.get("kind", "")
    if kind not in _VOLUME_KEYS:
        raise UsageError(
            f'invalid --volume {text}: unrecognized volume kind: should be one of "empty", "host"'
        )
    if unknown := set(fields) - _VOLUME_KEYS[kind]:
        raise UsageError(f"invalid --volume {text}: unknown key {min(unknown)} for kind={kind}")
    try:
        read_only = parse_bool(fields.get("readOnly", "false"))
        if kind == "host":
            return _host_volume(name, fields, read_only)
        mode = fields.get("mode", "0755")
        if not 0 <= int(mode, 8) <= 0o7777:
            raise ValueError(mode)
        uid, gid = int(fields.get("uid", "0")), int(fields.get("gid", "0"))
        if min(uid, gid) < 0 or max(uid, gid) >= 1 << 32:
            raise ValueError("an ID is out of range")
    except (ValueError, UsageError) as error:
        raise UsageError(f"invalid --volume {text}: {error}") from None
    return Volume(name=name, kind=kind, read_only=read_only, mode=mode, uid=uid, gid=gid)


def _host_volume(name: str, fields: dict[str, str], read_only: bool) -> Volume:
    source = fields.get("source", "")
    if not source.startswith("/"):
        raise ValueError("kind=host needs source=/absolute/path")
    recursive = parse_bool(fields.get("recursive", "true"))
    return Volume(name=name, kind="host", source=source, read_only=read_only, recursive=recursive)


def _pairs(text: str, flag: str) -> list[tuple[str, str]]:
    pairs = []
    for part in text.split(",") if text else []:
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f'invalid {flag}: "{part}" is not key=value')
        pairs.append((key, value))
    return pairs
