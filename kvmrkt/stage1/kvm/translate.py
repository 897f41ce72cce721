"""From App Container terms to the agent's: a pod manifest becomes a PodSpec. Pure, but for the
filter of system calls, which is compiled and kept elsewhere (`seccomp/program.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from kvmrkt.appc import isolators
from kvmrkt.appc.pod_manifest import STREAM_ANNOTATION
from kvmrkt.appc.sysctl import sysctls
from kvmrkt.config import InsecureOptions
from kvmrkt.errors import ManifestError, PodError
from kvmrkt.pods.mounts import clean, initialized_volumes
from kvmrkt.stage1.kvm.podspec import (
    AppMount,
    AppSpec,
    Disk,
    EmptyVolume,
    HostVolume,
    Limits,
    PodSpec,
    ReadMode,
    Terminal,
    WriteMode,
)
from kvmrkt.stage1.kvm.seccomp.program import filter_for
from kvmrkt.stage1.kvm.share import HostFolder

if TYPE_CHECKING:
    from kvmrkt.appc.image_manifest import App
    from kvmrkt.appc.pod_manifest import PodManifest, RuntimeApp, Volume

SCRATCH = "scratch"


class Streams(msgspec.Struct, frozen=True):
    """How the apps' standard streams reach the host."""

    mode: Literal["log", "stream", "tty"] = "log"
    terminal: Terminal | None = None


class Translation(msgspec.Struct, frozen=True):
    """The spec, and what of the host it stands on."""

    spec: PodSpec
    image_ids: dict[str, str]
    """The image behind each disk serial; apps of one image share its disk."""
    folders: tuple[HostFolder, ...]


def translate(
    manifest: PodManifest,
    uuid: str,
    *,
    hostname: str | None = None,
    streams: Streams | None = None,
    insecure: InsecureOptions | None = None,
) -> Translation:
    """Translate a whole pod; raises ManifestError for isolators that make no sense."""
    insecure = insecure or InsecureOptions()
    serials: dict[str, str] = {}
    for app in manifest.apps:
        serials.setdefault(app.image.id, f"image{len(serials)}")
    disks = [Disk(serial, "squashfs", read_only=True) for serial in serials.values()]
    volumes = {volume.name: volume for volume in manifest.volumes}
    filled = initialized_volumes(manifest)
    spec = PodSpec(
        uuid=uuid,
        hostname=hostname or f"rkt-{uuid}",
        realtime_ns=0,  # the supervisor sets both when the guest is there to hear them
        entropy="",
        apps=tuple(
            _app(app, serials[app.image.id], volumes, streams or Streams(), insecure)
            for app in manifest.apps
        ),
        disks=(*disks, Disk(SCRATCH, "ext4", read_only=False)),
        volumes=tuple(_volume(volume, filled) for volume in manifest.volumes),
        sysctls=tuple(sysctls(manifest.isolators)),
    )
    folders = tuple(_folder(volume) for volume in manifest.volumes if volume.kind == "host")
    return Translation(spec, {serial: image for image, serial in serials.items()}, folders)


def _volume(volume: Volume, filled: frozenset[str]) -> HostVolume | EmptyVolume:
    if volume.kind == "host":
        return HostVolume(volume.name, volume.read_only)
    return EmptyVolume(
        volume.name,
        int(volume.mode or "0755", 8),
        volume.uid or 0,
        volume.gid or 0,
        initialize=volume.name in filled,
    )


def _folder(volume: Volume) -> HostFolder:
    return HostFolder(
        volume.name, Path(volume.source or ""), volume.read_only, volume.recursive is not False
    )


def _app(
    runtime: RuntimeApp,
    disk: str,
    volumes: dict[str, Volume],
    streams: Streams,
    insecure: InsecureOptions,
) -> AppSpec:
    if runtime.app is None:
        raise PodError(f'the pod manifest has no app section for "{runtime.name}"')
    try:
        return _translate_app(runtime, runtime.app, disk, volumes, streams, insecure)
    except ManifestError as error:
        image = runtime.image.name or runtime.image.id
        raise ManifestError(f'cannot run app "{runtime.name}" of image "{image}"') from error


def _translate_app(
    runtime: RuntimeApp,
    app: App,
    disk: str,
    volumes: dict[str, Volume],
    streams: Streams,
    insecure: InsecureOptions,
) -> AppSpec:
    stdin, stdout, stderr = _stream_modes(runtime, streams)
    return AppSpec(
        name=runtime.name,
        disk=disk,
        argv=tuple(app.exec),
        environment=_environment(runtime.name, app),
        user=app.user,
        group=app.group,
        supplementary_gids=tuple(app.supplementary_gids),
        working_directory=app.working_directory or "/",
        read_only_root=runtime.read_only_root_fs,
        mounts=_mounts(runtime, app, volumes),
        capabilities=(
            isolators.ALL_CAPABILITIES if insecure.capabilities else isolators.capabilities(app)
        ),
        no_new_privileges=isolators.no_new_privileges(app),
        seccomp=None if insecure.seccomp else filter_for(app),
        protect_paths=not insecure.paths,
        limits=Limits(
            memory_bytes=isolators.memory_limit_bytes(app),
            cpu_millis=isolators.cpu_limit_millis(app),
            cpu_shares=isolators.cpu_shares(app),
        ),
        oom_score_adj=isolators.oom_score_adj(app),
        pre_start=_handlers(app, "pre-start"),
        post_stop=_handlers(app, "post-stop"),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        terminal=streams.terminal,
    )


def _stream_modes(runtime: RuntimeApp, streams: Streams) -> tuple[ReadMode, WriteMode, WriteMode]:
    """Those of the pod's one terminal, or what the app's annotations say."""
    if streams.mode != "log":
        return streams.mode, streams.mode, streams.mode
    asked = {item.name: item.value for item in runtime.annotations}
    modes: list[WriteMode] = []
    for stream in ("stdin", "stdout", "stderr"):
        mode = asked.get(STREAM_ANNOTATION + stream)
        if mode in ("stream", "tty"):
            raise PodError(
                f'app "{runtime.name}" cannot be run with --{stream}={mode}: '
                "this version of kvmrkt cannot attach to an app yet",
                hint="use log or null, or --interactive",
            )
        modes.append("null" if mode == "null" else "log")
    return "null", modes[1], modes[2]


def _environment(name: str, app: App) -> tuple[str, ...]:
    own = tuple(f"{variable.name}={variable.value}" for variable in app.environment)
    return (*own, f"AC_APP_NAME={name}", "container=kvmrkt")


def _mounts(runtime: RuntimeApp, app: App, volumes: dict[str, Volume]) -> tuple[AppMount, ...]:
    """A mount is read-only if its volume is, or the mount point of its path or volume's name."""
    points = [point for point in app.mount_points if point.read_only]
    names, paths = {point.name for point in points}, {clean(point.path) for point in points}
    return tuple(
        AppMount(
            mount.volume,
            mount.path,
            volumes[mount.volume].read_only or mount.volume in names or mount.path in paths,
        )
        for mount in runtime.mounts
    )


def _handlers(app: App, name: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(handler.exec) for handler in app.event_handlers if handler.name == name)
