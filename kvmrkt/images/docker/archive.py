"""An image in a file made by `docker save`, old and new, or in a tar of an OCI layout."""

from __future__ import annotations

import posixpath
import re
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING

import msgspec

from kvmrkt.appc.decode import decode
from kvmrkt.errors import ArchiveError, ImageError, ImageNotFoundError, ManifestError, describe
from kvmrkt.images.disk import storing, temporary
from kvmrkt.images.docker.convert import Origin
from kvmrkt.images.docker.digests import Readable, check_content, digest_of
from kvmrkt.images.docker.files import TarFiles, read_small
from kvmrkt.images.docker.layout import LAYOUT_FILE, LayoutSource, same_image, whole_name
from kvmrkt.images.docker.manifests import (
    MAX_DOCUMENT_BYTES,
    MAX_LAYERS,
    check_layers,
    parse_config,
)
from kvmrkt.images.docker.sources import FoundImage, ImageSource, Layer, usable
from kvmrkt.images.stream import compression_of, tar_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from kvmrkt.images.references import DockerArchiveReference
    from kvmrkt.images.store import Store

_MANIFEST_FILE = "manifest.json"
_MAGIC_BYTES = 6
_DIGEST_IN_NAME = re.compile(r"(?:^|/)([0-9a-f]{64})(?:\.json|\.tar)?$")


class _Saved(msgspec.Struct, frozen=True, rename="pascal"):
    """One image in manifest.json."""

    config: str
    layers: list[str] = []
    repo_tags: list[str] = []


_SAVED = msgspec.json.Decoder(list[_Saved])


class SavedSource:
    """One image of a `docker save` archive."""

    def __init__(self, files: TarFiles, *, what: str, default_name: str, ref: str | None) -> None:
        """`what` is the reference for messages; `default_name` names an image without tags."""
        self._files = files
        self._what = what
        self._default_name = default_name
        self._ref = ref

    def find(self) -> FoundImage:
        """The image with the name asked for, or the only one there is."""
        with usable(self._what):
            data = read_small(self._files, _MANIFEST_FILE, MAX_DOCUMENT_BYTES)
            images = decode(data, _SAVED, f"file {_MANIFEST_FILE}")
        saved = self._select(images)
        with usable(self._what):
            if len(saved.layers) > MAX_LAYERS:
                raise ManifestError(f"Layers: {len(saved.layers)} are more than {MAX_LAYERS}")
            document = read_small(self._files, saved.config, MAX_DOCUMENT_BYTES)
            if digest := _digest_in(saved.config):
                check_content(document, digest, "its configuration")
            config = parse_config(document)
            check_layers(config, len(saved.layers))
            layers = tuple(self._layer(name) for name in saved.layers)
        name = next((tag for tag in saved.repo_tags if self._is_called(tag)), "")
        repository, _, tag = whole_name(name).rpartition(":") if name else ("", "", "")
        origin = Origin(
            repository=repository or self._default_name,
            tag=tag,
            original_name=self._ref or name,
            image_id=config.rootfs.diff_ids[-1] if layers else "",
            manifest_digest=digest_of(document),
        )
        return FoundImage(config, layers, origin)

    def open_layer(self, layer: Layer) -> AbstractContextManager[Readable]:
        """The member of the archive."""
        return self._files.open(layer.name)

    def _is_called(self, tag: str) -> bool:
        return self._ref is None or same_image(self._ref, tag)

    def _layer(self, name: str) -> Layer:
        digest = _digest_in(name) if posixpath.dirname(name) == "blobs/sha256" else ""
        return Layer(name, self._files.size_of(name), digest)

    def _select(self, images: list[_Saved]) -> _Saved:
        found = [
            image
            for image in images
            if self._ref is None or any(map(self._is_called, image.repo_tags))
        ]
        names = "\n".join(tag[:200] for image in images for tag in image.repo_tags) or None
        if not found:
            raise ImageNotFoundError(f'image "{self._what}" is not there', details=names)
        if len(found) > 1:
            raise ImageError(
                f'"{self._what}" has several images',
                hint="say which: add a colon and its name",
                details=names,
            )
        return found[0]


@contextmanager
def open_archive(store: Store, reference: DockerArchiveReference) -> Iterator[ImageSource]:
    """The image a reference names; ImageNotFoundError if there is no such file.

    A compressed archive is decompressed into the store's temporary files meanwhile.
    """
    path = reference.path
    what = str(reference)
    with ExitStack() as stack:
        try:
            file: IO[bytes] = stack.enter_context(path.open("rb", buffering=0))
            beginning = file.read(_MAGIC_BYTES)
        except OSError as error:
            reason = (error.strerror or describe(error)).lower()
            raise ImageNotFoundError(f"open {path}: {reason}") from None
        with usable(what):
            if not beginning:
                raise ArchiveError("the file is empty")
            if compression := compression_of(beginning):
                file = stack.enter_context(_decompressed(store, file, compression))
            files = TarFiles(file, store.limits)
        if files.has(_MANIFEST_FILE):
            name = path.name.partition(".")[0] or "image"
            yield SavedSource(files, what=what, default_name=name, ref=reference.ref)
        elif files.has(LAYOUT_FILE):
            name = path.name.partition(".")[0] or "image"
            yield LayoutSource(files, what=what, repository=name, ref=reference.ref)
        else:
            raise ArchiveError(
                f'cannot fetch image "{what}": the archive has neither {_MANIFEST_FILE}'
                f" nor {LAYOUT_FILE} in it",
                hint="docker save makes such archives; for an App Container image, give its path",
            )


@contextmanager
def _decompressed(store: Store, file: IO[bytes], compression: str) -> Iterator[IO[bytes]]:
    limit = store.limits.expanded_bytes
    file.seek(0)
    with temporary(store.data.cas, "archive") as path, path.open("w+b") as out:
        for chunk in tar_chunks(file, compression):
            if out.tell() + len(chunk) > limit:
                raise ArchiveError(f"the archive is larger than {limit} bytes, unpacked")
            with storing("decompress a docker archive into the image store"):
                out.write(chunk)
        out.flush()
        yield out


def _digest_in(name: str) -> str:
    match = _DIGEST_IN_NAME.search(name)
    return f"sha256:{match[1]}" if match else ""
