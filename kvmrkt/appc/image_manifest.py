"""The image manifest: its shape, and the rules beyond its shape (appc/spec, aci.md).

What rkt let pass passes: `exec` may be empty (then the command line must give one) or start with
a name that is searched in PATH, `null` stands for an absent field, and unknown fields are kept.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from kvmrkt.appc import types
from kvmrkt.appc.decode import decode, field_tree, merge_unknown
from kvmrkt.errors import ManifestError

EVENT_NAMES = ("pre-start", "post-stop")
MAX_PORT = 65535
_MAX_GID = 2**32 - 2
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")

_ARCHES = {
    "linux": (
        "amd64", "i386", "aarch64", "aarch64_be", "armv6l", "armv7l", "armv7b", "ppc64", "ppc64le",
        "s390x",
    ),
    "freebsd": ("amd64", "i386", "arm"),
    "darwin": ("x86_64", "i386"),
}  # fmt: skip
_MACHINES = {"x86_64": "amd64", "i686": "i386"}


class Struct(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Base of all parts of a manifest."""


class Label(Struct, frozen=True):
    """One label of an image."""

    name: str
    value: str


class Annotation(Struct, frozen=True):
    """A named remark."""

    name: str
    value: str


class EnvironmentVariable(Struct, frozen=True):
    """One variable of an app's environment."""

    name: str
    value: str


class Isolator(Struct, frozen=True):
    """An isolation step; `value` is whatever JSON the isolator's name asks for."""

    name: str
    value: Any


class EventHandler(Struct, frozen=True):
    """A command to run before the app starts or after it stopped."""

    name: str
    exec: list[str]


class MountPoint(Struct, frozen=True):
    """A place where the app expects a volume."""

    name: str
    path: str
    read_only: bool = False


class Port(Struct, frozen=True):
    """A port, or a range of `count` ports, the app listens on."""

    name: str
    protocol: str
    port: int
    count: int = 1
    socket_activated: bool = False


class App(Struct, frozen=True):
    """How to execute an image."""

    user: str
    group: str
    exec: list[str] = []
    supplementary_gids: list[int] = msgspec.field(default_factory=list, name="supplementaryGIDs")
    event_handlers: list[EventHandler] = []
    working_directory: str = ""
    environment: list[EnvironmentVariable] = []
    isolators: list[Isolator] = []
    mount_points: list[MountPoint] = []
    ports: list[Port] = []
    user_annotations: dict[str, str] = {}
    user_labels: dict[str, str] = {}


class Dependency(Struct, frozen=True):
    """An image whose files lie below this one's."""

    image_name: str
    image_id: str | None = msgspec.field(default=None, name="imageID")
    labels: list[Label] = []
    size: int | None = None


class ImageManifest(Struct, frozen=True):
    """The manifest of an App Container image."""

    ac_kind: str
    ac_version: str
    name: str
    labels: list[Label] = []
    app: App | None = None
    dependencies: list[Dependency] = []
    path_whitelist: list[str] = []
    annotations: list[Annotation] = []
    original: Any = msgspec.field(default=None, name="//original")
    """The bytes it was parsed from: what `encode` takes unknown fields from."""

    def label(self, name: str) -> str | None:
        """The value of a label, or None."""
        return next((label.value for label in self.labels if label.name == name), None)

    def annotation(self, name: str) -> str | None:
        """The value of an annotation, or None."""
        return next((item.value for item in self.annotations if item.name == name), None)


_DECODER = msgspec.json.Decoder(ImageManifest)


def parse_image_manifest(data: bytes) -> ImageManifest:
    """Parse and check; raises ManifestError whose message begins with the faulty field's path."""
    manifest = decode(data, _DECODER, "image manifest")
    _check(manifest)
    msgspec.structs.force_setattr(manifest, "original", data)
    return manifest


