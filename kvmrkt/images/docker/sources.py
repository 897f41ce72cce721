"""What a registry, a layout and an archive have in common: an image's documents and layers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import msgspec

from kvmrkt.errors import ImageError
from kvmrkt.images.docker.digests import Readable, check_content
from kvmrkt.images.docker.manifests import (
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    check_layers,
    parse_config,
    parse_document,
)
from kvmrkt.images.docker.platforms import choose, host_platform

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from kvmrkt.images.docker.convert import Origin

_MAX_INDEXES = 3
"""How many indexes may lie one in another."""


class Layer(msgspec.Struct, frozen=True):
    """One layer as its source holds it; the source knows it by its name."""

    name: str
    size_bytes: int
    digest: str = ""
    """Of the bytes as the source holds them; empty if it does not say."""

    @property
    def label(self) -> str:
        """A short name for people."""
        return self.digest.partition(":")[2][:12] if self.digest else ascii(self.name[:40])


class FoundImage(msgspec.Struct, frozen=True):
    """An image in its source, its documents read and checked."""

    config: ImageConfig
    layers: tuple[Layer, ...]
    """From the lowest up; `config` knows the digest each has when it is uncompressed."""
    origin: Origin


class ImageSource(Protocol):
    """A place with one image in it."""

    def find(self) -> FoundImage:
        """The image's documents; ImageNotFoundError if it is not there."""

    def open_layer(self, layer: Layer) -> AbstractContextManager[Readable]:
        """A layer's bytes; may be called from several threads at once."""


class Documents(Protocol):
    """Where documents are read from; their content is checked by the reader."""

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        """The bytes of an index or a manifest."""

    def read_config(self, descriptor: Descriptor) -> bytes:
        """The bytes of a configuration."""


class Resolved(msgspec.Struct, frozen=True):
    """The documents of the image for this host."""

    digest: str
    """Of the manifest."""
    manifest: Manifest
    config: ImageConfig

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers under the names of their digests."""
        return tuple(Layer(item.digest, item.size, item.digest) for item in self.manifest.layers)

    @property
    def top_digest(self) -> str:
        """The digest of the uppermost layer."""
        return self.manifest.layers[-1].digest if self.manifest.layers else ""


def resolve(documents: Documents, descriptor: Descriptor, data: bytes, what: str) -> Resolved:
    """The image for this host that a document, read already, leads to.

    Raises ImageError, naming `what`, for documents that lead to none.
    """
    with usable(what):
        for _ in range(_MAX_INDEXES + 1):
            document = parse_document(data, descriptor.media_type)
            if isinstance(document, Manifest):
                return _with_config(documents, descriptor, document)
            descriptor = choose(document, host_platform())
            data = documents.read_manifest(descriptor)
            check_content(data, descriptor.digest, "its manifest")
        raise ImageError(f"more than {_MAX_INDEXES} indexes lead from one to another")


def only_index(data: bytes) -> Index:
    """The document, which must be an index."""
    document = parse_document(data)
    if not isinstance(document, Index):
        raise ImageError("its index is a manifest")
    return document


@contextmanager
def usable(what: str) -> Iterator[None]:
    """Say of an ImageError in the body which image it is about."""
    try:
        yield
    except ImageError as error:
        message = f'cannot fetch image "{what}"'
        raise type(error)(message, hint=error.hint, details=error.details) from error


def _with_config(documents: Documents, descriptor: Descriptor, manifest: Manifest) -> Resolved:
    data = documents.read_config(manifest.config)
    check_content(data, manifest.config.digest, "its configuration")
    config = parse_config(data)
    check_layers(config, len(manifest.layers))
    return Resolved(descriptor.digest, manifest, config)
