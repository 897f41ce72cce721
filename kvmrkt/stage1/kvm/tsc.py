"""The frequency of the host's time stamp counter, which the guest's kernel is told (tsc_early_khz).

A kernel that has to measure it against the emulated PIT fails on a busy host. Found out once a
boot: from KVM where it answers, else by reading the counter twice, else from /proc/cpuinfo.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.boot import boot_id
from kvmrkt.errors import HostError
from kvmrkt.paths import RUNTIME
from kvmrkt.stage1.kvm import runcache

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmrkt.stage1.kvm.kvmioctl import Kvm

_FILE = "tsc.json"
_CPUINFO = Path("/proc/cpuinfo")
_CHILD_SECONDS = 2.0
_APART_SECONDS = 0.05
_ATTEMPTS = 8  # the quickest of them was not interrupted
_GRAIN_KHZ = 10
_PLAUSIBLE_KHZ = range(100_000, 20_000_000)

# rdtsc; shl rdx, 32; or rax, rdx; ret
_RDTSC = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"


class CachedFrequency(msgspec.Struct, frozen=True):
    """The content of `tsc.json`; `source` is `kvm`, `measured` or `cpuinfo`."""

    boot_id: str
    khz: int
    source: str


def ask_kvm() -> int | None:
    """What KVM says, None if the device does not open or KVM does not know."""
    from kvmrkt.stage1.kvm.kvmioctl import KvmDevice

    return _in_child(lambda: kvm_frequency(KvmDevice()))


def measure() -> int | None:
    """Two readings 50 ms apart; None on a host that forbids machine code of our own."""
    return _in_child(_measure_here)


def from_cpuinfo() -> int | None:
    """The current clock of the first CPU, which only a host without scaling keeps."""
    import re

    try:
        found = re.search(r"^cpu MHz\s*:\s*([0-9.]+)", _CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return round(float(found[1]) * 1000) if found else None


_SOURCES: tuple[tuple[str, Callable[[], int | None]], ...] = (
    ("kvm", ask_kvm),
    ("measured", measure),
    ("cpuinfo", from_cpuinfo),
)


def tsc_khz(
    cache_dir: Path = RUNTIME,
    *,
    sources: tuple[tuple[str, Callable[[], int | None]], ...] = _SOURCES,
) -> int:
    """The frequency in kHz; raises HostError if no source knows it."""
    path = cache_dir / _FILE
    boot = boot_id()
    cached = runcache.read(path, CachedFrequency)
    if cached is not None and cached.boot_id == boot and cached.khz in _PLAUSIBLE_KHZ:
        return cached.khz
    for source, ask in sources:
        khz = ask()
        if khz is not None and khz in _PLAUSIBLE_KHZ:
            runcache.write(path, CachedFrequency(boot, khz, source))
            return khz
    raise HostError(
        "cannot find out the frequency of the time stamp counter: KVM does not tell it, machine "
        "code to read the counter may not run, and /proc/cpuinfo has no clock",
        hint="let processes map executable memory, or give access to /dev/kvm",
    )


def kvm_frequency(kvm: Kvm) -> int:
    """KVM_GET_TSC_KHZ of a new virtual CPU; raises OSError."""
    kvm.api_version()
    kvm.create(b"\xf4")  # hlt: it never runs
    return kvm.tsc_khz()


def _in_child(ask: Callable[[], int]) -> int | None:
    from kvmrkt.stage1.kvm.bounded import ChildFailedError, call_in_child

    try:
        return int(call_in_child(lambda: b"%d" % ask(), deadline_seconds=_CHILD_SECONDS))
    except (ChildFailedError, ValueError):
        return None


def _measure_here() -> int:
    """In a child: the code may be forbidden (no executable memory) or fault (PR_SET_TSC)."""
    import ctypes
    import mmap

    page = mmap.mmap(
        -1,
        mmap.PAGESIZE,
        flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
    )
    page.write(_RDTSC)
    read_counter = ctypes.CFUNCTYPE(ctypes.c_uint64)(
        ctypes.addressof(ctypes.c_char.from_buffer(page))
    )
    return measured_khz(read_counter, _monotonic_raw_ns)


def measured_khz(read_counter: Callable[[], int], clock_ns: Callable[[], int]) -> int:
    """The counter's rate against a clock, to 10 kHz."""
    first_ns, first = _reading(read_counter, clock_ns)
    time.sleep(_APART_SECONDS)
    last_ns, last = _reading(read_counter, clock_ns)
    khz = (last - first) * 1_000_000 / (last_ns - first_ns)
    return round(khz / _GRAIN_KHZ) * _GRAIN_KHZ


def _reading(read_counter: Callable[[], int], clock_ns: Callable[[], int]) -> tuple[int, int]:
    """Clock and counter at one moment: the pair that took the least time to read."""
    readings = [(clock_ns(), read_counter(), clock_ns()) for _ in range(_ATTEMPTS)]
    before, counter, after = min(readings, key=lambda reading: reading[2] - reading[0])
    return (before + after) // 2, counter


def _monotonic_raw_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
