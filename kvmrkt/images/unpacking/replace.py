"""Putting something new in the place of a file or folder a person named: all of it, or nothing."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kvmrkt.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN_NAME = 200
_NO_UNNAMED = (errno.EOPNOTSUPP, errno.EISDIR)
"""What open(2) says where the file system, or the kernel, does not know O_TMPFILE."""


@contextmanager
def new_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder nobody else can reach; when the body ends well it becomes `folder`.

    What is there goes away then, if `overwrite`. ImageError if the new cannot be put there.
    """
    with _failing(f"make the folder {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name[:_SHOWN_NAME]}.", dir=folder.parent))
    try:
        with _failing(f"make the folder {folder}"):
            (new := beside / "new").mkdir(0o755)
        yield new
        with _failing(f"put the new folder at {folder}"):
            _take_place(new, folder, beside / "old", overwrite=overwrite)
    finally:
        with _failing(f"remove {beside}"):
            _remove(beside)


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[IO[bytes]]:
    """A file to write; whole at `path` when the body ends well, else `path` is as it was.

    It has no name before that, where the file system can do it: then nothing stays of a process
    that is killed. What is there and is no regular file, as /dev/stdout, is written to as it is.
    """
    path = path.resolve()  # a link to a file stays a link
    with _failing(f"write {path}"), ExitStack() as stack:
        if overwrite and path.exists() and not path.is_file():
            yield stack.enter_context(path.open("wb"))
            return
        if not overwrite and os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(path))
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        stack.callback(os.close, folder := os.open(path.parent, flags))
        try:
            unnamed = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=folder)
        except OSError as error:
            if error.errno not in _NO_UNNAMED:
                raise
            yield stack.enter_context(_beside(path) if overwrite else _exclusively(path))
            return
        with os.fdopen(unnamed, "wb") as out:
            yield out
            out.flush()
            _name(unnamed, folder, path, overwrite=overwrite)


def _name(file: int, folder: int, path: Path, *, overwrite: bool) -> None:
    """Give an unnamed file its name, and with `overwrite` another file's."""
    name = f".{path.name[:_SHOWN_NAME]}.{os.urandom(4).hex()}" if overwrite else path.name
    # link(2) itself would make a link to the link in /proc; with a folder Python calls linkat(2)
    os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=folder, follow_symlinks=True)
    if overwrite:
        try:
            os.replace(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(name, dir_fd=folder)
            raise


@contextmanager
def _exclusively(path: Path) -> Iterator[IO[bytes]]:
    with path.open("xb") as out:
        try:
            yield out
            out.flush()
        except BaseException:
            path.unlink()
            raise


@contextmanager
def _beside(path: Path) -> Iterator[IO[bytes]]:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:_SHOWN_NAME]}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            os.fchmod(descriptor, 0o666 & ~_umask())
            yield out
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def _failing(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ImageError(f"cannot {action}") from error


def _take_place(new: Path, folder: Path, old: Path, *, overwrite: bool) -> None:
    if overwrite and os.path.lexists(folder):
        folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            old.rename(folder)
            raise
    else:
        new.rename(folder)  # fails on anything but an empty folder


def _remove(folder: Path) -> None:
    if os.geteuid() != 0:  # root needs no permission to empty a folder
        for where, folders, _ in os.walk(folder):
            for name in folders:
                inner = Path(where, name)
                if not inner.is_symlink():
                    inner.chmod(stat.S_IRWXU)
    old = folder / "old"
    if old.is_symlink() or (old.exists() and not old.is_dir()):
        old.unlink()
    shutil.rmtree(folder)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
