"""The documents that describe an image: indexes, manifests and configurations, Docker's and OCI's.

Only parsing and rules, no I/O. What a document is follows from its fields; a media type, where one
is given, must agree, so that nobody else can read the same bytes as another kind of document.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from kvmrkt.appc.decode import MAX_MANIFEST_BYTES, decode
from kvmrkt.errors import ImageError, ManifestError

MAX_DOCUMENT_BYTES = MAX_MANIFEST_BYTES
MAX_LAYERS = 1000
_MAX_IN_INDEX = 10_000

DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ACCEPTED = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
"""The media types of documents `parse_document` reads."""

_INDEX_TYPES = frozenset((DOCKER_LIST, OCI_INDEX))
_MANIFEST_TYPES = frozenset((DOCKER_MANIFEST, OCI_MANIFEST))
_SCHEMA1 = re.compile(r"application/vnd\.docker\.distribution\.manifest\.v1\+(json|prettyjws)")
_CONFIG_TYPES = frozenset(
    (
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "application/octet-stream",  # Docker 1.10 pushed configurations so
        "",
    )
)
_LAYER = re.compile(
    r"application/vnd\.(?:docker\.image\.rootfs\.diff\.tar(?:\.(?:gzip|zstd))?"
    r"|oci\.image\.layer\.v1\.tar(?:\+(?:gzip|zstd))?)"
)
_ELSEWHERE = re.compile(r"\.foreign\.diff\.|\.nondistributable\.")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


class Struct(msgspec.Struct, frozen=True, rename="camel"):
    """Base of all parts; fields nobody here needs are ignored."""


class Platform(Struct, frozen=True):
    """What a manifest's image runs on, in Go's words."""

    architecture: str = ""
    os: str = ""
    variant: str = ""

    def __str__(self) -> str:
        """As Docker writes it."""
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(Struct, frozen=True):
    """What a blob is, and the digest and size it must have."""

    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] = {}


class Index(Struct, frozen=True):
    """A choice of manifests: an OCI index or a Docker manifest list."""

    manifests: list[Descriptor]


class Manifest(Struct, frozen=True):
    """One image: its configuration, and its layers from the lowest up."""

    config: Descriptor
    layers: list[Descriptor]


class ContainerConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """How to run the image."""

    user: str = ""
    exposed_ports: dict[str, Any] = {}
    env: list[str] = []
    entrypoint: list[str] | str = []
    cmd: list[str] | str = []
    volumes: dict[str, Any] = {}
    working_dir: str = ""
    labels: dict[str, str] = {}


class RootFs(msgspec.Struct, frozen=True):
    """The digests of the layers' tars, uncompressed, from the lowest up."""

    diff_ids: list[str] = []
    type: str = "layers"


