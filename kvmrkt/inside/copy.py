"""Copying files between the host and an app of a running pod.

A tar archive of one tree, named `x`, goes through a program of the guest's SSH server inside the
app. What the guest sends is hostile: it is unpacked into a fresh folder beside the goal by the code
that unpacks images, without set-ID bits and devices, and moved to its place from there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import paramiko

from kvmrkt.errors import ArchiveError, HostError, PodError, UsageError, describe
from kvmrkt.images import tar
from kvmrkt.images.unpacking.unpack import unpack
from kvmrkt.inside.connection import ConnectionLostError
from kvmrkt.inside.program import Program, exit_status, start_program

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmrkt.inside.connection import Connection

_TOP = "x"
_CHUNK_BYTES = 1 << 18
_SAID_BYTES = 1 << 16


def copy_out(
    connection: Connection, app: str, source: str, goal: str, warn: Callable[[str], None]
) -> None:
    """Copy `source` of the app to `goal` on the host.

    Into a folder that is there, under the source's name, or with `/.` at the source's end its
    content; else to the path itself. Raises PodError with the guest's reason, ArchiveError for
    what is no honest archive, HostError where the host's files refuse.
    """
    place = _place(goal, source)
    channel = start_program(connection, Program(app=app, argv=("out", source), is_copy=True))
    channel.shutdown_write()
    said = _Said(channel)
    fresh = _fresh_folder(place.parent)
    try:
        space_bytes = shutil.disk_usage(fresh).free
        try:
            unpack(
                cast("IO[bytes]", _Archive(channel)),
                fresh,
                limits=tar.Limits(expanded_bytes=space_bytes),
                plain=True,
            )
        except ArchiveError as error:
            _raise_said(channel, said, else_raise=error)
        _raise_said(channel, said)
        _settle(fresh / _TOP, place)
    finally:
        channel.close()
        shutil.rmtree(fresh, ignore_errors=True)
    for line in said.lines():
        warn(line)


def copy_in(connection: Connection, app: str, source: str, goal: str) -> None:
    """Copy `source` of the host to `goal` in the app; where to is decided as in `copy_out`.

    Raises PodError with the guest's reason, HostError where the host's files refuse.
    """
    name = "" if _is_content(source) else _name_of(source)
    try:
        os.lstat(source)
    except OSError as error:
        raise HostError(f"cannot copy {source}: {describe(error)}") from error
    program = Program(app=app, argv=("in", goal, name), is_copy=True)
    channel = start_program(connection, program)
    said = _Said(channel)
    try:
        _send_archive(connection, channel, source)
        channel.shutdown_write()
        channel.recv(1)  # nothing: its end
        _raise_said(channel, said)
    finally:
        channel.close()


class _Archive:
    """The guest's archive, as a file to read."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def read(self, size: int) -> bytes:
        data: bytes = self._channel.recv(min(size, _CHUNK_BYTES))
        return data


class _Said:
    """What the program in the guest says meanwhile; bounded."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._text = bytearray()
        self._channel = channel
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def lines(self) -> list[str]:
        """Once the program has ended; nothing in them can steer a terminal."""
        self._thread.join()
        lines = self._text.decode(errors="replace").splitlines()
        return ["".join(c if c.isprintable() else "?" for c in line) for line in lines]

    def _collect(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._channel.recv_stderr(4096):
                if len(self._text) < _SAID_BYTES:
                    self._text += data


def _raise_said(
    channel: paramiko.Channel, said: _Said, *, else_raise: ArchiveError | None = None
) -> None:
    """Raise what the guest says went wrong, and if it says nothing `else_raise`."""
    if else_raise is not None and not channel.eof_received:
        raise else_raise  # the guest would go on sending
    if exit_status(channel):
        lines = said.lines()
        raise PodError(lines[-1] if lines else "the copy failed in the guest")
    if else_raise is not None:
        raise else_raise


def _is_content(source: str) -> bool:
    return source.endswith("/.") or source in (".", "/")


def _name_of(source: str) -> str:
    name = os.path.basename(os.path.normpath(source))  # noqa: PTH119 - of no file on this host
    if name in ("", ".."):
        raise UsageError(
            f"cannot copy {source}: it has no name of its own", hint=f"write {source}/."
        )
    return name


def _place(goal: str, source: str) -> Path:
    """Where the copied tree is to lie."""
    path = Path(goal)
    if path.is_dir():
        return path if _is_content(source) else path / _name_of(source)
    if goal.endswith("/") or not path.parent.is_dir():
        raise HostError(f"cannot copy to {goal}: there is no such folder")
    return path


def _fresh_folder(parent: Path) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=".kvmrkt-cp-", dir=parent))
    except OSError as error:
        raise HostError(f"cannot copy to {parent}: {describe(error)}") from error


def _settle(fresh: Path, place: Path) -> None:
    """Move what was unpacked to its place, folders into folders of the same name."""
    try:
        _merge(fresh, place)
    except OSError as error:
        raise HostError(f"cannot copy to {place}: {describe(error)}") from error


def _merge(fresh: Path, place: Path) -> None:
    try:
        there = place.lstat()
    except FileNotFoundError:
        fresh.rename(place)
        return
    is_folder = stat.S_ISDIR(fresh.lstat().st_mode)
    if stat.S_ISDIR(there.st_mode) and is_folder:
        for entry in sorted(fresh.iterdir()):
            _merge(entry, place / entry.name)
    elif stat.S_ISDIR(there.st_mode) or is_folder:
        kinds = ("a file", "a folder")
        raise HostError(f"cannot replace {place}, {kinds[not is_folder]}, by {kinds[is_folder]}")
    else:
        fresh.replace(place)


class _GuestStoppedError(Exception):
    """Nobody takes the archive any more."""


class _Sink:
    """The program in the guest, as a file to write to."""

    def __init__(self, connection: Connection, channel: paramiko.Channel) -> None:
        self._connection = connection
        self._channel = channel

    def write(self, data: bytes) -> int:
        try:
            self._connection.send(self._channel, data)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise _GuestStoppedError from error
        return len(data)


def _send_archive(connection: Connection, channel: paramiko.Channel, source: str) -> None:
    try:
        with tarfile.open(
            mode="w|",
            fileobj=cast("IO[bytes]", _Sink(connection, channel)),
            bufsize=_CHUNK_BYTES,
            format=tarfile.GNU_FORMAT,
        ) as archive:
            archive.add(source, _TOP)
    except _GuestStoppedError:
        if not channel.exit_status_ready():
            raise ConnectionLostError("the pod ended before the copy was complete") from None
        # the guest has refused: its reason follows
    except (OSError, tarfile.TarError, ValueError) as error:
        raise HostError(f"cannot copy {source}: {describe(error)}") from error
