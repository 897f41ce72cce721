"""Why a machine went down: everything that was heard, weighed once, afterwards."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.errors import (
    AgentSilentError,
    EngineError,
    GuestError,
    GuestPanicError,
    OutOfMemoryError,
    VmmError,
)

if TYPE_CHECKING:
    from kvmrkt.stage1.kvm.console import Console
    from kvmrkt.stage1.kvm.monitor import Monitor
    from kvmrkt.stage1.kvm.vmm import Vmm

_LAST_WORDS_SECONDS = 2.0
_KERNEL_LOG = "/dev/kmsg"
_RECORD_LIMIT_BYTES = 8192
_MORE_MEMORY = "give the apps more with --memory, or the system with systemMemoryBytes in kvm.d"
_NO_MEMORY_WORDS = ("Out of memory", "out of memory", "deadlocked on memory")


class Remains(msgspec.Struct, frozen=True, kw_only=True):
    """What is known once the control port has closed before the pod's end."""

    status: int | None
    """QEMU's exit status as `subprocess` counts, None while it still runs."""
    panic: str | None
    """What the guest's kernel said when it panicked."""
    console: str
    """The console's last lines."""
    last_words: str
    """QEMU's own, on standard error."""
    shutdown_reason: str | None
    """QEMU's word for why the machine went down."""
    host_out_of_memory: bool = False
    """The host's kernel killed QEMU for want of memory."""


async def why_down(vmm: Vmm, console: Console, monitor: Monitor) -> EngineError:
    """Wait a moment for a machine's last words, and say what went down."""
    import asyncio

    closed = asyncio.ensure_future(console.closed.wait())
    await asyncio.wait((closed,), timeout=_LAST_WORDS_SECONDS)
    status = vmm.wait(timeout_seconds=0.5)
    killed = status == -signal.SIGKILL
    return explain(
        Remains(
            status=status,
            panic=console.panic(),
            console=console.last_lines(),
            last_words=vmm.last_words(),
            shutdown_reason=monitor.shutdown_reason,
            host_out_of_memory=killed and killed_for_memory(vmm.process.pid),
        )
    )


def explain(remains: Remains) -> EngineError:
    """The error that says what went down, and why."""
    status, console = remains.status, remains.console
    if remains.panic:
        return _panicked(remains.panic, console)
    if status is None:
        return AgentSilentError("the guest's agent closed its control port", details=console)
    if status < 0:
        return _signalled(-status, remains)
    if status > 0:
        words = remains.last_words
        kind = OutOfMemoryError if "Cannot allocate memory" in words else VmmError
        return kind(f"QEMU ended with status {status}", details=words or console)
    reason = remains.shutdown_reason or "no reason given"
    return GuestError(f"the guest went down by itself ({reason})", details=console)


def _panicked(panic: str, console: str) -> EngineError:
    if any(words in panic for words in _NO_MEMORY_WORDS):
        return OutOfMemoryError(
            f"the guest ran out of memory: its kernel panicked: {panic}",
            details=console,
            hint=_MORE_MEMORY,
        )
    return GuestPanicError(f"the guest's kernel panicked: {panic}", details=console)


def _signalled(number: int, remains: Remains) -> EngineError:
    name = signal.Signals(number).name
    if remains.host_out_of_memory:
        return OutOfMemoryError(
            f"the host ran out of memory: its kernel ended QEMU by {name}",
            details=remains.console,
            hint="free memory on the host, or lift the limit of the cgroup kvmrkt runs in",
        )
    return VmmError(f"QEMU was ended by {name}", details=remains.console)


def killed_for_memory(pid: int, kernel_log: str = _KERNEL_LOG) -> bool:
    """Whether the kernel's log says that the process was killed for want of memory.

    False where the log may not be read.
    """
    words = f"Killed process {pid} (".encode()
    try:
        log = os.open(kernel_log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return any(words in record for record in iter(lambda: _next_record(log), b""))
    finally:
        os.close(log)


def _next_record(log: int) -> bytes:
    """One record of the kernel's log, which gives one a read; nothing at its end."""
    try:
        return os.read(log, _RECORD_LIMIT_BYTES)
    except BrokenPipeError:
        return b" "  # overwritten before it was read: the next read gives what came after
    except OSError:
        return b""
