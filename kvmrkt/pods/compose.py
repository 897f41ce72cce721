"""From a request and its images to the pod manifest: rkt's rules of precedence, as pure data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvmrkt.appc import isolators, types
from kvmrkt.appc.image_manifest import (
    App,
    EnvironmentVariable,
    ImageManifest,
    Isolator,
    check_app,
)
from kvmrkt.appc.pod_manifest import Mount, PodManifest, RuntimeApp, RuntimeImage, Volume
from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kvmrkt.pods.request import AppRequest, PodRequest

MIN_MEMORY_BYTES = 4096
"""Less is refused, as by rkt: it catches `16m`, which is 16 thousandths of a byte."""


class ImageFacts(msgspec.Struct, frozen=True):
    """An image, as far as a pod manifest needs it."""

    id: str
    manifest: ImageManifest


class Composition(msgspec.Struct, frozen=True):
    """A pod manifest, and what the user should be told about how it came to be."""

    manifest: PodManifest
    warnings: tuple[str, ...]


def compose(request: PodRequest, images: Sequence[ImageFacts]) -> Composition:
    """Build the manifest; `images` match `request.apps` one by one. Raises UsageError."""
    warnings: list[str] = []
    volumes = {volume.name: volume for volume in request.volumes}
    if len(volumes) < len(request.volumes):
        raise UsageError("a volume is given twice: names of volumes must be unique")
    check_mounts(request, volumes)
    apps: list[RuntimeApp] = []
    for app, image in zip(request.apps, images, strict=True):
        runtime = _runtime_app(app, image, request)
        mounts = _mounts(runtime, app, request, volumes, warnings)
        apps.append(msgspec.structs.replace(runtime, mounts=mounts))
        for name in isolators.ignored(runtime.app) if runtime.app else ():
            warnings.append(f'app "{runtime.name}": the isolator {name} is not applied')
    for name in _doubled(app.name for app in apps):
        raise UsageError(
            f"error: multiple apps with name {name}", hint="give each its own with --name"
        )
    return Composition(PodManifest(apps=apps, volumes=list(volumes.values())), tuple(warnings))


def check_mounts(request: PodRequest, volumes: dict[str, Volume]) -> None:
    """Every mount asked for must name a volume of the pod."""
    asked = [*request.mounts, *(mount for app in request.apps for mount in app.mounts)]
    for mount in asked:
        if mount.volume not in volumes:
            raise UsageError(
                f'dangling mount point "{mount.path}": volume "{mount.volume}" not found',
                hint=f"add --volume {mount.volume},kind=host,source=FOLDER",
            )


def _runtime_app(request: AppRequest, image: ImageFacts, pod: PodRequest) -> RuntimeApp:
    manifest = image.manifest
    if request.name is not None:
        if not types.is_ac_name(request.name):
            raise UsageError(f'invalid app name "{request.name}": use letters, digits and -')
        name = request.name
    else:
        name = types.sanitize_ac_name(manifest.name.rpartition("/")[2])
    app = manifest.app
    if app is None:
        if request.exec is None:
            raise UsageError(
                f'image "{manifest.name}" has an empty app section and no --exec argument is '
                "provided"
            )
        app = App(user="0", group="0")
    argv = [request.exec] if request.exec is not None else app.exec
    if not argv:
        raise UsageError(f'image "{manifest.name}" says no command to run', hint="give --exec")
    app = msgspec.structs.replace(
        app,
        exec=[*argv, *request.arguments],
        user=request.user or app.user,
        group=request.group or app.group,
        working_directory=request.working_directory or app.working_directory,
        environment=_environment(app, pod.environment, request.environment),
        isolators=_isolators(app, request),
    )
    check_app(app, f'app "{name}"')
    return RuntimeApp(
        name=name,
        image=RuntimeImage(id=image.id, name=manifest.name, labels=manifest.labels),
        app=app,
        read_only_root_fs=request.read_only_root,
    )


def _environment(
    app: App, pod: Iterable[tuple[str, str]], own: Iterable[tuple[str, str]]
) -> list[EnvironmentVariable]:
    values = {variable.name: variable.value for variable in app.environment}
    values.update(pod)
    values.update(own)
    return [EnvironmentVariable(name, value) for name, value in values.items()]


def _isolators(app: App, request: AppRequest) -> list[Isolator]:
    kept = list(app.isolators)
    for name, quantity in ((isolators.MEMORY, request.memory), (isolators.CPU, request.cpu)):
        if quantity is None:
            continue
        if name == isolators.MEMORY and isolators.parse_bytes(quantity) < MIN_MEMORY_BYTES:
            raise UsageError(
                f"memory limit of {quantity} is less than {MIN_MEMORY_BYTES} bytes",
                hint="M is a million bytes, Mi is 1048576; m is a thousandth",
            )
        if name == isolators.CPU and isolators.parse_cpu_millis(quantity) < 1:
            raise UsageError(f"CPU limit of {quantity} is too small")
        kept = [isolator for isolator in kept if isolator.name != name]
        kept.append(Isolator(name, {"request": quantity, "limit": quantity}))
    return kept


def _mounts(
    runtime: RuntimeApp,
    request: AppRequest,
    pod: PodRequest,
    volumes: dict[str, Volume],
    warnings: list[str],
) -> list[Mount]:
    """The app's own mounts win over the pod's; then the image's mount points find their volumes."""
    chosen: dict[str, str] = {mount.path: mount.volume for mount in pod.mounts}
    chosen.update((mount.path, mount.volume) for mount in request.mounts)
    points = runtime.app.mount_points if runtime.app else []
    for point in points:
        if point.path in chosen:
            continue
        if point.name not in volumes:
            name = f"{runtime.name}-{point.name}"
            warnings.append(
                f'no volume specified for mount point "{point.name}", implicitly creating an '
                f'"empty" volume with name "{name}" that will be deleted with the pod'
            )
            volumes[name] = Volume(name=name, kind="empty", mode="0755", uid=0, gid=0)
            chosen[point.path] = name
        else:
            chosen[point.path] = point.name
    # an outer mount before the ones inside it
    return [Mount(volume, path) for path, volume in sorted(chosen.items())]


def _doubled(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    doubled = []
    for name in names:
        if name in seen:
            doubled.append(name)
        seen.add(name)
    return doubled
