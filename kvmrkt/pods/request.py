"""What a user asks for when a pod is to run: the command line, or the API, as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    from kvmrkt.appc.pod_manifest import ExposedPort, PodManifest, Volume

Pairs = tuple[tuple[str, str], ...]
"""Names and values, in order."""
InputMode = Literal["null", "stream", "tty"]
OutputMode = Literal["log", "null", "stream", "tty"]


class MountRequest(msgspec.Struct, frozen=True):
    """A volume at a path, for one app or for all."""

    volume: str
    path: str


class SeccompRequest(msgspec.Struct, frozen=True):
    """System calls an app may make, or may not, in place of what its image says.

    `calls` are names and groups like `@rkt/default-whitelist`; what is forbidden fails with
    `errno`, or ends the app if that is None.
    """

    mode: Literal["retain", "remove"]
    calls: tuple[str, ...]
    errno: str | None = None


class AppRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One image and what the user changes about how it runs; None leaves the image's own."""

    image: str
    name: str | None = None
    exec: str | None = None
    arguments: tuple[str, ...] = ()
    environment: Pairs = ()
    user: str | None = None
    group: str | None = None
    supplementary_gids: tuple[int, ...] | None = None
    working_directory: str | None = None
    memory: str | None = None
    cpu: str | None = None
    cpu_shares: int | None = None
    oom_score_adj: int | None = None
    retain_capabilities: tuple[str, ...] | None = None
    remove_capabilities: tuple[str, ...] | None = None
    seccomp: SeccompRequest | None = None
    read_only_root: bool = False
    mounts: tuple[MountRequest, ...] = ()
    annotations: Pairs = ()
    user_annotations: Pairs | None = None
    user_labels: Pairs | None = None
    stdin: InputMode | None = None
    stdout: OutputMode | None = None
    stderr: OutputMode | None = None
    signature: Path | None = None


class PodRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A pod as asked for: apps, or a whole manifest whose images are in the store."""

    apps: tuple[AppRequest, ...] = ()
    manifest: PodManifest | None = None
    volumes: tuple[Volume, ...] = ()
    mounts: tuple[MountRequest, ...] = ()
    ports: tuple[ExposedPort, ...] = ()
    inherited_environment: Pairs = ()
    """What the images' own variables win over."""
    environment: Pairs = ()
    """What wins over the images' own variables."""

    @property
    def app_count(self) -> int:
        """How many apps the pod will have."""
        return len(self.apps if self.manifest is None else self.manifest.apps)
