"""The configuration: `{system,local,user}/KIND.d/*.json` (reference, C.8, and kinds of our own).

Each file has a kind and a version, rkt's `rktKind` and `rktVersion`. A later folder overrides an
earlier one per host, registry, path and so on; the same thing twice in one folder is an error.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kvmrkt.errors import ConfigError, describe
from kvmrkt.images.web.credentials import Credentials

if TYPE_CHECKING:
    from kvmrkt.configuration_kinds import Layer

FOLDERS = ("auth.d", "paths.d", "stage1.d", "images.d", "kvm.d")
_VERSION = "v1"
_MAX_BYTES = 1 << 20


class ImageLimits(msgspec.Struct, frozen=True, rename="camel"):
    """How big an image may be; None is the default of where the limit is used."""

    max_entries: int | None = None
    max_path_bytes: int | None = None
    max_expanded_bytes: int | None = None
    max_download_bytes: int | None = None


class Stage1Default(msgspec.Struct, frozen=True):
    """The stage1 image to use: a name and version in the store, else its location, or both."""

    name: str | None = None
    version: str | None = None
    location: str | None = None


class KvmSettings(msgspec.Struct, frozen=True, rename="camel"):
    """How virtual machines are made where a pod does not say; None is the engine's default."""

    accelerator: str | None = None
    boot_timeout_seconds: int | None = None
    system_memory_bytes: int | None = None
    """The guest system's own share, beside the apps' limits."""
    app_memory_bytes: int | None = None
    """For each app that sets no limit."""
    max_default_cpus: int | None = None
    """For a pod whose apps set no limit."""


class Configuration(msgspec.Struct, frozen=True):
    """What the files say."""

    credentials: Credentials = Credentials()
    data: Path | None = None
    stage1_images: Path | None = None
    stage1: Stage1Default | None = None
    limits: ImageLimits = ImageLimits()
    kvm: KvmSettings = KvmSettings()


def load_configuration(
    system: Path, local: Path, user: Path | None = None, *, folders: Iterable[str] = FOLDERS
) -> Configuration:
    """What the vendor's, the host's and the user's files say; folders need not exist.

    `folders` are those to read: not everyone who may list pods may read passwords. Raises
    ConfigError naming file and key.
    """
    merged: dict[tuple[str, str], Any] = {}
    for root in (system, local, user):
        if root is not None:
            merged |= _load_layer(root, folders)
    name, version = merged.get(("stage1", "name"), (None, None))
    location = merged.get(("stage1", "location"))
    return Configuration(
        credentials=Credentials(_of_kind(merged, "auth"), _of_kind(merged, "dockerAuth")),
        data=merged.get(("paths", "data")),
        stage1_images=merged.get(("paths", "stage1-images")),
        stage1=Stage1Default(name, version, location) if name or location else None,
        limits=msgspec.convert(_of_kind(merged, "images"), ImageLimits),
        kvm=msgspec.convert(_of_kind(merged, "kvm"), KvmSettings),
    )


def _of_kind(values: dict[tuple[str, str], Any], kind: str) -> dict[str, Any]:
    return {key: value for (of, key), value in values.items() if of == kind}


def _load_layer(root: Path, folders: Iterable[str]) -> dict[tuple[str, str], Any]:
    paths = [path for folder in folders for path in _files(root / folder)]
    if not paths:
        return {}
    from kvmrkt.configuration_kinds import Faulty, Layer  # most hosts have no such file

    layer = Layer()
    for path in paths:
        try:
            _load_file(path, layer)
        except Faulty as error:
            raise ConfigError(f"cannot use {path}: {error}") from None
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {describe(error)}") from None
    return layer.values


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"cannot read the configuration in {folder}") from error


def _load_file(path: Path, layer: Layer) -> None:
    from kvmrkt.configuration_kinds import PARSERS, Faulty, required

    data = _read(path)
    if data is None:
        return
    if len(data) > _MAX_BYTES:
        raise Faulty(f"it is larger than {_MAX_BYTES} bytes")
    content = _parse_json(data)
    kind, version = required(content, "rktKind"), required(content, "rktVersion")
    parsers = PARSERS[path.parent.name]
    if kind not in parsers:
        raise Faulty(f'rktKind: "{kind}" does not belong here, but {" or ".join(parsers)}')
    if version != _VERSION:
        raise Faulty(f'rktVersion: "{version}" is not known, only "{_VERSION}"')
    layer.file = path.name
    parsers[kind](content, layer)


def _read(path: Path) -> bytes | None:
    """The content; None if it is no file at all, as rkt passed over such."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(_MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _parse_json(data: bytes) -> dict[str, Any]:
    import json  # the one decoder that tells of doubled keys

    from kvmrkt.configuration_kinds import Faulty

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            raise Faulty(f"{next(key for key in keys if keys.count(key) > 1)}: is there twice")
        return content

    try:
        msgspec.json.decode(data)  # stricter than json: no NaN, no halves of characters
        content = json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else f"{error}"
        raise Faulty(f"it is not valid JSON: {reason}") from None
    if not isinstance(content, dict):
        raise Faulty("it is not a JSON object")
    return content
