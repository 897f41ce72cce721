"""Which accelerator QEMU gets: KVM where it works, else TCG, and why.

The probe's verdict is kept in `/run/kvmrkt/accel.json` as long as it is about the same boot, the
same kernel and the same device node. What costs nothing to look at (is there a device, may we open
it) is looked at each time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from kvmrkt.boot import boot_id
from kvmrkt.errors import HostError, UsageError
from kvmrkt.paths import RUNTIME
from kvmrkt.stage1.kvm import runcache
from kvmrkt.stage1.kvm.verdict import ProbeVerdict

if TYPE_CHECKING:
    from collections.abc import Callable

KVM_DEVICE = Path("/dev/kvm")
_FILE = "accel.json"

Kind = Literal["kvm", "tcg"]


class Accelerator(msgspec.Struct, frozen=True):
    """The choice; `verdict` is None where no probe was needed."""

    kind: Kind
    reason: str
    verdict: ProbeVerdict | None = None

    @property
    def warning(self) -> str | None:
        """What a person should know: that pods are slow here, and why. None with KVM."""
        if self.kind == "kvm":
            return None
        slow = "pods run under emulation (TCG), about 5 to 20 times slower than with KVM"
        return f"{slow}: {self.reason}"


HELLO_SECONDS: dict[Kind, float] = {"kvm": 60.0, "tcg": 300.0}
"""Deadlines for the agent's hello: generous, since a loaded host is no fault of the guest's."""


class DeviceIdentity(msgspec.Struct, frozen=True):
    """Changes when the device node is made anew, as when the kvm modules are loaded again."""

    device: int
    inode: int
    number: int
    changed_ns: int


class CacheKey(msgspec.Struct, frozen=True):
    """What a verdict is about."""

    boot_id: str
    kernel: str
    node: DeviceIdentity


class CachedVerdict(msgspec.Struct, frozen=True):
    """The content of `accel.json`."""

    key: CacheKey
    verdict: ProbeVerdict


def choose_accelerator(
    requested: str,
    cache_dir: Path = RUNTIME,
    *,
    device: Path = KVM_DEVICE,
    run_probe: Callable[[], ProbeVerdict] | None = None,
) -> Accelerator:
    """The accelerator for `auto`, `kvm` or `tcg`; HostError if `kvm` is asked for and unusable."""
    if requested == "tcg":
        return Accelerator("tcg", "it was asked for")
    if requested not in {"auto", "kvm"}:
        raise UsageError(f'unknown accelerator "{requested}"', hint="accelerators: auto, kvm, tcg")
    verdict = verdict_for(cache_dir, device=device, run_probe=run_probe)
    if verdict.usable:
        return Accelerator("kvm", verdict.reason, verdict)
    if requested == "kvm":
        raise HostError(
            f"cannot use the accelerator kvm: {verdict.reason}", hint=remedy(verdict, cache_dir)
        )
    return Accelerator("tcg", f"KVM is not usable: {verdict.reason}", verdict)


def verdict_for(
    cache_dir: Path = RUNTIME,
    *,
    device: Path = KVM_DEVICE,
    run_probe: Callable[[], ProbeVerdict] | None = None,
) -> ProbeVerdict:
    """The verdict on the device, from the cache where it holds."""
    try:
        node = _identity(device)
    except OSError as error:
        return ProbeVerdict(False, f"there is no {device} ({error.strerror})")
    if not os.access(device, os.R_OK | os.W_OK, effective_ids=True):
        return ProbeVerdict(False, f"no permission to open {device}")
    path = cache_dir / _FILE
    key = CacheKey(boot_id(), os.uname().release, node)
    cached = runcache.read(path, CachedVerdict)
    if cached is not None and cached.key == key:
        return cached.verdict
    if run_probe is None:
        from kvmrkt.stage1.kvm.kvmprobe import probe

        run_probe = probe
    verdict = run_probe()
    if verdict.lasting:
        runcache.write(path, CachedVerdict(key, verdict))
    return verdict


def remember_bad(reason: str, cache_dir: Path = RUNTIME, *, device: Path = KVM_DEVICE) -> None:
    """Keep from now on, until the next boot, that KVM failed a pod while it ran."""
    try:
        key = CacheKey(boot_id(), os.uname().release, _identity(device))
    except OSError:
        return  # the device is gone: nothing to remember about it
    verdict = ProbeVerdict(False, f"it failed a pod that ran: {reason}")
    runcache.write(cache_dir / _FILE, CachedVerdict(key, verdict))


def remedy(verdict: ProbeVerdict, cache_dir: Path = RUNTIME) -> str:
    """What a person can do about a device that is not usable."""
    if "there is no" in verdict.reason:
        return (
            "load the module kvm_intel or kvm_amd, and switch virtualisation on in the firmware; "
            "in a virtual machine, ask its host for nested virtualisation; or use --accel=tcg"
        )
    if "no permission" in verdict.reason:
        return "run as root or join the group kvm; or use --accel=tcg"
    return (
        "use a host with hardware virtualisation for its guests, or --accel=tcg; to probe once "
        f"more, delete {cache_dir / _FILE}"
    )


def _identity(device: Path) -> DeviceIdentity:
    stat = device.stat()
    return DeviceIdentity(stat.st_dev, stat.st_ino, stat.st_rdev, stat.st_ctime_ns)
