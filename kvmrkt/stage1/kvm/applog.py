"""Lines of the apps: from the log port to standard output and to the pod's log files.

One file an app, one JSON record a line, as the agent sent it and after it was checked.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from kvmrkt.errors import GuestError
from kvmrkt.stage1.kvm.lines import open_stream, read_lines
from kvmrkt.stage1.kvm.ports import LOG_PORT

_LINE_LIMIT_BYTES = 1 << 16
_FILE_LIMIT_BYTES = 64 << 20
"""What an app may have on the host's disk; past it lines are still shown, not kept."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f]")
"""Nothing that ends a line or a string; ESC stays, colours are what people expect."""


class LogRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of one app, or the end of the log."""

    time_ns: int = 0
    uptime_ns: int = 0
    app: str = ""
    pid: int = 0
    stream: Literal["stdout", "stderr"] = "stdout"
    text: str | None = None
    base64: str | None = None
    partial: bool = False
    end: bool = False


def decode_record(line: bytes, apps: frozenset[str]) -> LogRecord:
    """Check what the guest sent; raises GuestError."""
    try:
        record = msgspec.json.decode(line, type=LogRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GuestError(f"the guest broke the protocol of the log port: {error}") from error
    if not record.end and record.app not in apps:
        raise GuestError("the guest logged for an app that is not in the pod")
    return record


def format_line(record: LogRecord) -> str:
    """As rkt shows a line: seconds since boot, the app, its process ID."""
    if record.base64 is not None:
        try:
            text = base64.b64decode(record.base64, validate=True).decode(errors="replace")
        except binascii.Error as error:
            raise GuestError("the guest broke the protocol of the log port: bad base64") from error
    else:
        text = record.text or ""
    seconds = record.uptime_ns / 1e9
    return f"[{seconds:12.6f}] {record.app}[{record.pid}]: {_CONTROL.sub('?', text)}"


class AppLog:
    """Relays the log port until its end record, or until it closes."""

    def __init__(
        self, folder: Path, apps: frozenset[str], show: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """`folder` gets `APP.jsonl`; `show` gets each formatted line."""
        self._folder = folder
        self._apps = apps
        self._show = show
        self._files: dict[str, BinaryIO] = {}
        self.ended = asyncio.Event()

    async def read(self, end: socket.socket) -> None:
        """Run as a task. Raises GuestError on a broken protocol."""
        reader, writer = await open_stream(end, limit_bytes=_LINE_LIMIT_BYTES)
        try:
            async for line in read_lines(reader, port=LOG_PORT):
                record = decode_record(line, self._apps)
                if record.end:
                    break
                self._keep(record, line)
                await self._show(format_line(record).encode() + b"\n")
        finally:
            for file in self._files.values():
                file.close()
            writer.close()
            self.ended.set()

    def _keep(self, record: LogRecord, line: bytes) -> None:
        file = self._files.get(record.app)
        if file is None:
            file = self._files[record.app] = (self._folder / f"{record.app}.jsonl").open("ab")
        if file.tell() + len(line) < _FILE_LIMIT_BYTES:
            file.write(line + b"\n")
            file.flush()
