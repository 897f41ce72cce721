"""Files of an image on this host, in a folder or in a tar; no name leads out of either."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from contextlib import AbstractContextManager, contextmanager
from typing import IO, TYPE_CHECKING, Protocol

from kvmrkt.errors import ArchiveError, ImageError
from kvmrkt.images import tar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmrkt.images.docker.digests import Readable
    from kvmrkt.images.unpacking.beneath import Beneath

_MAX_LINKS = 8


class Files(Protocol):
    """Named files; every name is relative."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def size_of(self, name: str) -> int:
        """A file's size; ImageError if there is no such file."""

    def open(self, name: str) -> AbstractContextManager[Readable]:
        """A file's bytes; may be called from several threads at once."""


def read_small(files: Files, name: str, limit_bytes: int) -> bytes:
    """A whole file; ImageError if there is none, or if it is larger than the limit."""
    size = files.size_of(name)
    if size > limit_bytes:
        raise ImageError(f"its file {_show(name)} has {size} bytes; the limit is {limit_bytes}")
    content = b""
    with files.open(name) as file:
        while len(content) < size and (more := file.read(size - len(content))):
            content += more
    return content


class FolderFiles:
    """The files beneath a folder; symbolic links there are not followed."""

    def __init__(self, folder: Beneath) -> None:
        """The folder must stay open."""
        self._folder = folder

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        try:
            self.size_of(name)
        except ImageError:
            return False
        return True

    def size_of(self, name: str) -> int:
        """A file's size."""
        with self.open(name) as file:
            return os.fstat(file.fileno()).st_size

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The file, which must be a regular one."""
        try:
            descriptor = self._folder.open(os.fsencode(name), os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            link = error.errno in (errno.ELOOP, errno.EXDEV)
            reason = (
                "a symbolic link is in the way" if link else os.strerror(error.errno or 0).lower()
            )
            raise ImageError(f"cannot open its file {_show(name)}: {reason}") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ImageError(f"its file {_show(name)} is no regular file")
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            yield file


class TarFiles:
    """The files of an uncompressed tar; its links lead to other members only."""

    def __init__(self, file: IO[bytes], limits: tar.Limits) -> None:
        """`file` must be open for reading and stay so. ArchiveError if it is no good tar."""
        self._file = file
        self._members: dict[str, tar.Entry] = {}
        for entry in tar.walk(tar.FileSource(file), limits):
            name = os.fsdecode(entry.name)
            if entry.kind == tar.DIRECTORY:
                continue
            if name in self._members:
                raise ArchiveError(f"entry {entry.shown} is there twice")
            self._members[name] = entry

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return posixpath.normpath(name) in self._members

    def size_of(self, name: str) -> int:
        """A file's size."""
        return self._entry(name).size_bytes

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """The member's content."""
        entry = self._entry(name)
        yield _Part(self._file.fileno(), entry.content_at, entry.size_bytes)

    def _entry(self, name: str) -> tar.Entry:
        at = name
        for _ in range(_MAX_LINKS):
            entry = self._members.get(posixpath.normpath(at))
            if entry is None:
                break
            if entry.kind == tar.REGULAR:
                return entry
            link = os.fsdecode(entry.link)
            if entry.kind == tar.SYMLINK:
                link = posixpath.join(posixpath.dirname(os.fsdecode(entry.name)), link)
            elif entry.kind != tar.HARD_LINK:
                raise ImageError(f"its file {_show(name)} is no regular file")
            at = link
        raise ImageError(f"its file {_show(name)} is not in the archive")


def _show(name: str) -> str:
    """A name out of a document, safe to print."""
    return ascii(name[:200])


class _Part:
    """A stretch of a file, read without moving the file's own position."""

    def __init__(self, descriptor: int, start: int, size_bytes: int) -> None:
        self._descriptor = descriptor
        self._at = start
        self._end = start + size_bytes

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._descriptor, min(size, self._end - self._at), self._at)
        if not data and self._at < self._end and size:
            raise ArchiveError("the archive is truncated")
        self._at += len(data)
        return data
