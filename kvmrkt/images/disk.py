"""Writing to the store's disk: what fails, files on their way in, names that last."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kvmrkt.errors import StoreError
from kvmrkt.faults import reach

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER_MODE = 0o750


@contextmanager
def storing(action: str) -> Iterator[None]:
    """Turn an OSError of the body into a StoreError that says what was attempted."""
    try:
        yield
    except OSError as error:
        import errno

        hint = "free some space, or use another --dir" if error.errno == errno.ENOSPC else None
        raise StoreError(f"cannot {action}", hint=hint) from error


@contextmanager
def temporary(cas: Path, purpose: str) -> Iterator[Path]:
    """A fresh file in the store's `tmp`, locked while it is needed; what is there then is removed.

    The folder is locked, shared, until the file is: who holds it exclusively can tell by the
    files' own locks which are in use.
    """
    import fcntl
    import tempfile

    from kvmrkt.images.locks import folder_lock

    folder = cas / "tmp"
    with storing(f"write to the image store {cas}"):
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        with folder_lock(folder, fcntl.LOCK_SH):
            descriptor, name = tempfile.mkstemp(prefix=f"{purpose}-", dir=folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            reach("temporary-made")
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
