"""An image in an OCI layout: a folder, or the same files in a tar."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.appc.decode import decode
from kvmrkt.errors import ImageError, ImageNotFoundError, ManifestError, describe
from kvmrkt.images.docker.convert import Origin
from kvmrkt.images.docker.digests import Readable, check_content
from kvmrkt.images.docker.files import Files, FolderFiles, read_small
from kvmrkt.images.docker.manifests import (
    MAX_DOCUMENT_BYTES,
    Descriptor,
    Index,
)
from kvmrkt.images.docker.platforms import choose, host_platform
from kvmrkt.images.docker.sources import FoundImage, Layer, only_index, resolve, usable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from kvmrkt.images.references import OciLayoutReference

LAYOUT_FILE = "oci-layout"
_INDEX_FILE = "index.json"
_NAME = "org.opencontainers.image.ref.name"
_WHOLE_NAME = "io.containerd.image.name"
_HUB = ("docker.io/", "index.docker.io/", "registry-1.docker.io/")


class _LayoutFile(msgspec.Struct, frozen=True, rename="camel"):
    image_layout_version: str


_LAYOUT = msgspec.json.Decoder(_LayoutFile)


class LayoutSource:
    """One image of a layout."""

    def __init__(self, files: Files, *, what: str, repository: str, ref: str | None) -> None:
        """`what` is the reference for messages; `repository` names the image."""
        self._files = files
        self._what = what
        self._repository = repository
        self._ref = ref

    def find(self) -> FoundImage:
        """The image with the name asked for, or the only one there is."""
        with usable(self._what):
            self._check_version()
            index = only_index(read_small(self._files, _INDEX_FILE, MAX_DOCUMENT_BYTES))
        descriptor = self._select(index)
        with usable(self._what):
            data = self.read_manifest(descriptor)
            check_content(data, descriptor.digest, "its manifest")
        resolved = resolve(self, descriptor, data, self._what)
        ref = self._ref or _names(descriptor)[0]
        origin = Origin(
            repository=self._repository,
            tag=_tag(ref),
            original_name=ref,
            image_id=resolved.top_digest,
            manifest_digest=resolved.digest,
        )
        return FoundImage(resolved.config, resolved.layers, origin)

    def open_layer(self, layer: Layer) -> AbstractContextManager[Readable]:
        """The blob."""
        return self._files.open(_blob(layer.digest))

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        """The blob."""
        return read_small(self._files, _blob(descriptor.digest), MAX_DOCUMENT_BYTES)

    def read_config(self, descriptor: Descriptor) -> bytes:
        """The blob."""
        return self.read_manifest(descriptor)

    def _check_version(self) -> None:
        data = read_small(self._files, LAYOUT_FILE, MAX_DOCUMENT_BYTES)
        version = decode(data, _LAYOUT, f"file {LAYOUT_FILE}").image_layout_version
        if not version.startswith("1."):
            raise ManifestError(f"imageLayoutVersion: {version[:40]!r} is not 1.0.0")

    def _select(self, index: Index) -> Descriptor:
        found = [item for item in index.manifests if self._ref is None or self._is_called(item)]
        if not found:
            raise ImageNotFoundError(
                f'image "{self._what}" is not there', details=_offer(index.manifests)
            )
        if len({_names(item) for item in found}) > 1:
            raise ImageError(
                f'"{self._what}" has several images',
                hint="say which: add a colon and its name",
                details=_offer(found),
            )
        if len(found) == 1:
            return found[0]
        with usable(self._what):
            return choose(Index(found), host_platform())

    def _is_called(self, descriptor: Descriptor) -> bool:
        assert self._ref is not None
        whole, short = descriptor.annotations.get(_WHOLE_NAME), descriptor.annotations.get(_NAME)
        return self._ref == short or (whole is not None and same_image(self._ref, whole))


@contextmanager
def open_layout(reference: OciLayoutReference) -> Iterator[LayoutSource]:
    """The image a reference names; ImageNotFoundError if there is no such folder."""
    from kvmrkt.images.unpacking.beneath import Beneath

    try:
        folder = Beneath(reference.path)
    except NotADirectoryError:
        raise ImageError(
            f'"{reference.path}" is no folder with an OCI layout',
            hint=f"for a file: docker-archive:{reference.path}",
        ) from None
    except OSError as error:
        reason = (error.strerror or describe(error)).lower()
        raise ImageNotFoundError(f"open {reference.path}: {reason}") from None
    with folder:
        yield LayoutSource(
            FolderFiles(folder),
            what=str(reference),
            repository=reference.path.absolute().resolve().name or "layout",
            ref=reference.ref,
        )


def same_image(one: str, other: str) -> bool:
    """Whether two names with tags mean the same image, as docker completes names."""
    return whole_name(one) == whole_name(other)


def whole_name(name: str) -> str:
    """A name as docker shows it, but always with a tag."""
    for prefix in _HUB:
        name = name.removeprefix(prefix)
    name = name.removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _names(descriptor: Descriptor) -> tuple[str, str]:
    annotations = descriptor.annotations
    return annotations.get(_NAME, ""), annotations.get(_WHOLE_NAME, "")


def _offer(descriptors: list[Descriptor]) -> str | None:
    names = dict.fromkeys(whole or short for short, whole in map(_names, descriptors))
    return "\n".join(name[:200] for name in names if name) or None


def _tag(ref: str) -> str:
    """The tag of a name with one; else the name itself, as layouts name images by their tags."""
    head, _, last = ref.partition("@")[0].rpartition("/")
    _, colon, tag = last.rpartition(":")
    return tag if colon or not head else ""


def _blob(digest: str) -> str:
    """The file of a blob; the digest is well-formed, or no descriptor would hold it."""
    algorithm, _, digits = digest.partition(":")
    return f"blobs/{algorithm}/{digits}"
