"""The guest's serial console: kept in part, shown when something went wrong."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

from kvmrkt.rotation import RotatedFile
from kvmrkt.stage1.kvm.lines import open_stream

_FILE_LIMIT_BYTES = 1 << 20
"""A guest that floods its console fills neither disk nor memory: two such files at most."""
_TAIL_BYTES = 8 << 10
_UNPRINTABLE = re.compile(r"[^\t\n\x20-\x7e]")
_PANIC = re.compile(r"Kernel panic - not syncing: ([^\n]{1,200})")


class Console:
    """Reads the console to its end; keeps the last megabyte in files and the tail in memory."""

    def __init__(self, file: Path | None) -> None:
        """`file` is made when the first byte arrives; without one only the tail is kept."""
        self._file = file
        self._tail = b""
        self.closed = asyncio.Event()

    async def read(self, end: socket.socket) -> None:
        """Run as a task until the console closes."""
        reader, writer = await open_stream(end)
        kept: RotatedFile | None = None
        try:
            while data := await reader.read(1 << 14):
                self._tail = (self._tail + data)[-_TAIL_BYTES:]
                if self._file is not None:
                    kept = kept or RotatedFile(self._file, _FILE_LIMIT_BYTES)
                    kept.write(data)
        except ConnectionError:
            pass  # QEMU is gone: the console ends as any other end
        finally:
            if kept is not None:
                kept.close()
            writer.close()
            self.closed.set()

    def last_lines(self, count: int = 15) -> str:
        """The console's last lines, made safe to print on a terminal."""
        text = self._tail.decode(errors="replace").replace("\r", "")
        lines = [line for line in _UNPRINTABLE.sub("?", text).splitlines() if line.strip()]
        return "\n".join(lines[-count:])

    def panic(self) -> str | None:
        """What the guest's kernel said when it panicked, if it did."""
        found = _PANIC.search(self._tail.decode(errors="replace"))
        return _UNPRINTABLE.sub("?", found[1]).strip() if found else None
