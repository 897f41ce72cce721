"""Taking kernels and initrd out of a stage1 image, once for all pods."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kvmrkt.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kvmrkt.images import tar
    from kvmrkt.images.store import Image, Store

MAX_FILE_BYTES = 256 << 20
_FOLDER_MODE = 0o750


def boot_files(store: Store, image: Image, folder: Path, files: Mapping[str, str]) -> Path:
    """The folder with the files, by name, whose absolute paths in the image `files` gives.

    Made once, under a lock, whole or not at all. Raises ArchiveError if the image has no such
    regular file or one larger than MAX_FILE_BYTES, StoreError if it cannot be written.
    """
    if folder.exists():
        return folder
    import shutil

    from kvmrkt.images.locks import locked
    from kvmrkt.images.store import storing, sync_folder

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
                fresh.rename(folder)
                sync_folder(folder.parent)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
    return folder


def _extract(store: Store, image: Image, folder: Path, files: Mapping[str, str]) -> None:
    from kvmrkt.images import tar

    wanted = {f"rootfs{os.path.normpath(path)}".encode(): name for name, path in files.items()}
    with image.blob_path.open("rb") as blob:
        for entry in tar.walk(tar.FileSource(blob), store.limits):
            name = wanted.get(entry.name)
            if name is None:
                continue
            if entry.kind != tar.REGULAR or entry.size_bytes > MAX_FILE_BYTES:
                raise ArchiveError(
                    f'stage1 image "{image.name}": {files[name]} is not a regular file'
                    f" of at most {MAX_FILE_BYTES} bytes"
                )
            del wanted[entry.name]
            _copy(blob.fileno(), entry, folder / name)
    if wanted:
        lacking = ", ".join(files[name] for name in wanted.values())
        raise ArchiveError(f'stage1 image "{image.name}" lacks the files {lacking}')


def _copy(blob: int, entry: tar.Entry, path: Path) -> None:
    with path.open("wb") as out:
        at, end = entry.content_at, entry.content_at + entry.size_bytes
        while at < end:
            copied = os.copy_file_range(blob, out.fileno(), end - at, at)
            if not copied:
                raise ArchiveError("an image in the store is truncated")
            at += copied
        os.fsync(out.fileno())
        os.fchmod(out.fileno(), 0o444)
