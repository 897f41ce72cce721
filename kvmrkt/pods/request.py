"""What a user asks for when a pod is to run: the command line, or the API, as data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    from kvmrkt.appc.pod_manifest import Volume


class MountRequest(msgspec.Struct, frozen=True):
    """A volume at a path, for one app or for all."""

    volume: str
    path: str


class AppRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One image and what the user changes about how it runs; None leaves the image's own."""

    image: str
    name: str | None = None
    exec: str | None = None
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    group: str | None = None
    working_directory: str | None = None
    memory: str | None = None
    cpu: str | None = None
    read_only_root: bool = False
    mounts: tuple[MountRequest, ...] = ()
    signature: Path | None = None


class PodRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A pod as asked for."""

    apps: tuple[AppRequest, ...]
    volumes: tuple[Volume, ...] = ()
    mounts: tuple[MountRequest, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
