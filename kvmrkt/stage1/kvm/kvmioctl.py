"""The few KVM ioctls the probe needs (Linux, Documentation/virt/kvm/api.rst), behind a Protocol.

`KvmDevice` drives `/dev/kvm`; `kvmrkt.stage1.kvm.kvmfake.FakeKvm` stands in for it in tests.
"""

from __future__ import annotations

import enum
import fcntl
import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

DEVICE = Path("/dev/kvm")
API_VERSION = 12

MEMORY_BYTES = 0x10000
KERNEL_BASE = 0xFFFF_FFFF_8000_0000
"""Where the guest's memory appears, as in a Linux kernel; it is mapped at 0 too."""
CODE_ADDRESS = 0x8000
STACK_ADDRESS = 0x7000


class ExitReason(enum.IntEnum):
    """Why KVM_RUN came back (`exit_reason` of struct kvm_run), and our INTERRUPTED."""

    UNKNOWN = 0
    IO = 2
    HLT = 5
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTERNAL_ERROR = 17
    INTERRUPTED = -1


@dataclass(frozen=True, slots=True)
class VcpuExit:
    """One KVM_RUN: its end and what it cost this thread."""

    reason: int
    port: int | None
    suberror: int | None
    cpu_seconds: float


class Kvm(Protocol):
    """What the probe asks of KVM."""

    def api_version(self) -> int:
        """KVM_GET_API_VERSION; opens the device, OSError if it does not open."""

    def create(self, code: bytes) -> None:
        """One VM, one vCPU about to run `code` in ring 0 and 64-bit mode near -2 GiB."""

    def run(self) -> VcpuExit:
        """KVM_RUN, once; a signal ends it with INTERRUPTED."""

    def accumulator(self) -> int:
        """The guest's RAX."""

    def tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ of the vCPU; OSError where KVM does not know it."""


def _io(number: int) -> int:
    return 0xAE << 8 | number


def _iow(number: int, size: int) -> int:
    return 1 << 30 | size << 16 | _io(number)


def _ior(number: int, size: int) -> int:
    return 2 << 30 | size << 16 | _io(number)


_REGS_BYTES = 144
_SREGS_BYTES = 312
_CPUID_ENTRIES = 256
_CPUID_ENTRY_BYTES = 40

_GET_API_VERSION = _io(0x00)
_CREATE_VM = _io(0x01)
_GET_VCPU_MMAP_SIZE = _io(0x04)
_GET_SUPPORTED_CPUID = 3 << 30 | 8 << 16 | _io(0x05)
_CREATE_VCPU = _io(0x41)
_SET_USER_MEMORY_REGION = _iow(0x46, 32)
_RUN = _io(0x80)
_GET_REGS = _ior(0x81, _REGS_BYTES)
_SET_REGS = _iow(0x82, _REGS_BYTES)
_GET_SREGS = _ior(0x83, _SREGS_BYTES)
_SET_SREGS = _iow(0x84, _SREGS_BYTES)
_SET_CPUID2 = _iow(0x90, 8)
_GET_TSC_KHZ = _io(0xA3)

_SEGMENT = struct.Struct("<QIH10B")  # struct kvm_segment: base, limit, selector, ten bytes
_CONTROL = struct.Struct("<6Q")  # cr0, cr2, cr3, cr4, cr8, efer
_CONTROL_OFFSET = 8 * _SEGMENT.size + 2 * 16  # after 8 segments and two descriptor tables
_REGS = struct.Struct("<18Q")  # rax rbx rcx rdx rsi rdi rsp rbp r8..r15 rip rflags
_RSP, _RIP, _RFLAGS = 6, 16, 17

_RUN_IMMEDIATE_EXIT, _RUN_EXIT_REASON, _RUN_UNION = 1, 8, 32  # offsets in struct kvm_run


class KvmDevice:
    """Kvm on a real device. Everything it makes goes with the process: use it in a child."""

    def __init__(self, device: Path = DEVICE) -> None:
        """Nothing is opened yet."""
        self._device = device
        self._kvm = -1
        self._vcpu = -1
        self._memory: mmap.mmap
        self._state: mmap.mmap
        self._created = False

    def api_version(self) -> int:
        """Open the device and ask."""
        self._kvm = os.open(self._device, os.O_RDWR | os.O_CLOEXEC)
        return fcntl.ioctl(self._kvm, _GET_API_VERSION, 0)

    def create(self, code: bytes) -> None:
        """Make the machine, its page tables and the state of its vCPU."""
        vm = fcntl.ioctl(self._kvm, _CREATE_VM, 0)
        self._memory = mmap.mmap(-1, MEMORY_BYTES)
        _write_page_tables(self._memory)
        self._memory[CODE_ADDRESS : CODE_ADDRESS + len(code)] = code
        region = struct.pack("<IIQQQ", 0, 0, 0, MEMORY_BYTES, _address(self._memory))
        fcntl.ioctl(vm, _SET_USER_MEMORY_REGION, region)
        self._vcpu = fcntl.ioctl(vm, _CREATE_VCPU, 0)
        self._state = mmap.mmap(self._vcpu, fcntl.ioctl(self._kvm, _GET_VCPU_MMAP_SIZE, 0))
        self._created = True
        self._give_cpuid()
        self._enter_long_mode()

    def run(self) -> VcpuExit:
        """Run until the guest wants something, or a signal comes."""
        started = time.thread_time()
        try:
            fcntl.ioctl(self._vcpu, _RUN, 0)
        except InterruptedError:
            return VcpuExit(ExitReason.INTERRUPTED, None, None, time.thread_time() - started)
        spent = time.thread_time() - started
        (reason,) = struct.unpack_from("<I", self._state, _RUN_EXIT_REASON)
        port = suberror = None
        if reason == ExitReason.IO:
            (port,) = struct.unpack_from("<H", self._state, _RUN_UNION + 2)
        elif reason == ExitReason.INTERNAL_ERROR:
            (suberror,) = struct.unpack_from("<I", self._state, _RUN_UNION)
        return VcpuExit(reason, port, suberror, spent)

    def interrupt(self) -> None:
        """Make the next KVM_RUN return at once; for a signal handler, at any time."""
        if self._created:
            self._state[_RUN_IMMEDIATE_EXIT] = 1

    def accumulator(self) -> int:
        """Read RAX."""
        registers = bytearray(_REGS_BYTES)
        fcntl.ioctl(self._vcpu, _GET_REGS, registers, True)
        return int(_REGS.unpack(registers)[0])

    def tsc_khz(self) -> int:
        """Ask the vCPU for its TSC's frequency."""
        return fcntl.ioctl(self._vcpu, _GET_TSC_KHZ, 0)

    def _give_cpuid(self) -> None:
        """The guest's CPU has what the host's KVM supports."""
        table = bytearray(8 + _CPUID_ENTRIES * _CPUID_ENTRY_BYTES)
        struct.pack_into("<I", table, 0, _CPUID_ENTRIES)
        fcntl.ioctl(self._kvm, _GET_SUPPORTED_CPUID, table, True)
        fcntl.ioctl(self._vcpu, _SET_CPUID2, table, True)

    def _enter_long_mode(self) -> None:
        sregs = bytearray(_SREGS_BYTES)
        fcntl.ioctl(self._vcpu, _GET_SREGS, sregs, True)
        # type, present, dpl, db, s, l, g, avl, unusable, padding
        code = (11, 1, 0, 0, 1, 1, 1, 0, 0, 0)
        data = (3, 1, 0, 1, 1, 0, 1, 0, 0, 0)
        _SEGMENT.pack_into(sregs, 0, 0, 0xFFFFFFFF, 0x08, *code)
        for index in range(1, 6):  # ds, es, fs, gs, ss
            _SEGMENT.pack_into(sregs, index * _SEGMENT.size, 0, 0xFFFFFFFF, 0x10, *data)
        cr0, cr2, _, cr4, cr8, efer = _CONTROL.unpack_from(sregs, _CONTROL_OFFSET)
        cr0 |= 0x8001_0031  # PG, WP, NE, ET, PE
        cr4 |= 0x20  # PAE
        efer |= 0x500  # LME, LMA
        _CONTROL.pack_into(sregs, _CONTROL_OFFSET, cr0, cr2, 0x1000, cr4, cr8, efer)
        fcntl.ioctl(self._vcpu, _SET_SREGS, bytes(sregs))
        registers = [0] * 18
        registers[_RSP] = STACK_ADDRESS
        registers[_RIP] = KERNEL_BASE + CODE_ADDRESS
        registers[_RFLAGS] = 2
        fcntl.ioctl(self._vcpu, _SET_REGS, _REGS.pack(*registers))


def _write_page_tables(memory: mmap.mmap) -> None:
    """PML4 at 0x1000, PDPT at 0x2000, PD at 0x3000: one 2 MiB page, at 0 and at -2 GiB."""
    present_writable, huge = 0x03, 0x80
    for address, entry in (
        (0x1000, 0x2000 | present_writable),
        (0x1000 + 511 * 8, 0x2000 | present_writable),
        (0x2000, 0x3000 | present_writable),
        (0x2000 + 510 * 8, 0x3000 | present_writable),
        (0x3000, 0x0000 | present_writable | huge),
    ):
        struct.pack_into("<Q", memory, address, entry)


def _address(memory: mmap.mmap) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