def encode(manifest: ImageManifest) -> bytes:
    """The manifest as JSON, with the unknown fields of what it was parsed from."""
    known = msgspec.to_builtins(msgspec.structs.replace(manifest, original=None))
    if not isinstance(manifest.original, bytes):
        return msgspec.json.encode(known)
    original = msgspec.json.decode(manifest.original)
    return msgspec.json.encode(merge_unknown(original, known, field_tree(ImageManifest)))


def check_platform(manifest: ImageManifest, *, machine: str | None = None) -> None:
    """Raise ManifestError, in rkt's words, unless the image is for this host's OS and machine.

    `machine` is the kernel's name of the architecture; the default is the host's.
    """
    if machine is None:
        import os

        machine = os.uname().machine
    os_label, arch = manifest.label("os"), manifest.label("arch")
    prefix = f'image "{manifest.name}" cannot run here'
    if os_label is None:
        raise ManifestError(f"{prefix}: missing os label in the image manifest")
    if arch is None:
        raise ManifestError(f"{prefix}: missing arch label in the image manifest")
    if os_label != "linux":
        raise ManifestError(f'{prefix}: bad os "{os_label}" (must be one of: [linux])')
    wanted = _MACHINES.get(machine, machine)
    if arch != wanted:
        raise ManifestError(
            f'{prefix}: bad arch "{arch}" for linux (must be one of: [{wanted}])',
            hint=f"fetch or build the image for arch={wanted}",
        )


def check_app(app: App, field: str = "app") -> None:
    """The rules for an `app` object, in an image manifest or a pod manifest."""
    check_exec(app.exec, f"{field}.exec")
    for name, text in (("user", app.user), ("group", app.group)):
        if not text:
            raise ManifestError(f"{field}.{name}: must not be empty")
        check_text(text, f"{field}.{name}")
    for index, gid in enumerate(app.supplementary_gids):
        if not 0 <= gid <= _MAX_GID:
            raise ManifestError(f"{field}.supplementaryGIDs[{index}]: {gid} is not a group ID")
    _check_event_handlers(app.event_handlers, f"{field}.eventHandlers")
    if app.working_directory:
        check_path(app.working_directory, f"{field}.workingDirectory")
    _check_environment(app.environment, f"{field}.environment")
    for index, isolator in enumerate(app.isolators):
        types.parse_ac_identifier(isolator.name, f"{field}.isolators[{index}].name")
    for index, point in enumerate(app.mount_points):
        types.parse_ac_name(point.name, f"{field}.mountPoints[{index}].name")
        check_path(point.path, f"{field}.mountPoints[{index}].path")
    check_unique([item.name for item in app.mount_points], f"{field}.mountPoints", "name")
    _check_ports(app.ports, f"{field}.ports")


def _check_event_handlers(handlers: list[EventHandler], field: str) -> None:
    for index, handler in enumerate(handlers):
        at = f"{field}[{index}]"
        if handler.name not in EVENT_NAMES:
            raise ManifestError(
                f"{at}.name: {handler.name!r} is not one of {', '.join(EVENT_NAMES)}"
            )
        check_exec(handler.exec, f"{at}.exec")
        if not handler.exec:
            raise ManifestError(f"{at}.exec: must not be empty")
    check_unique([item.name for item in handlers], field, "name")


def is_environment_name(text: str) -> bool:
    """Whether an app can have a variable of that name."""
    return _ENVIRONMENT_NAME.fullmatch(text) is not None


def _check_environment(variables: list[EnvironmentVariable], field: str) -> None:
    for index, variable in enumerate(variables):
        at = f"{field}[{index}]"
        if not is_environment_name(variable.name):
            raise ManifestError(f"{at}.name: {variable.name!r} is not a variable's name")
        check_text(variable.value, f"{at}.value")
    check_unique([item.name for item in variables], field, "name")


