"""Running a program inside an app: its streams, terminal, signals and exit status."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from typing import TYPE_CHECKING

import msgspec
import paramiko

from kvmrkt.errors import AppStartError
from kvmrkt.inside.connection import ConnectionLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmrkt.inside.connection import Connection

_CHUNK_BYTES = 64 << 10
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_LOST_STATUS = 0x10000
"""The guest could not follow the program to its end (docs/protocol.md)."""
_ENDED_BY_PIPE = 128 + signal.SIGPIPE


class Program(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to run, as the guest's SSH server takes it; None leaves what the app has."""

    app: str
    argv: tuple[str, ...]
    is_copy: bool = False
    """`argv` is for the server's own program, which reads and writes tar archives."""
    user: str | None = None
    group: str | None = None
    working_directory: str | None = None
    environment: tuple[str, ...] = ()


class Terminal(msgspec.Struct, frozen=True):
    """The client's terminal: `fd` is where its size is known."""

    fd: int
    name: str


def start_program(
    connection: Connection, program: Program, terminal: Terminal | None = None
) -> paramiko.Channel:
    """Start it; returns its channel. Raises AppStartError in the agent's words."""
    try:
        channel = connection.transport.open_session()
        if terminal is not None:
            from kvmrkt.stage1.kvm.streams import window_size

            rows, columns = window_size(terminal.fd)
            channel.get_pty(terminal.name, columns, rows)
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise ConnectionLostError(f"the pod's SSH server hung up: {error}") from error
    try:
        channel.exec_command(msgspec.json.encode(program))
    except (paramiko.SSHException, EOFError, OSError) as error:
        if reason := _everything(channel.recv_stderr):
            raise AppStartError(reason) from None
        raise ConnectionLostError(f"the pod's SSH server hung up: {error}") from error
    return channel


def exit_status(channel: paramiko.Channel) -> int:
    """How the program ended, as a shell has it; raises ConnectionLostError if nobody knows."""
    status: int = channel.recv_exit_status()
    if not 0 <= status < _LOST_STATUS:
        raise ConnectionLostError("the pod ended before the program did")
    return status


def run_program(
    connection: Connection, program: Program, *, interactive: bool, terminal: Terminal | None
) -> int:
    """Run it on this process's streams, and return its exit status.

    Without `interactive` its input is empty. Signals are passed on: a second SIGTERM or SIGHUP
    ends this process. Raises AppStartError if it cannot be started, ConnectionLostError if the pod
    ends first.
    """
    channel = start_program(connection, program, terminal)
    unread = threading.Event()
    outputs = [
        threading.Thread(target=_copy_out, args=(channel, receive, fd, unread), daemon=True)
        for receive, fd in ((channel.recv, 1), (channel.recv_stderr, 2))
    ]
    with _raw(terminal), _passed_on(connection, channel, terminal):
        if interactive:
            threading.Thread(target=_copy_in, args=(connection, channel), daemon=True).start()
        else:
            channel.shutdown_write()
        for thread in outputs:
            thread.start()
        for thread in outputs:
            thread.join()
    return _ENDED_BY_PIPE if unread.is_set() else exit_status(channel)


def _everything(receive: Callable[[int], bytes]) -> str:
    data = b""
    while len(data) < _CHUNK_BYTES and (piece := receive(_CHUNK_BYTES)):
        data += piece
    return data.decode(errors="replace").strip()


def _copy_in(connection: Connection, channel: paramiko.Channel) -> None:
    try:
        while data := os.read(0, _CHUNK_BYTES):
            connection.send(channel, data)
    except OSError:
        return  # nobody wants it any more, or the terminal hung up
    with contextlib.suppress(OSError):
        channel.shutdown_write()


def _copy_out(
    channel: paramiko.Channel,
    receive: Callable[[int], bytes],
    fd: int,
    unread: threading.Event,
) -> None:
    try:
        while data := receive(_CHUNK_BYTES):
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
    except OSError:
        unread.set()
        channel.close()  # the program is hung up on


@contextlib.contextmanager
def _raw(terminal: Terminal | None) -> Iterator[None]:
    if terminal is None:
        yield
        return
    from kvmrkt.stage1.kvm.streams import raw_terminal

    with raw_terminal(terminal.fd):
        yield


@contextlib.contextmanager
def _passed_on(
    connection: Connection, channel: paramiko.Channel, terminal: Terminal | None
) -> Iterator[None]:
    """Signals of this process go to the program; the handlers only take notes of them."""
    caught: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def note(number: int, _frame: object) -> None:
        if number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # a second one ends us
        caught.put(number)

    def pass_on() -> None:
        from kvmrkt.stage1.kvm.streams import window_size

        while (number := caught.get()) is not None:
            with contextlib.suppress(OSError, paramiko.SSHException, EOFError):
                if number == signal.SIGWINCH and terminal is not None:
                    rows, columns = window_size(terminal.fd)
                    channel.resize_pty(columns, rows)
                else:
                    connection.signal(channel, number)

    numbers = (*_FORWARDED, *((signal.SIGWINCH,) if terminal is not None else ()))
    before = {number: signal.signal(number, note) for number in numbers}
    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        caught.put(None)
