"""Waiting for a change in folders, without looking again and again (inotify(7))."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

_IN_MODIFY = 0x2
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_MOVE_SELF = 0x800
_IN_ONLYDIR = 0x01000000
_EVENTS_BYTES = 1 << 16


class FolderWatch:
    """Tells that something in one of some folders was made, written to, or moved there.

    And that the folder itself was moved.
    """

    def __init__(self) -> None:
        """Watches nothing yet. Raises OSError when the host's inotify instances are used up."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._checked(self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))

    def __enter__(self) -> FolderWatch:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop watching."""
        os.close(self._fd)

    def fileno(self) -> int:
        """What polls readable after a change."""
        return self._fd

    def add(self, folder_fd: int) -> None:
        """Watch an open folder, wherever it is moved; twice is as once. Raises OSError."""
        path = f"/proc/self/fd/{folder_fd}".encode()
        events = _IN_CREATE | _IN_MODIFY | _IN_MOVED_TO | _IN_MOVE_SELF | _IN_ONLYDIR
        self._checked(self._libc.inotify_add_watch(self._fd, path, events))

    def forget(self) -> None:
        """Take the changes up to now as seen."""
        try:
            while os.read(self._fd, _EVENTS_BYTES):
                pass
        except BlockingIOError:
            pass

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