def _check_ports(ports: list[Port], field: str) -> None:
    for index, port in enumerate(ports):
        at = f"{field}[{index}]"
        types.parse_ac_name(port.name, f"{at}.name")
        if not port.protocol:
            raise ManifestError(f"{at}.protocol: must not be empty")
        if not 1 <= port.port <= MAX_PORT:
            raise ManifestError(f"{at}.port: {port.port} is not between 1 and {MAX_PORT}")
        if not 1 <= port.count <= MAX_PORT + 1 - port.port:
            raise ManifestError(f"{at}.count: {port.count} ports from {port.port} on do not exist")
    check_unique([item.name for item in ports], field, "name")


def _check(manifest: ImageManifest) -> None:
    if manifest.ac_kind != "ImageManifest":
        raise ManifestError(f"acKind: {manifest.ac_kind!r} is not 'ImageManifest'")
    types.parse_ac_version(manifest.ac_version, "acVersion")
    types.parse_ac_identifier(manifest.name, "name")
    check_labels(manifest.labels, "labels")
    if manifest.app is not None:
        check_app(manifest.app)
    for index, dependency in enumerate(manifest.dependencies):
        at = f"dependencies[{index}]"
        types.parse_ac_identifier(dependency.image_name, f"{at}.imageName")
        if dependency.image_id:
            types.parse_image_id(dependency.image_id, f"{at}.imageID")
        check_labels(dependency.labels, f"{at}.labels")
        if dependency.size is not None and dependency.size < 0:
            raise ManifestError(f"{at}.size: {dependency.size} is negative")
    for index, path in enumerate(manifest.path_whitelist):
        check_path(path, f"pathWhitelist[{index}]")
    check_annotations(manifest.annotations, "annotations")


def check_labels(labels: list[Label], field: str) -> None:
    """Names are AC Identifiers, unique, not "name"; os and arch are a known pair."""
    for index, label in enumerate(labels):
        at = f"{field}[{index}]"
        types.parse_ac_identifier(label.name, f"{at}.name")
        if label.name == "name":
            raise ManifestError(f'{at}.name: invalid label name: "name"')
        check_text(label.value, f"{at}.value")
    check_unique([label.name for label in labels], field, "name")
    values = {label.name: index for index, label in enumerate(labels)}
    if "os" not in values:
        return
    system = labels[values["os"]].value
    if system not in _ARCHES:
        raise ManifestError(
            f'{field}[{values["os"]}].value: bad os "{system}"'
            f" (must be one of: [{' '.join(sorted(_ARCHES))}])"
        )
    if "arch" in values and (arch := labels[values["arch"]].value) not in _ARCHES[system]:
        raise ManifestError(
            f'{field}[{values["arch"]}].value: bad arch "{arch}" for {system}'
            f" (must be one of: [{' '.join(_ARCHES[system])}])"
        )


def check_annotations(annotations: list[Annotation], field: str) -> None:
    """Names are AC Identifiers and unique."""
    for index, item in enumerate(annotations):
        types.parse_ac_identifier(item.name, f"{field}[{index}].name")
    check_unique([item.name for item in annotations], field, "name")


def check_exec(argv: list[str], field: str) -> None:
    """The first word is not empty; no word holds a NUL, which execve(2) could not pass."""
    for index, word in enumerate(argv):
        check_text(word, f"{field}[{index}]")
    if argv and not argv[0]:
        raise ManifestError(f"{field}[0]: must not be empty")


def check_text(text: str, field: str) -> None:
    """No NUL: such a text cannot be an argument, a variable or a path."""
    if "\0" in text:
        raise ManifestError(f"{field}: holds a NUL character")


def check_path(path: str, field: str) -> None:
    """An absolute path that stays where it says."""
    if not path.startswith("/"):
        raise ManifestError(f"{field}: {path!r} is not an absolute path")
    if ".." in path.split("/"):
        raise ManifestError(f"{field}: {path!r} has a .. in it")
    check_text(path, field)


def check_unique(names: list[str], field: str, key: str) -> None:
    """No name twice in a list."""
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise ManifestError(f"{field}[{index}].{key}: {name!r} is there twice")
        seen.add(name)
