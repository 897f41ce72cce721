"""Raw streams between this process and an app: never blocking, never lossy while both ends live."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_CHUNK_BYTES = 1 << 16
_PIPE_ATOMIC_BYTES = 4096
"""A pipe that polls writable takes this much without blocking (pipe(7), PIPE_BUF)."""


class Sink:
    """Writes to a file descriptor it may not own, waiting in the event loop when it is full.

    A reader that goes away is no reason to end a pod: what follows is dropped.
    """

    def __init__(self, fd: int) -> None:
        """`fd` stays the caller's."""
        self._fd = _reopen_nonblocking(fd, os.O_WRONLY)
        self._owned = self._fd != fd
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLOUT)
        self._lock = asyncio.Lock()
        self._broken = False
        self._ready = asyncio.Event()

    async def write(self, data: bytes) -> None:
        """Write all of it, in order with other calls."""
        async with self._lock:
            view = memoryview(data)
            while view and not self._broken:
                if not self._poll.poll(0):
                    await self._writable()
                    continue
                try:
                    view = view[os.write(self._fd, view[:_PIPE_ATOMIC_BYTES]) :]
                except BlockingIOError:
                    await self._writable()
                except OSError:
                    self._broken = True

    def give_up(self) -> None:
        """Drop what is not written yet, and all that follows."""
        self._broken = True
        self._ready.set()

    def close(self) -> None:
        """Close what this object opened."""
        if self._owned:
            os.close(self._fd)
            self._owned = False

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        self._ready.clear()
        loop.add_writer(self._fd, self._ready.set)
        try:
            await self._ready.wait()
        finally:
            loop.remove_writer(self._fd)


async def copy_out(end: socket.socket, sink: Sink) -> None:
    """From an app's port to the sink, until the port closes."""
    loop = asyncio.get_running_loop()
    end.setblocking(False)
    try:
        while data := await loop.sock_recv(end, _CHUNK_BYTES):
            await sink.write(data)
    except ConnectionError:
        pass  # QEMU is gone; the supervisor says why
    finally:
        end.close()


async def copy_in(fd: int, end: socket.socket) -> None:
    """From `fd` to an app's port; the guest sees the end of input once it has read all of it.

    The socket is shut for writing, not closed: QEMU drops what it has not read of a closed one.
    """
    loop = asyncio.get_running_loop()
    end.setblocking(False)
    try:
        while data := await _read(fd):
            await loop.sock_sendall(end, data)
        end.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # QEMU is gone; the supervisor says why


async def _read(fd: int) -> bytes:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except PermissionError:  # epoll refuses regular files, which never block
        return os.read(fd, _CHUNK_BYTES)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
    try:
        return os.read(fd, _CHUNK_BYTES)
    except OSError:
        return b""  # a terminal that hung up


def _reopen_nonblocking(fd: int, flags: int) -> int:
    """A descriptor of our own for a pipe or terminal: O_NONBLOCK on the shared one would leak out.

    A regular file keeps its descriptor, and with it its offset; it never blocks.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or os.isatty(fd):
        try:
            return os.open(
                f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            )
        except OSError:
            return fd  # another user's terminal: poll() alone must do
    return fd


def window_size(fd: int) -> tuple[int, int]:
    """Rows and columns of a terminal; 24 by 80 when it does not say."""
    import fcntl
    import termios

    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8))
    except OSError:
        return 24, 80
    return rows or 24, columns or 80


@contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Hand every key to the app, Ctrl-C included; the terminal is restored on every path."""
    import termios
    import tty

    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
