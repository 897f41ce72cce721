"""Control groups for the processes of a pod, on hosts with version 1, version 2, or both.

A group `kvmrkt/UUID` below the root of each hierarchy that has a controller we want. Nothing else
of a hierarchy is changed but which controllers its top hands down.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.errors import HostError, describe

if TYPE_CHECKING:
    from kvmrkt.stage1.kvm.jail.plan import Limits

PARENT = "kvmrkt"
CONTROLLERS = ("memory", "pids", "cpu")
_PERIOD_MICROSECONDS = 100_000
_EMPTY_SECONDS = 5.0
_PAUSE_SECONDS = 0.01


class Hierarchy(msgspec.Struct, frozen=True):
    """One mounted tree of groups, and which of our controllers are in it."""

    mount_point: Path
    unified: bool
    controllers: tuple[str, ...]


def find_hierarchies(mountinfo: str, unified_controllers: dict[Path, str]) -> list[Hierarchy]:
    """The hierarchies with controllers that bound a pod, as /proc/self/mountinfo lists them.

    `unified_controllers` has the text of `cgroup.controllers` at a version 2 mount point.
    """
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        mount_point = Path(fields.split(" ")[4])
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup":
            words = options.split(" ")[-1].split(",")
        elif kind == "cgroup2":
            words = unified_controllers.get(mount_point, "").split()
        else:
            continue
        ours = tuple(name for name in CONTROLLERS if name in words and name not in found)
        if ours:
            hierarchy = Hierarchy(mount_point, kind == "cgroup2", ours)
            found.update(dict.fromkeys(ours, hierarchy))
    return list({id(hierarchy): hierarchy for hierarchy in found.values()}.values())


def host_hierarchies() -> list[Hierarchy]:
    """Those of this host."""
    mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    unified = {}
    for line in mountinfo.splitlines():
        if " - cgroup2 " in line:
            mount_point = Path(line.split(" ")[4])
            with suppress(OSError):
                unified[mount_point] = (mount_point / "cgroup.controllers").read_text()
    return find_hierarchies(mountinfo, unified)


def settings_of(limits: Limits, hierarchy: Hierarchy) -> dict[str, str]:
    """The files of a group, and what to write into them (Linux, cgroup-v1 and cgroup-v2.rst)."""
    quota = limits.cpu_millis * _PERIOD_MICROSECONDS // 1000
    if hierarchy.unified:
        files = {
            "memory": {"memory.max": f"{limits.memory_bytes}"},
            "cpu": {"cpu.max": f"{quota} {_PERIOD_MICROSECONDS}"},
        }
    else:
        files = {
            "memory": {"memory.limit_in_bytes": f"{limits.memory_bytes}"},
            "cpu": {
                "cpu.cfs_period_us": f"{_PERIOD_MICROSECONDS}",
                "cpu.cfs_quota_us": f"{quota}",
            },
        }
    files["pids"] = {"pids.max": f"{limits.threads}"}
    return {
        name: text
        for controller in hierarchy.controllers
        for name, text in files[controller].items()
    }


def group_folder(hierarchy: Hierarchy, name: str) -> Path:
    """Where the group of this name is."""
    return hierarchy.mount_point / PARENT / name


def make_group(hierarchy: Hierarchy, name: str, limits: Limits) -> Path:
    """Make the group with its limits; raises HostError. Whoever joins writes to `cgroup.procs`."""
    folder = group_folder(hierarchy, name)
    try:
        folder.parent.mkdir(exist_ok=True)
        if hierarchy.unified:
            wanted = " ".join(f"+{controller}" for controller in hierarchy.controllers)
            for above in (hierarchy.mount_point, folder.parent):
                (above / "cgroup.subtree_control").write_text(wanted)
        folder.mkdir(exist_ok=True)
        for file, text in settings_of(limits, hierarchy).items():
            (folder / file).write_text(text)
    except OSError as error:
        raise HostError(
            f"cannot make the control group {folder}: {describe(error)}",
            hint="the limits of a pod's machine need the right to make control groups",
        ) from error
    return folder


def remove_group(folder: Path) -> None:
    """Kill what is left in the group, and remove it; missing is fine. Raises HostError."""
    deadline = time.monotonic() + _EMPTY_SECONDS
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise HostError(
                    f"cannot remove the control group {folder}: {describe(error)}"
                ) from error
            _kill_members(folder)
            time.sleep(_PAUSE_SECONDS)  # a killed process leaves its group when it is reaped
        else:
            return


def _kill_members(folder: Path) -> None:
    import signal

    with suppress(OSError):
        for pid in (folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
