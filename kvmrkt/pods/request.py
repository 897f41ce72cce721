"""What a user asks for when a pod is to run: the command line, or the API, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from kvmrkt.appc.pod_manifest import Volume


@dataclass(frozen=True, slots=True)
class MountRequest:
    """A volume at a path, for one app or for all."""

    volume: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRequest:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRequest:
    """A pod as asked for."""

    apps: tuple[AppRequest, ...]
    volumes: tuple[Volume, ...] = ()
    mounts: tuple[MountRequest, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    hostname: str | None = None
    interactive: bool = False
