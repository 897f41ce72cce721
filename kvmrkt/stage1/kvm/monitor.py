"""QMP: what QEMU reports about the machine, and what is asked of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from qemu.qmp import EventListener, QMPClient
from qemu.qmp.error import QMPError

from kvmrkt.errors import VmmError


class MachineStoppedError(VmmError):
    """QEMU paused the machine on its own: the accelerator, or the guest, is broken."""


class Monitor:
    """A QMP session with one QEMU, over an inherited socket."""

    def __init__(self) -> None:
        """Not connected yet."""
        self._client = QMPClient()
        self._events = EventListener(names=("STOP", "SHUTDOWN", "GUEST_PANICKED"))
        # before the session opens: a broken accelerator stops the machine at once
        self._client.register_listener(self._events)
        self.shutdown_reason: str | None = None
        """Why the machine went down, in QEMU's word (`guest-reset`, `host-qmp-quit` …)."""

    async def connect(self, end: socket.socket) -> None:
        """Greet QEMU; raises VmmError when it does not answer as QMP wants."""
        try:
            await self._client.connect(end)
        except QMPError as error:
            raise VmmError("QEMU did not open its control channel") from error

    async def watch(self) -> None:
        """Follow events until QEMU is gone; raises MachineStoppedError when it gives up.

        With a broken KVM, QEMU does not exit: it pauses the machine in the state internal-error.
        """
        async for event in self._events:
            if event["event"] == "SHUTDOWN":
                data = event.get("data")
                reason = data.get("reason") if isinstance(data, dict) else None
                self.shutdown_reason = str(reason) if reason else None
            elif status := await self._stopped():
                raise MachineStoppedError(f"QEMU stopped the machine: {status}")

    async def _stopped(self) -> str | None:
        try:
            answer = await self._client.execute("query-status")
        except QMPError:
            return None  # QEMU is on its way out, which its control socket tells
        status = answer.get("status") if isinstance(answer, dict) else None
        return status if status in ("internal-error", "guest-panicked", "io-error") else None

    async def close(self) -> None:
        """End the session; QEMU may be gone already."""
        # whatever it says, what is left is a closed socket, which is what was wanted
        with contextlib.suppress(TimeoutError, QMPError, EOFError, OSError):
            await asyncio.wait_for(self._client.disconnect(), timeout=1)
