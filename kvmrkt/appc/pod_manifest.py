"""The pod manifest: what rkt stores as `pod` in a pod's directory (appc/spec, pods.md)."""

from __future__ import annotations

from typing import Any

import msgspec

from kvmrkt.appc import types
from kvmrkt.appc.decode import decode, field_tree, merge_unknown
from kvmrkt.appc.image_manifest import (
    MAX_PORT,
    Annotation,
    App,
    Isolator,
    Label,
    Port,
    Struct,
    check_annotations,
    check_app,
    check_labels,
    check_path,
    check_unique,
)
from kvmrkt.errors import ManifestError

VOLUME_KINDS = ("host", "empty")
STREAM_ANNOTATION = "coreos.com/rkt/stage2/"
"""With `stdin`, `stdout` or `stderr` after it: where that stream of an app goes, in rkt's words."""


class RuntimeImage(Struct, frozen=True):
    """The image an app runs in."""

    id: str
    name: str | None = None
    labels: list[Label] = []


class Mount(Struct, frozen=True):
    """A volume of the pod at a path in an app.

    `app_volume` is a volume that only this app has; it overrides `volume`.
    """

    volume: str
    path: str
    app_volume: Volume | None = None


class Volume(Struct, frozen=True):
    """A folder apps of the pod can mount: one of the host's, or an empty one that dies with it.

    `mode` is octal text; with `uid` and `gid` it says how to make an empty volume. `recursive`
    is None where the manifest does not say.
    """

    name: str
    kind: str
    source: str | None = None
    read_only: bool = False
    recursive: bool | None = None
    mode: str | None = None
    uid: int | None = None
    gid: int | None = None


class RuntimeApp(Struct, frozen=True):
    """One app of a pod; `app` replaces the image's own where it is given."""

    name: str
    image: RuntimeImage
    app: App | None = None
    read_only_root_fs: bool = msgspec.field(default=False, name="readOnlyRootFS")
    mounts: list[Mount] = []
    annotations: list[Annotation] = []


class ExposedPort(Struct, frozen=True):
    """A port of an app, by name, on a port of the host."""

    name: str
    host_port: int
    host_ip: str | None = msgspec.field(default=None, name="hostIP")
    pod_port: Port | None = None


class PodManifest(Struct, frozen=True):
    """The manifest of a pod."""

    ac_version: str = types.APPC_VERSION
    ac_kind: str = "PodManifest"
    apps: list[RuntimeApp] = []
    volumes: list[Volume] = []
    isolators: list[Isolator] = []
    annotations: list[Annotation] = []
    ports: list[ExposedPort] = []
    user_annotations: dict[str, str] = {}
    user_labels: dict[str, str] = {}
    original: Any = msgspec.field(default=None, name="//original")
    """The bytes it was parsed from: what `encode` takes unknown fields from."""

    def annotation(self, name: str) -> str | None:
        """The value of an annotation, or None."""
        return next((item.value for item in self.annotations if item.name == name), None)

    def app_named(self, name: str) -> RuntimeApp | None:
        """The app of that name, or None."""
        return next((app for app in self.apps if app.name == name), None)


def parse_pod_manifest(data: bytes) -> PodManifest:
    """Parse and check; raises ManifestError whose message begins with the faulty field's path."""
    manifest = decode(data, msgspec.json.Decoder(PodManifest), "pod manifest")
    check(manifest)
    msgspec.structs.force_setattr(manifest, "original", data)
    return manifest


def encode(manifest: PodManifest) -> bytes:
    """The manifest as JSON, with the unknown fields of what it was parsed from."""
    known = msgspec.to_builtins(msgspec.structs.replace(manifest, original=None))
    known = {"acVersion": manifest.ac_version, "acKind": manifest.ac_kind, "apps": []} | known
    if not isinstance(manifest.original, bytes):
        return msgspec.json.encode(known)
    original = msgspec.json.decode(manifest.original)
    return msgspec.json.encode(merge_unknown(original, known, field_tree(PodManifest)))


def check(manifest: PodManifest) -> None:
    """The rules beyond the shape; raises ManifestError, also when a mount names no volume."""
    if manifest.ac_kind != "PodManifest":
        raise ManifestError(f"acKind: {manifest.ac_kind!r} is not 'PodManifest'")
    types.parse_version(manifest.ac_version, "acVersion")  # rkt wrote its own, like 1.30.0
    for index, volume in enumerate(manifest.volumes):
        check_volume(volume, f"volumes[{index}]")
    check_unique([volume.name for volume in manifest.volumes], "volumes", "name")
    volumes = {volume.name for volume in manifest.volumes}
    for index, app in enumerate(manifest.apps):
        _check_runtime_app(app, f"apps[{index}]", volumes)
    check_unique([app.name for app in manifest.apps], "apps", "name")
    for index, isolator in enumerate(manifest.isolators):
        types.parse_ac_identifier(isolator.name, f"isolators[{index}].name")
    check_annotations(manifest.annotations, "annotations")
    for index, port in enumerate(manifest.ports):
        types.parse_ac_name(port.name, f"ports[{index}].name")
        if not 1 <= port.host_port <= MAX_PORT:
            raise ManifestError(
                f"ports[{index}].hostPort: {port.host_port} is not between 1 and {MAX_PORT}"
            )


def check_volume(volume: Volume, field: str) -> None:
    """The rules for one volume; `field` is its path in the document."""
    types.parse_ac_name(volume.name, f"{field}.name")
    if volume.kind not in VOLUME_KINDS:
        raise ManifestError(f"{field}.kind: {volume.kind!r} is not one of: host, empty")
    if volume.kind == "empty":
        if volume.source:
            raise ManifestError(f"{field}.source: an empty volume has no source")
    elif not volume.source:
        raise ManifestError(f"{field}.source: is required for a host volume, but missing")
    else:
        check_path(volume.source, f"{field}.source")
    if volume.mode is not None and not _is_mode(volume.mode):
        raise ManifestError(f"{field}.mode: {volume.mode!r} is not an octal mode (like 0755)")
    for name, number in (("uid", volume.uid), ("gid", volume.gid)):
        if number is not None and not 0 <= number < 2**32 - 1:
            raise ManifestError(f"{field}.{name}: {number} is not an ID")


def _check_runtime_app(app: RuntimeApp, field: str, volumes: set[str]) -> None:
    types.parse_ac_name(app.name, f"{field}.name")
    types.parse_image_id(app.image.id, f"{field}.image.id")
    if app.image.name is not None:
        types.parse_ac_identifier(app.image.name, f"{field}.image.name")
    check_labels(app.image.labels, f"{field}.image.labels")
    if app.app is not None:
        check_app(app.app, f"{field}.app")
    for index, mount in enumerate(app.mounts):
        at = f"{field}.mounts[{index}]"
        check_path(mount.path, f"{at}.path")
        if mount.app_volume is not None:
            check_volume(mount.app_volume, f"{at}.appVolume")
        elif mount.volume not in volumes:
            raise ManifestError(f"{at}.volume: there is no volume {mount.volume!r}")
    check_annotations(app.annotations, f"{field}.annotations")


def _is_mode(text: str) -> bool:
    return text != "" and len(text) <= 5 and all(digit in "01234567" for digit in text)
