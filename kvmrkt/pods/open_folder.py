"""Files of an open folder, which may be moved meanwhile: what is read there belongs together."""

from __future__ import annotations

import os

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_CHUNK_BYTES = 1 << 16


def read_at(folder: int, name: str) -> bytes | None:
    """The content of a regular file, None if it does not exist."""
    try:
        fd = os.open(name, _FLAGS, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        text = os.read(fd, _CHUNK_BYTES)
        part = text
        while len(part) == _CHUNK_BYTES:  # a regular file gives less only at its end
            part = os.read(fd, _CHUNK_BYTES)
            text += part
        return text
    finally:
        os.close(fd)


def time_ns_at(folder: int, name: str) -> int | None:
    """When a file was last written (CLOCK_REALTIME), None if it does not exist."""
    try:
        return os.stat(name, dir_fd=folder).st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None
