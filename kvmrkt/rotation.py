"""A file that never grows past a limit: the end of what was written is what stays."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def older(name: str) -> str:
    """The name that a full file gets; the one that had it before is gone."""
    return f"{name}.1"


class RotatedFile:
    """Appends to a file, which starts anew when it is full; the full one stays as `older`.

    Every piece is written at once and kept together, so that nothing written is lost when this
    process is killed. A piece for which the disk has no room is dropped.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        """Open or make the file; both files together take at most twice the limit."""
        self._path = path
        self._limit = limit_bytes
        self._torn = False
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        """Append one piece: whole lines, where lines are to stay whole."""
        if self._size and self._size + len(data) > self._limit:
            self._path.rename(self._path.with_name(older(self._path.name)))
            os.close(self._fd)
            self._fd, self._size, self._torn = self._open(), 0, False
        if self._torn:
            data = b"\n" + data
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            return
        self._size += written
        self._torn = written < len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._path, flags, 0o640)
