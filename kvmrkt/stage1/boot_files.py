"""Taking kernels and initrd out of a stage1 image, once for all pods."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kvmrkt.errors import ArchiveError
from kvmrkt.faults import reach

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kvmrkt.images import tar
    from kvmrkt.images.store import Image, Store

MAX_FILE_BYTES = 256 << 20
_COPY_BYTES = 1 << 20
_FOLDER_MODE = 0o750


def boot_files(store: Store, image: Image, folder: Path, files: Mapping[str, str]) -> Path:
    """The folder with the files, by name, whose absolute paths in the image `files` gives.

    Made once, under a lock, whole or not at all. Raises ArchiveError if the image has no such
    regular file or one larger than MAX_FILE_BYTES, StoreError if it cannot be written.
    """
    if folder.exists():
        return folder
    import shutil

    from kvmrkt.images.disk import storing, sync_folder
    from kvmrkt.images.locks import locked

    with locked(store.data.cas / "treestorelocks" / f"stage1-{image.id[7:9]}"):
        if folder.exists():
            return folder
        with storing(f"extract the stage1 image {image.name} into {folder}"):
            folder.parent.mkdir(mode=_FOLDER_MODE, exist_ok=True)
            fresh = folder.with_name(f".{folder.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)  # of someone who was killed: the lock is ours
            fresh.mkdir(mode=_FOLDER_MODE)
            try:
                _extract(store, image, fresh, files)
                sync_folder(fresh)
                reach("boot-files-extracted")
                fresh.rename(folder)
                reach("boot-files-placed")
                sync_folder(folder.parent)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
    return folder


def _extract(store: Store, image: Image, folder: Path, files: Mapping[str, str]) -> None:
    from kvmrkt.images import tar
    from kvmrkt.images.stream import ChunkSource, close_chunks, open_chunks

    wanted = {f"rootfs{os.path.normpath(path)}".encode(): name for name, path in files.items()}
    with image.blob_path.open("rb", buffering=0) as blob:
        chunks = open_chunks(blob)
        source = ChunkSource(chunks, store.limits.expanded_bytes)
        for entry in tar.walk(source, store.limits):
            name = wanted.get(entry.name)
            if name is None:
                continue
            if entry.kind != tar.REGULAR or entry.size_bytes > MAX_FILE_BYTES:
                raise ArchiveError(
                    f'stage1 image "{image.name}": {files[name]} is not a regular file'
                    f" of at most {MAX_FILE_BYTES} bytes"
                )
            del wanted[entry.name]
            _copy(source, entry, folder / name)
        close_chunks(chunks)
    if wanted:
        lacking = ", ".join(files[name] for name in wanted.values())
        raise ArchiveError(f'stage1 image "{image.name}" lacks the files {lacking}')


def _copy(source: tar.Source, entry: tar.Entry, path: Path) -> None:
    left = entry.size_bytes
    with path.open("wb") as out:
        while left:
            piece = source.read(min(left, _COPY_BYTES))
            out.write(piece)
            left -= len(piece)
