"""Taking an image out of the store: its archive, or its files. What is damaged stays inside."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

from kvmrkt.appc.types import HASH_PREFIX
from kvmrkt.errors import ArchiveError, StoreError
from kvmrkt.images.closure import closure, merged_closure
from kvmrkt.images.unpacking.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kvmrkt.images.store import Image, Store

_CHUNK_BYTES = 1 << 20


def copy_archive(image: Image, out: IO[bytes]) -> None:
    """Write the uncompressed archive. StoreError if it is not what the image's ID stands for."""
    with _verified(image) as archive:
        while piece := archive.read(_CHUNK_BYTES):
            out.write(piece)


def unpack_image(store: Store, image: Image, folder: Path, *, rootfs_only: bool = False) -> None:
    """Unpack the image alone into an empty folder; raises as `unpack`, and as `copy_archive`."""
    with _verified(image) as archive:
        unpack(
            cast("IO[bytes]", archive),
            folder,
            rootfs_only=rootfs_only,
            limits=store.limits,
            newest_seconds=image.newest_seconds,
        )


def unpack_closure(store: Store, image: Image, folder: Path, *, rootfs_only: bool = False) -> None:
    """Unpack the image and all it depends on, as a pod sees it.

    Raises as `unpack`, and ImageNotFoundError for a dependency that is not in the store.
    """
    manifest = image.manifest()
    if not manifest.dependencies and not manifest.path_whitelist:
        unpack_image(store, image, folder, rootfs_only=rootfs_only)
        return
    layers = closure(store, image, manifest)
    with (
        merged_closure(store, layers) as merger,
        _reading(lambda write: merger.write(image.manifest_bytes(), write)) as archive,
    ):
        unpack(archive, folder, rootfs_only=rootfs_only, limits=store.limits)


class _HashedArchive:
    def __init__(self, archive: IO[bytes]) -> None:
        import hashlib

        self._archive = archive
        self._hash = hashlib.sha512()

    def read(self, size: int) -> bytes:
        piece = self._archive.read(size)
        self._hash.update(piece)
        return piece

    def image_id(self) -> str:
        while self.read(_CHUNK_BYTES):
            continue
        return HASH_PREFIX + self._hash.hexdigest()


@contextmanager
def _verified(image: Image) -> Iterator[_HashedArchive]:
    """The image's archive; a body that ends well has read what the image's ID stands for."""
    damaged = StoreError(
        f'image "{image.name}" is damaged in the store',
        hint=f"remove it and fetch it again: kvmrkt image rm {image.id}",
    )
    with image.open_tar() as archive:
        hashed = _HashedArchive(archive)
        try:
            yield hashed
            if hashed.image_id() != image.id:
                raise damaged
        except ArchiveError as error:  # it was checked when it came in
            raise damaged from error


@contextmanager
def _reading(write: Callable[[Callable[[bytes], object]], None]) -> Iterator[IO[bytes]]:
    """A stream of what a function writes, which runs in a thread meanwhile."""
    failures: list[BaseException] = []
    source, target = os.pipe()

    def run() -> None:
        try:
            with os.fdopen(target, "wb") as out:
                write(out.write)
        except BrokenPipeError:
            return  # the reader has failed, and says so
        except BaseException as error:  # raised again where the stream is read
            failures.append(error)

    thread = threading.Thread(target=run, name="merge")
    thread.start()
    try:
        with os.fdopen(source, "rb") as archive:
            yield archive
            while archive.read(_CHUNK_BYTES):
                continue
    finally:
        thread.join()
        if failures:
            raise failures[0]
