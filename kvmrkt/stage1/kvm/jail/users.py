"""A user ID of its own for each pod's processes, so that no pod's can touch another's."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from kvmrkt.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

FIRST_UID = 0x7000_0000
"""Just above what systemd-nspawn takes for containers (systemd, docs/UIDS-GIDS.md)."""
UIDS = 0x1_0000
_BUSY = (errno.EAGAIN, errno.EACCES)


class UserLock:
    """A user ID that is nobody else's until this is closed, or the process ends."""

    def __init__(self, uid: int, fd: int) -> None:
        """`fd` holds the lock."""
        self.uid = uid
        self._fd = fd

    def close(self) -> None:
        """Give the ID back: nothing may run under it any more."""
        os.close(self._fd)


def take_uid(file: Path, uuid: str, *, first: int = FIRST_UID, count: int = UIDS) -> UserLock:
    """Take an ID of the range: byte N of `file` is locked as long as the ID is in use.

    The search begins at a place that the pod's UUID says, so that pods seldom meet. Raises
    HostError when all are taken.
    """
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    start = int(uuid.replace("-", ""), 16) % count
    for step in range(count):
        number = (start + step) % count
        if _lock_byte(fd, number):
            return UserLock(first + number, fd)
    os.close(fd)
    raise HostError(
        f"all {count} user IDs from {first} on are in use by pods",
        hint="stop some pods",
    )


def _lock_byte(fd: int, number: int) -> bool:
    """Lock it for this open file (fcntl(2), F_OFD_SETLK): it goes with the last descriptor."""
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True
