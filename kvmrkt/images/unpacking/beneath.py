"""Opening paths beneath a folder that something hostile fills: never through a link, never outside.

The kernel's openat2(2) resolves the whole path and refuses any symbolic link on the way; this
module holds nothing else than that call and the one folder it is about.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Self

from kvmrkt.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
_RESOLVE = _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH
_OPEN_HOW = struct.Struct("=QQQ")  # flags, mode, resolve
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class Beneath:
    """A folder as the end of the world; a context manager. All names are relative to it."""

    def __init__(self, folder: Path) -> None:
        """`folder` must exist. HostError on kernels without openat2 (before Linux 5.6)."""
        self._top = os.open(folder, _FOLDER | os.O_CLOEXEC)
        self._syscall = _libc_syscall()
        self._parent: tuple[bytes, int] | None = None

    def __enter__(self) -> Self:
        """The folder itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close what is open."""
        self._forget_parent()
        os.close(self._top)

    def open(self, name: bytes, flags: int, mode: int = 0) -> int:
        """A descriptor of `name`, b"" for the folder itself; OSError as open(2).

        A symbolic link anywhere in the name gives ELOOP, a step outside EXDEV.
        """
        import ctypes

        how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, mode, _RESOLVE)
        found = self._syscall(_SYS_OPENAT2, self._top, name or b".", how, len(how))
        if found >= 0:
            return found
        number = ctypes.get_errno()
        if number in (errno.ENOSYS, errno.EPERM) and not self._has_openat2():
            raise HostError(
                "cannot unpack safely: this kernel lacks openat2",
                hint="use Linux 5.6 or later, without a sandbox that forbids the call",
            )
        raise OSError(number, os.strerror(number), os.fsdecode(name))

    def open_folder(self, name: bytes) -> int:
        """A descriptor of a folder that is there."""
        return self.open(name, _FOLDER)

    def parent(self, name: bytes) -> tuple[int, bytes]:
        """The folder that holds `name`, and what `name` is called there.

        The descriptor stays this object's, and is good until the next call.
        """
        above, _, base = name.rpartition(b"/")
        if self._parent is None or self._parent[0] != above:
            self._forget_parent()
            self._parent = (above, self.open_folder(above))
        return self._parent[1], base

    def make_folder(self, name: bytes) -> bool:
        """Make a folder only we may enter, unless it is there; returns whether it is new."""
        parent, base = self.parent(name)
        try:
            os.mkdir(base, 0o700, dir_fd=parent)
        except FileExistsError:
            os.close(self.open_folder(name))  # or it raises: what is there is no folder
            return False
        return True

    def _forget_parent(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def _has_openat2(self) -> bool:
        how = _OPEN_HOW.pack(_FOLDER | os.O_CLOEXEC, 0, _RESOLVE)
        found = self._syscall(_SYS_OPENAT2, self._top, b".", how, len(how))
        if found >= 0:
            os.close(found)
        return found >= 0


def _libc_syscall() -> Callable[..., int]:
    import ctypes

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.argtypes = (
        ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t,
    )  # fmt: skip
    syscall.restype = ctypes.c_long
    call: Callable[..., int] = syscall
    return call
