"""Lines of the apps: from the log port to standard output and to the pod's log files."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from kvmrkt.errors import GuestError
from kvmrkt.pods.logs import FILE_LIMIT_BYTES, FILE_SUFFIX, LogRecord, format_line, parse_record
from kvmrkt.rotation import RotatedFile
from kvmrkt.stage1.kvm.lines import open_stream, read_lines
from kvmrkt.stage1.kvm.ports import LOG_PORT

_LINE_LIMIT_BYTES = 1 << 16


def decode_record(line: bytes, apps: frozenset[str]) -> LogRecord:
    """Check what the guest sent; raises GuestError."""
    try:
        record = parse_record(line)
    except ValueError as error:
        raise GuestError(f"the guest broke the protocol of the log port: {error}") from error
    if not record.end and record.app not in apps:
        raise GuestError("the guest logged for an app that is not in the pod")
    return record


class AppLog:
    """Relays the log port until its end record, or until it closes."""

    def __init__(
        self, folder: Path, apps: frozenset[str], show: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """`folder` gets each app's records; `show` gets each formatted line."""
        self._folder = folder
        self._apps = apps
        self._show = show
        self._files: dict[str, RotatedFile] = {}
        self.ended = asyncio.Event()

    async def read(self, end: socket.socket) -> None:
        """Run as a task. Raises GuestError on a broken protocol."""
        reader, writer = await open_stream(end, limit_bytes=_LINE_LIMIT_BYTES)
        try:
            async for line in read_lines(reader, port=LOG_PORT):
                record = decode_record(line, self._apps)
                if record.end:
                    break
                self._keep(record.app, line)
                await self._show(format_line(record).encode() + b"\n")
        finally:
            for file in self._files.values():
                file.close()
            writer.close()
            self.ended.set()

    def _keep(self, app: str, line: bytes) -> None:
        file = self._files.get(app)
        if file is None:
            path = self._folder / f"{app}{FILE_SUFFIX}"
            file = self._files[app] = RotatedFile(path, FILE_LIMIT_BYTES)
        file.write(line + b"\n")
