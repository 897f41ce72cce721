"""From a request and its images to the pod manifest: rkt's rules of precedence, as pure data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvmrkt.appc import isolators, types
from kvmrkt.appc.image_manifest import (
    Annotation,
    App,
    EnvironmentVariable,
    ImageManifest,
    check_app,
)
from kvmrkt.appc.pod_manifest import (
    STREAM_ANNOTATION,
    Mount,
    PodManifest,
    RuntimeApp,
    RuntimeImage,
    check,
)
from kvmrkt.appc.sysctl import SYSCTL
from kvmrkt.errors import UsageError
from kvmrkt.pods.app_isolators import app_isolators
from kvmrkt.pods.mounts import INITIALIZED_ANNOTATION, VolumePlan, dangling
from kvmrkt.pods.ports import check_ports

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kvmrkt.pods.request import AppRequest, PodRequest

_MUTABLE_ANNOTATION = "coreos.com/rkt/stage1/mutable"


class ImageFacts(msgspec.Struct, frozen=True):
    """An image, as far as a pod manifest needs it."""

    id: str
    manifest: ImageManifest


class Composition(msgspec.Struct, frozen=True):
    """A pod manifest, and what the user should be told about how it came to be."""

    manifest: PodManifest
    warnings: tuple[str, ...]


def compose(request: PodRequest, images: Sequence[ImageFacts]) -> Composition:
    """Build the manifest; `images` match the request's apps, or its manifest's, one by one.

    Raises UsageError, and ManifestError for what no manifest can say.
    """
    if request.manifest is not None:
        given = request.manifest
        apps = [_given_app(app, image) for app, image in zip(given.apps, images, strict=True)]
    else:
        check_mounts(request)
        given = PodManifest(
            volumes=list(request.volumes),
            ports=list(request.ports),
            annotations=[Annotation(_MUTABLE_ANNOTATION, "false")],
        )
        apps = [
            _runtime_app(app, image, request)
            for app, image in zip(request.apps, images, strict=True)
        ]
    return _complete(given, apps, images)


def check_mounts(request: PodRequest) -> None:
    """Every mount asked for must name a volume of the pod, also before any image is fetched."""
    volumes = {volume.name for volume in request.volumes}
    for mount in (*request.mounts, *(mount for app in request.apps for mount in app.mounts)):
        if mount.volume not in volumes:
            raise dangling(mount.path, mount.volume)


def _complete(
    given: PodManifest, apps: list[RuntimeApp], images: Sequence[ImageFacts]
) -> Composition:
    for name in _doubled(app.name for app in apps):
        raise UsageError(
            f"error: multiple apps with name {name}", hint="give each its own with --name"
        )
    plan = VolumePlan(given)
    apps = [
        msgspec.structs.replace(app, mounts=plan.matched(app, image.manifest))
        for app, image in zip(apps, images, strict=True)
    ]
    check_ports(given.ports, apps)
    annotations = [item for item in given.annotations if item.name != INITIALIZED_ANNOTATION]
    if plan.initialized:
        annotations.append(Annotation(INITIALIZED_ANNOTATION, ",".join(plan.initialized)))
    manifest = msgspec.structs.replace(
        given, apps=apps, volumes=list(plan.volumes.values()), annotations=annotations
    )
    check(manifest)
    ignored = [
        f'app "{app.name}": the isolator {name} is not applied'
        for app in apps
        for name in (isolators.ignored(app.app) if app.app else ())
    ]
    ignored += [
        f"the pod's isolator {item.name} is not applied"
        for item in given.isolators
        if item.name != SYSCTL
    ]
    return Composition(manifest, (*plan.warnings, *ignored))


def _given_app(app: RuntimeApp, image: ImageFacts) -> RuntimeApp:
    """An app of a whole manifest; what it does not say of how to run, its image says."""
    own = app.app or image.manifest.app
    if own is None:
        raise UsageError(
            f'app "{app.name}": no app section in the pod manifest or the image manifest'
        )
    if not own.exec:
        raise UsageError(f'app "{app.name}": neither manifest says a command to run')
    return msgspec.structs.replace(
        app, app=own, image=msgspec.structs.replace(app.image, id=image.id)
    )


def _runtime_app(request: AppRequest, image: ImageFacts, pod: PodRequest) -> RuntimeApp:
    manifest = image.manifest
    name = _app_name(request, manifest)
    app = _changed(_own_app(request, manifest), request)
    app = msgspec.structs.replace(
        app, environment=_environment(app, pod, request), isolators=app_isolators(app, request)
    )
    check_app(app, f'app "{name}"')
    return RuntimeApp(
        name=name,
        image=RuntimeImage(id=image.id, name=manifest.name, labels=manifest.labels),
        app=app,
        read_only_root_fs=request.read_only_root,
        mounts=[Mount(mount.volume, mount.path) for mount in (*request.mounts, *pod.mounts)],
        annotations=_annotations(request),
    )


def _app_name(request: AppRequest, manifest: ImageManifest) -> str:
    if request.name is None:
        return types.sanitize_ac_name(manifest.name.rpartition("/")[2])
    if not types.is_ac_name(request.name):
        raise UsageError(f'invalid app name "{request.name}": use letters, digits and -')
    return request.name


def _own_app(request: AppRequest, manifest: ImageManifest) -> App:
    """How the image says to run it, or nearly nothing if --exec says the rest."""
    if manifest.app is not None:
        return manifest.app
    if request.exec is None:
        raise UsageError(
            f'image "{manifest.name}" has an empty app section and no --exec argument is provided'
        )
    return App(user="0", group="0")


def _changed(app: App, request: AppRequest) -> App:
    """What stands in the request in place of what stands in the image."""
    argv = [request.exec] if request.exec is not None else app.exec
    if not argv:
        raise UsageError(f'image "{request.image}" says no command to run', hint="give --exec")
    asked = {
        "user": request.user or None,
        "group": request.group or None,
        "working_directory": request.working_directory or None,
        "supplementary_gids": _maybe(list, request.supplementary_gids),
        "user_annotations": _maybe(dict, request.user_annotations),
        "user_labels": _maybe(dict, request.user_labels),
    }
    given = {field: value for field, value in asked.items() if value is not None}
    return msgspec.structs.replace(app, exec=[*argv, *request.arguments], **given)


def _maybe(convert: type, value: object) -> object:
    return None if value is None else convert(value)


def _environment(app: App, pod: PodRequest, request: AppRequest) -> list[EnvironmentVariable]:
    """From the lowest to the highest: the host's, the image's, the pod's, the app's."""
    values = dict(pod.inherited_environment)
    values.update((variable.name, variable.value) for variable in app.environment)
    values.update(pod.environment)
    values.update(request.environment)
    return [EnvironmentVariable(name, value) for name, value in values.items()]


def _annotations(request: AppRequest) -> list[Annotation]:
    values = dict(request.annotations)
    for stream in ("stdin", "stdout", "stderr"):
        mode = getattr(request, stream)
        if mode is not None:
            values[STREAM_ANNOTATION + stream] = mode
    return [Annotation(name, value) for name, value in values.items()]


def _doubled(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    doubled = []
    for name in names:
        if name in seen:
            doubled.append(name)
        seen.add(name)
    return doubled