class ImageConfig(Struct, frozen=True):
    """The configuration of an image."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    author: str = ""
    created: str = ""
    config: ContainerConfig | None = None
    rootfs: RootFs = RootFs()


class _Kind(Struct, frozen=True):
    """What tells the documents apart."""

    schema_version: int = 2
    media_type: str = ""
    manifests: Any = None
    config: Any = None
    layers: Any = None
    fs_layers: Any = None


_KIND = msgspec.json.Decoder(_Kind)
_INDEX = msgspec.json.Decoder(Index)
_MANIFEST = msgspec.json.Decoder(Manifest)
_CONFIG = msgspec.json.Decoder(ImageConfig)


def parse_document(data: bytes, media_type: str = "") -> Index | Manifest:
    """An index or a manifest; `media_type` is what its source says of it, if it says anything.

    Raises ManifestError, whose message begins with the faulty field's path, and ImageError for
    what is a good document of a kind that cannot be fetched.
    """
    kind = decode(data, _KIND, "manifest")
    claims = {kind.media_type, media_type.partition(";")[0].strip().lower()}
    if kind.schema_version == 1 or kind.fs_layers is not None or any(map(_SCHEMA1.match, claims)):
        raise ImageError(
            "its manifest has the outdated schema 1, which does not say what the layers contain",
            hint="pull and push the image again with a present-day docker or skopeo",
        )
    if kind.schema_version != 2:
        raise ManifestError(f"schemaVersion: {kind.schema_version} is not 2")
    if kind.manifests is not None and (kind.layers is not None or kind.config is not None):
        raise ManifestError("manifests: an index may not have the fields of a manifest too")
    if kind.manifests is not None:
        _check_claims(claims, _MANIFEST_TYPES, "an index")
        return _index(data)
    _check_claims(claims, _INDEX_TYPES, "a manifest")
    return _manifest(data)


def parse_config(data: bytes) -> ImageConfig:
    """The configuration of an image; ManifestError as `parse_document`."""
    config = decode(data, _CONFIG, "image configuration")
    if config.rootfs.type != "layers":
        raise ManifestError(f"rootfs.type: {config.rootfs.type!r} is not 'layers'")
    for index, digest in enumerate(config.rootfs.diff_ids):
        check_digest(digest, f"rootfs.diff_ids[{index}]")
    return config


def check_layers(config: ImageConfig, layers: int) -> None:
    """Raise ManifestError unless the configuration speaks of so many layers."""
    known = len(config.rootfs.diff_ids)
    if known != layers:
        raise ManifestError(f"rootfs.diff_ids: {known} digests for {layers} layers")


def check_digest(digest: str, field: str) -> None:
    """Raise ManifestError unless the text is a digest that can be verified."""
    if _DIGEST.fullmatch(digest) is None:
        raise ManifestError(f"{field}: {digest[:80]!r} is no SHA-256 or SHA-512 digest")


def is_digest(text: str) -> bool:
    """Whether the text is a digest that can be verified."""
    return _DIGEST.fullmatch(text) is not None


def _check_claims(claims: set[str], wrong: frozenset[str], what: str) -> None:
    if lie := claims & wrong:
        raise ManifestError(f"mediaType: {lie.pop()} does not fit what the document is, {what}")


def _index(data: bytes) -> Index:
    index = decode(data, _INDEX, "index")
    if len(index.manifests) > _MAX_IN_INDEX:
        raise ManifestError(f"manifests: more than {_MAX_IN_INDEX}")
    for number, descriptor in enumerate(index.manifests):
        _check_descriptor(descriptor, f"manifests[{number}]")
        _check_document_size(descriptor, f"manifests[{number}]")
    return index


def _manifest(data: bytes) -> Manifest:
    manifest = decode(data, _MANIFEST, "manifest")
    _check_descriptor(manifest.config, "config")
    if manifest.config.media_type not in _CONFIG_TYPES:
        raise ImageError(
            f"it is not a container image, but an artifact ({manifest.config.media_type})"
        )
    _check_document_size(manifest.config, "config")
    if len(manifest.layers) > MAX_LAYERS:
        raise ManifestError(f"layers: {len(manifest.layers)} are more than {MAX_LAYERS}")
    for index, layer in enumerate(manifest.layers):
        _check_descriptor(layer, f"layers[{index}]")
        _check_layer(layer, f"layers[{index}]")
    return manifest


def _check_descriptor(descriptor: Descriptor, field: str) -> None:
    check_digest(descriptor.digest, f"{field}.digest")
    if not 0 <= descriptor.size < 1 << 63:
        raise ManifestError(f"{field}.size: {descriptor.size} is no size of a file")


def _check_document_size(descriptor: Descriptor, field: str) -> None:
    if descriptor.size > MAX_DOCUMENT_BYTES:
        raise ManifestError(
            f"{field}.size: {descriptor.size} bytes; the limit is {MAX_DOCUMENT_BYTES}"
        )


def _check_layer(layer: Descriptor, field: str) -> None:
    if layer.media_type.endswith("+encrypted"):
        raise ImageError(f"{field} is encrypted ({layer.media_type})")
    if _ELSEWHERE.search(layer.media_type):
        raise ImageError(f"{field} may not be distributed with the image ({layer.media_type})")
    if _LAYER.fullmatch(layer.media_type) is None:
        raise ManifestError(f"{field}.mediaType: {layer.media_type!r} is no layer of files")
