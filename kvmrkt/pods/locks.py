"""Locks on directories, flock(2): exclusive for who owns a pod, shared for who looks at it."""

from __future__ import annotations

import fcntl
import time

_READERS_SECONDS = 10.0
_PAUSE_SECONDS = 0.002


def lock_exclusively(fd: int) -> bool:
    """Take the lock, unless somebody holds it exclusively.

    Who looks at the state holds a shared lock for a moment, or for longer on a busy host: that
    alone is no reason to fail.
    """
    deadline = time.monotonic() + _READERS_SECONDS
    while not _try_lock(fd, fcntl.LOCK_EX):
        if is_locked(fd) or time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True


def is_locked(fd: int) -> bool:
    """Whether somebody else holds the lock exclusively; a lock of one's own is given back."""
    if not _try_lock(fd, fcntl.LOCK_SH):
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)  # two who look must not keep each other from the lock
    return False


def wait_unlocked(fd: int) -> None:
    """Return once nobody holds the lock exclusively."""
    fcntl.flock(fd, fcntl.LOCK_SH)
    fcntl.flock(fd, fcntl.LOCK_UN)


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
