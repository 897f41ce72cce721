"""From an image's configuration to the App Container manifest rkt's users know (docker2aci)."""

from __future__ import annotations

import posixpath
import re

import msgspec

from kvmrkt.appc.image_manifest import (
    Annotation,
    App,
    EnvironmentVariable,
    ImageManifest,
    Label,
    MountPoint,
    Port,
    encode,
    parse_image_manifest,
)
from kvmrkt.appc.types import APPC_VERSION
from kvmrkt.errors import ManifestError
from kvmrkt.images.docker.manifests import ContainerConfig, ImageConfig, Platform
from kvmrkt.images.docker.platforms import appc_labels

_ANNOTATION = "appc.io/docker/"
_ROOT = "0"


class Origin(msgspec.Struct, frozen=True):
    """Where an image came from; empty where that is not known or makes no sense."""

    repository: str
    registry: str = ""
    tag: str = ""
    original_name: str = ""
    """What a person called it."""
    image_id: str = ""
    """The digest of the top layer: rkt's users find it in `appc.io/docker/imageid`."""
    manifest_digest: str = ""


def convert(config: ImageConfig, origin: Origin) -> bytes:
    """The App Container image manifest.

    Raises ManifestError, whose message begins with the path of the faulty field, for a
    configuration that makes no good one.
    """
    os_label, arch = appc_labels(Platform(config.architecture, config.os, config.variant))
    labels = {"arch": arch, "os": os_label, "version": origin.tag}
    container = config.config
    manifest = ImageManifest(
        ac_kind="ImageManifest",
        ac_version=APPC_VERSION,
        name=image_name(origin),
        labels=[Label(name, value) for name, value in sorted(labels.items()) if value],
        app=None if container is None else _app(container),
        annotations=_annotations(config, origin),
    )
    data = encode(manifest)
    parse_image_manifest(data)
    return data


def image_name(origin: Origin) -> str:
    """The image's name: registry and repository, as an App Container identifier."""
    name = f"{origin.registry}/{origin.repository}".lower()
    name = re.sub(r"[^a-z0-9._~/-]", "_", name)
    name = re.sub(r"([-._~/])[-._~/]+", r"\1", name).strip("-._~/")
    if not name:
        raise ManifestError(f"name: {origin.repository!r} has no letter or digit in it")
    return name


def _app(container: ContainerConfig) -> App:
    user, group = _user(container.user)
    return App(
        user=user,
        group=group,
        exec=_words(container.entrypoint) + _words(container.cmd),
        working_directory=_clean_path(container.working_dir),
        environment=_environment(container.env),
        mount_points=_mount_points(sorted(container.volumes)),
        ports=_ports(sorted(container.exposed_ports)),
        user_labels=container.labels,
    )


def _annotations(config: ImageConfig, origin: Origin) -> list[Annotation]:
    container = config.config or ContainerConfig()
    values = {
        "author": config.author,
        "created": config.created,
        f"{_ANNOTATION}originalname": origin.original_name,
        f"{_ANNOTATION}registryurl": origin.registry,
        f"{_ANNOTATION}repository": origin.repository,
        f"{_ANNOTATION}tag": origin.tag,
        f"{_ANNOTATION}imageid": origin.image_id,
        f"{_ANNOTATION}manifesthash": origin.manifest_digest,
        f"{_ANNOTATION}entrypoint": _json(_words(container.entrypoint)),
        f"{_ANNOTATION}cmd": _json(_words(container.cmd)),
    }
    return [Annotation(name, value) for name, value in values.items() if value]


def _words(command: list[str] | str) -> list[str]:
    """Docker takes a lone text for a command of one word."""
    return [command] if isinstance(command, str) else command


def _json(words: list[str]) -> str:
    return msgspec.json.encode(words).decode() if words else ""


def _user(text: str) -> tuple[str, str]:
    """User and group; without a group, the group named like the user, as in rkt."""
    user, _, group = text.partition(":")
    if ":" in group:
        raise ManifestError(f"config.User: {text[:80]!r} is not USER or USER:GROUP")
    user = user or _ROOT
    return user, group or user


def _environment(entries: list[str]) -> list[EnvironmentVariable]:
    """A later setting of a variable replaces an earlier one; what sets nothing is dropped."""
    values = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    return [EnvironmentVariable(name, value) for name, value in values.items()]


def _ports(specs: list[str]) -> list[Port]:
    ports: dict[str, Port] = {}
    for spec in specs:
        number, _, protocol = spec.partition("/")
        if not (number.isascii() and number.isdigit() and len(number) < 6):
            raise ManifestError(f"config.ExposedPorts: {spec[:80]!r} is not a port like 80/tcp")
        name = _ac_name(spec, "config.ExposedPorts")
        ports.setdefault(name, Port(name, protocol.lower() or "tcp", int(number)))
    return sorted(ports.values(), key=lambda port: port.name)


def _mount_points(paths: list[str]) -> list[MountPoint]:
    points: list[MountPoint] = []
    taken: set[str] = set()
    seen: set[str] = set()
    for path in map(_clean_path, paths):
        if path in seen:
            continue
        seen.add(path)
        base = name = _ac_name(f"volume/{path}", "config.Volumes")
        number = 0
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        points.append(MountPoint(name, path))
    return sorted(points, key=lambda point: point.name)


def _clean_path(path: str) -> str:
    """The path without detours; a relative one stays, for the manifest's rules to refuse."""
    if not path.startswith("/"):
        return path
    return "/" + posixpath.normpath(path).lstrip("/")


def _ac_name(text: str, field: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name:
        raise ManifestError(f"{field}: {text[:80]!r} has no letter or digit in it")
    return name
