"""What a host needs to run pods: facts are looked up in one place, judged by pure functions."""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvmrkt.config import GlobalOptions
    from kvmrkt.stage1.kvm.verdict import ProbeVerdict

QEMU_MINIMUM = (7, 2)
SQUASHFS_MINIMUM = (4, 5)
"""The first mksquashfs that reads tar archives."""
KERNEL_MINIMUM = (5, 3)
"""The first Linux with pidfd_open(2), by which pods are stopped and cleaned up after."""

_GIB = 1 << 30
_FREE_WARNING_BYTES = 2 * _GIB
_FREE_FAILURE_BYTES = 256 << 20


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the report; `remedy` is what to do about it."""

    name: str
    level: Level
    text: str
    remedy: str = ""


class Tool(msgspec.Struct, frozen=True):
    """A program: where it is and what it says its version is, both None if it was not found."""

    path: Path | None = None
    version: str | None = None


class Space(msgspec.Struct, frozen=True):
    """A folder, or its nearest parent that exists."""

    path: Path
    writable: bool
    free_bytes: int


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found on the host."""

    effective_user: int
    kernel: str
    verdict: ProbeVerdict
    cpu_virtualisation: bool
    tsc_khz: int | None
    qemu: Tool
    virtiofsd: Path | None
    mksquashfs: Tool
    nft: Path | None
    tun: bool
    """Whether links for guests can be made."""
    runtime: Space
    data: Space
    stage1: Path | None
    stage1_searched: tuple[Path, ...]
    cgroup_v2: bool


def check_root(facts: Facts) -> Check:
    """Most commands are root's."""
    if facts.effective_user == 0:
        return Check("root", Level.OK, "running as root")
    return Check(
        "root",
        Level.FAILURE,
        f"running as user {facts.effective_user}: run, gc and rm refuse",
        "run kvmrkt as root",
    )


def check_kernel(facts: Facts) -> Check:
    """The host's kernel."""
    if _version(facts.kernel) >= KERNEL_MINIMUM:
        return Check("kernel", Level.OK, f"Linux {facts.kernel}")
    return Check(
        "kernel", Level.FAILURE, f"Linux {facts.kernel} is too old", "use Linux 5.3 or later"
    )


def check_accelerator(facts: Facts) -> Check:
    """What `--accel=auto` chooses, and the figure it goes by."""
    from kvmrkt.stage1.kvm.accel import remedy

    if facts.verdict.usable:
        return Check("accelerator", Level.OK, f"auto chooses kvm: {facts.verdict.reason}")
    hint = "" if facts.cpu_virtualisation else " (the CPU shows neither vmx nor svm)"
    return Check(
        "accelerator",
        Level.WARNING,
        f"auto chooses tcg, which is about 5 to 20 times slower; KVM is not usable: "
        f"{facts.verdict.reason}{hint}",
        remedy(facts.verdict),
    )


def check_clock(facts: Facts) -> Check:
    """The frequency the guest's kernel is told."""
    if facts.tsc_khz is not None:
        return Check("clock", Level.OK, f"the time stamp counter runs at {facts.tsc_khz} kHz")
    return Check(
        "clock",
        Level.FAILURE,
        "the frequency of the time stamp counter cannot be found out",
        "let processes map executable memory, or give access to /dev/kvm",
    )


def check_qemu(facts: Facts) -> Check:
    """QEMU and its age."""
    return _check_tool(
        "qemu", facts.qemu, QEMU_MINIMUM, "apt-get install qemu-system-x86", Level.FAILURE
    )


def check_mksquashfs(facts: Facts) -> Check:
    """What renders images."""
    return _check_tool(
        "mksquashfs", facts.mksquashfs, SQUASHFS_MINIMUM, "apt-get install squashfs-tools",
        Level.FAILURE,
    )  # fmt: skip


def check_volumes(facts: Facts) -> Check:
    """How volumes of the host reach a pod."""
    if facts.virtiofsd is not None:
        return Check("volumes", Level.OK, f"over virtiofs, {facts.virtiofsd}")
    return Check(
        "volumes",
        Level.WARNING,
        "over 9p, since there is no virtiofsd: slower, and some file operations are missing",
        "apt-get install virtiofsd (Debian 13) or qemu-system-common (Debian 12)",
    )


def check_networks(facts: Facts) -> Check:
    """What pods with networks need, beside --net=none."""
    if facts.nft is None:
        return Check(
            "networks", Level.WARNING, "no nft: pods can run with --net=none only",
            "apt-get install nftables",
        )  # fmt: skip
    if not facts.tun:
        return Check(
            "networks", Level.WARNING, "no /dev/net/tun: pods can run with --net=none only",
            "modprobe tun, or give access to /dev/net/tun",
        )  # fmt: skip
    return Check("networks", Level.OK, f"taps by /dev/net/tun, rules by {facts.nft}")


def check_runtime(facts: Facts) -> Check:
    """The folder for sockets."""
    return _check_space("runtime folder", facts.runtime, warning=0, failure=0)


def check_data(facts: Facts) -> Check:
    """The folder for images and pods."""
    return _check_space(
        "data folder", facts.data, warning=_FREE_WARNING_BYTES, failure=_FREE_FAILURE_BYTES
    )


