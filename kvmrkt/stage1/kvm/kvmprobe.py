"""Find out whether /dev/kvm is any good, by running a little kernel code in it.

A device that opens and makes VMs proves nothing: nested hosts exist on which guest user code runs
natively while ring 0 is interpreted, a thousand times slower and without the instructions a Linux
kernel is made of. The probe runs, in ring 0 and 64-bit mode:

    A   popcnt, lock cmpxchg16b, then writes to port 0x11
    B   a loop of 20,000 rounds, then writes its CS to port 0x10

Where ring 0 is interpreted, A ends in KVM_EXIT_INTERNAL_ERROR. B is judged by the CPU time of the
thread, not by the clock, since the host may be busy: microseconds natively, 20 ms interpreted.
"""

from __future__ import annotations

import signal
import struct
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.errors import describe
from kvmrkt.stage1.kvm.bounded import ChildFailedError, call_in_child
from kvmrkt.stage1.kvm.kvmioctl import API_VERSION, ExitReason, Kvm, KvmDevice, VcpuExit
from kvmrkt.stage1.kvm.verdict import ProbeVerdict

if TYPE_CHECKING:
    from types import FrameType

LOOP_ROUNDS = 20_000
LOOP_LIMIT_SECONDS = 0.002
PORT_FEATURES = 0x11
PORT_LOOP = 0x10

_ALARM_SECONDS = 0.5
_ALARM_REPEAT_SECONDS = 0.01  # an alarm that comes before KVM_RUN is entered must not be the last
_CHILD_SECONDS = 2.0

CODE = (
    b"\xf3\x48\x0f\xb8\xc1"  # popcnt rax, rcx
    b"\xf0\x48\x0f\xc7\x4c\x24\xc0"  # lock cmpxchg16b [rsp-0x40]
    b"\xe6" + bytes([PORT_FEATURES]) +  # out 0x11, al
    b"\xb9" + struct.pack("<I", LOOP_ROUNDS) +  # mov ecx, 20000
    b"\xff\xc9\x75\xfc"  # again: dec ecx; jnz again
    b"\x66\x8c\xc8"  # mov ax, cs
    b"\xe6" + bytes([PORT_LOOP]) +  # out 0x10, al
    b"\xf4"  # hlt
)  # fmt: skip


def judge(kvm: Kvm) -> ProbeVerdict:
    """Run the probe on a KVM; every failure becomes a verdict."""
    try:
        version = kvm.api_version()
    except OSError as error:
        return _bad(f"/dev/kvm does not open: {error.strerror}")
    if version != API_VERSION:
        return _bad(f"/dev/kvm speaks version {version} of the KVM API, not {API_VERSION}")
    try:
        kvm.create(CODE)
        features = kvm.run()
        if (fault := _stopped_short(features, PORT_FEATURES)) is not None:
            return _bad(f"guest kernel code does not run: {fault}", kvm)
        loop = kvm.run()
        if (fault := _stopped_short(loop, PORT_LOOP)) is not None:
            return _bad(f"a loop in guest kernel code does not run: {fault}", kvm)
        ring = kvm.accumulator() & 3
    except OSError as error:
        return _bad(f"a virtual machine cannot be made: {describe(error)}")
    microseconds = round(loop.cpu_seconds * 1e6, 1)
    figure = f"{LOOP_ROUNDS} rounds of a loop in guest kernel code took {microseconds:g} µs"
    if ring != 0:
        return _bad(f"guest kernel code runs in ring {ring}, where no stock kernel boots", kvm)
    if loop.cpu_seconds > LOOP_LIMIT_SECONDS:
        return ProbeVerdict(False, f"{figure}: it is interpreted", microseconds, _tsc_khz(kvm))
    return ProbeVerdict(True, figure, microseconds, _tsc_khz(kvm))


def probe() -> ProbeVerdict:
    """Probe this host in a child process, within 2 seconds whatever the device does.

    A child, because a broken hypervisor can hold a thread inside KVM_RUN where no signal reaches
    it; an alarm inside it ends a guest that merely never stops, well before the deadline.
    """
    try:
        answer = call_in_child(_probe_here, deadline_seconds=_CHILD_SECONDS)
        return msgspec.json.decode(answer, type=ProbeVerdict)
    except ChildFailedError as error:
        # A child that hung is kept as a finding: each further attempt would leave one more behind.
        return ProbeVerdict(False, f"the probe failed: {error}", lasting=error.child_ran)
    except msgspec.MsgspecError as error:
        return ProbeVerdict(False, f"the probe gave no verdict: {error}")


def _probe_here() -> bytes:
    kvm = KvmDevice()

    def stop(_number: int, _frame: FrameType | None) -> None:
        kvm.interrupt()

    signal.signal(signal.SIGALRM, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, _ALARM_SECONDS, _ALARM_REPEAT_SECONDS)
    return msgspec.json.encode(judge(kvm))


def _bad(reason: str, kvm: Kvm | None = None) -> ProbeVerdict:
    return ProbeVerdict(False, reason, tsc_khz=None if kvm is None else _tsc_khz(kvm))


def _stopped_short(stop: VcpuExit, port: int) -> str | None:
    """Why the guest did not come to its `out`, None if it did."""
    if stop.reason == ExitReason.IO:
        return None if stop.port == port else f"it wrote to port {stop.port}, not {port}"
    if stop.reason == ExitReason.INTERNAL_ERROR:
        return f"KVM internal error {stop.suberror} (the host interprets ring 0 and gives up)"
    if stop.reason == ExitReason.INTERRUPTED:
        return f"it did not end within {_ALARM_SECONDS:g} seconds"
    if stop.reason == ExitReason.SHUTDOWN:
        return "the virtual CPU shut down (triple fault)"
    if stop.reason == ExitReason.FAIL_ENTRY:
        return "the CPU refused to enter the guest"
    return f"KVM stopped it with exit reason {stop.reason}"


def _tsc_khz(kvm: Kvm) -> int | None:
    try:
        return kvm.tsc_khz() or None
    except OSError:
        return None