def check_stage1(facts: Facts) -> Check:
    """The image pods boot from."""
    if facts.stage1 is not None:
        return Check("stage1", Level.OK, str(facts.stage1))
    return Check(
        "stage1",
        Level.FAILURE,
        "no stage1-kvm.aci in " + " or ".join(str(path.parent) for path in facts.stage1_searched),
        "build it with make, or name one with --stage1-path",
    )


def check_cgroups(facts: Facts) -> Check:
    """How a pod's own processes can be limited on the host."""
    if facts.cgroup_v2:
        return Check("cgroups", Level.OK, "version 2")
    return Check(
        "cgroups",
        Level.WARNING,
        "no cgroup v2 at /sys/fs/cgroup: limits hold inside pods, but not for QEMU itself",
        "boot with systemd.unified_cgroup_hierarchy=1",
    )


CHECKS: Sequence[Callable[[Facts], Check]] = (
    check_root,
    check_kernel,
    check_accelerator,
    check_clock,
    check_qemu,
    check_volumes,
    check_mksquashfs,
    check_networks,
    check_runtime,
    check_data,
    check_stage1,
    check_cgroups,
)


def diagnose(facts: Facts) -> list[Check]:
    """All checks, in the order of the report."""
    return [check(facts) for check in CHECKS]


def worst(checks: Sequence[Check]) -> Level:
    """The worst level among them."""
    found = {check.level for check in checks}
    return next((level for level in (Level.FAILURE, Level.WARNING) if level in found), Level.OK)


def gather(options: GlobalOptions) -> Facts:
    """Look at this host."""
    from kvmrkt.fetching import stage1_sources
    from kvmrkt.paths import RUNTIME
    from kvmrkt.stage1.image import default_paths
    from kvmrkt.stage1.kvm.accel import verdict_for
    from kvmrkt.stage1.kvm.share import find_virtiofsd

    searched = default_paths(stage1_sources(options).folder)
    return Facts(
        effective_user=os.geteuid(),
        kernel=os.uname().release,
        verdict=verdict_for(),
        cpu_virtualisation=_cpu_virtualisation(Path("/proc/cpuinfo")),
        tsc_khz=_tsc_khz(),
        qemu=_tool("qemu-system-x86_64", "--version", "qemu-system-x86"),
        virtiofsd=find_virtiofsd(),
        mksquashfs=_tool("mksquashfs", "-version", "squashfs-tools"),
        nft=_tool("nft", "--version", "nftables").path,
        tun=os.access("/dev/net/tun", os.R_OK | os.W_OK),
        runtime=look_at_space(RUNTIME),
        data=look_at_space(options.data.root),
        stage1=next((path for path in searched if path.is_file()), None),
        stage1_searched=searched,
        cgroup_v2=Path("/sys/fs/cgroup/cgroup.controllers").exists(),
    )


def look_at_space(path: Path) -> Space:
    """The folder as it is, or as its nearest parent would let it be made."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    figures = os.statvfs(there)
    return Space(path, os.access(there, os.W_OK | os.X_OK), figures.f_bavail * figures.f_frsize)


def _check_tool(
    name: str, tool: Tool, minimum: tuple[int, int], install: str, missing: Level
) -> Check:
    wanted = ".".join(map(str, minimum))
    if tool.path is None:
        return Check(name, missing, f"not found; version {wanted} or later is needed", install)
    if tool.version is None:
        return Check(name, Level.WARNING, f"{tool.path} does not tell its version", install)
    if _version(tool.version) < minimum:
        return Check(
            name, Level.FAILURE, f"{tool.path} is version {tool.version}: too old",
            f"install version {wanted} or later",
        )  # fmt: skip
    return Check(name, Level.OK, f"{tool.path}, version {tool.version}")


def _check_space(name: str, space: Space, *, warning: int, failure: int) -> Check:
    if not space.writable:
        return Check(
            name, Level.FAILURE, f"cannot write to {space.path}", "run as root, or see --dir"
        )
    text = f"{space.path}, {space.free_bytes / _GIB:.1f} GiB free"
    if space.free_bytes < failure:
        return Check(name, Level.FAILURE, text, "free some space, or choose another with --dir")
    if space.free_bytes < warning:
        return Check(name, Level.WARNING, text, "free some space, or choose another with --dir")
    return Check(name, Level.OK, text)


def _version(text: str) -> tuple[int, ...]:
    """The leading numbers: `10.0.2 (Debian …)` is (10, 0, 2)."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _tool(name: str, flag: str, package: str) -> Tool:
    from kvmrkt.process import ProcessError, find_program, run

    try:
        path = find_program(name, package=package)
    except HostError:
        return Tool()
    try:
        said = run([str(path), flag]).decode(errors="replace")
    except (ProcessError, OSError):
        return Tool(path)
    found = re.search(r"version (\d[\w.]*)", said)
    return Tool(path, found[1] if found else None)


def _cpu_virtualisation(cpuinfo: Path) -> bool:
    try:
        return re.search(r"^flags\b.*\b(vmx|svm)\b", cpuinfo.read_text(), re.MULTILINE) is not None
    except OSError:
        return False


def _tsc_khz() -> int | None:
    from kvmrkt.stage1.kvm.tsc import tsc_khz

    try:
        return tsc_khz()
    except HostError:
        return None
