"""A cell for one QEMU: its identity, its groups, and the machine as it looks from inside."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kvmrkt.errors import HostError
from kvmrkt.faults import reach
from kvmrkt.paths import RUNTIME
from kvmrkt.stage1.kvm.jail import cgroups
from kvmrkt.stage1.kvm.jail.calls import denied_calls
from kvmrkt.stage1.kvm.jail.libraries import files_of
from kvmrkt.stage1.kvm.jail.plan import Bind, Identity, Jail, Limits, limits_of_machine
from kvmrkt.stage1.kvm.jail.users import take_uid
from kvmrkt.stage1.kvm.machine import Plan9
from kvmrkt.stage1.kvm.seccomp.program import compiled_once

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from kvmrkt.pods.resources import Resources
    from kvmrkt.stage1.kvm.machine import DiskImage, Machine

_FIRMWARE = ("/usr/share/qemu/qboot.rom", "/usr/share/qemu/bios-microvm.bin")
_EMULATOR = "*/qemu/accel-tcg-x86_64.so"
"""Debian's QEMU loads its emulator from here (package qemu-system-x86)."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_KVM = Path("/dev/kvm")
_KERNEL, _INITRD = Path("/boot/kernel"), Path("/boot/initrd")
_FOR_VOLUMES = (0, 1, 3, 4, 6, 7, 27)
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, MKNOD: a server of files needs them."""


class Cell(NamedTuple):
    """Where to start QEMU, and with what."""

    machine: Machine
    """As it looks from inside."""
    jail: Jail
    disks: tuple[int, ...]
    """Descriptors to inherit."""
    groups: tuple[Path, ...] = ()
    """Control groups to join."""


def furnish(machine: Machine, qemu: Path, uuid: str, stack: ExitStack) -> Cell:
    """A cell for this machine of the pod `uuid`, which `stack` gives back.

    It takes nothing that stays on the host when this process is killed. Raises HostError.
    """
    root = RUNTIME / "jail"  # every jail mounts its own root there, where nobody else sees it
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    user = take_uid(RUNTIME / "uids", uuid)
    stack.callback(user.close)
    disks = tuple(_open(disk, stack) for disk in machine.disks)
    volumes = machine.share.folder if isinstance(machine.share, Plan9) else None
    return Cell(
        machine=msgspec.structs.replace(machine, kernel=_KERNEL, initrd=_INITRD, disks=disks),
        jail=Jail(
            root=root,
            files=_files(machine, qemu),
            identity=_identity(machine, user.uid),
            limits=_limits(machine),
            filter=base64.b64decode(compiled_once(denied_calls(), "jail")),
            volumes=volumes,
        ),
        disks=tuple(disk.fd for disk in disks if disk.fd is not None),
    )


def limit(cell: Cell, uuid: str, resources: Resources, warn: Callable[[str], None]) -> Cell:
    """The cell with control groups of its own, written down in `resources` before they are made.

    A host that does not let us make any is warned about.
    """
    made = []
    try:
        for hierarchy in cgroups.host_hierarchies():
            resources.record("cgroup", str(cgroups.group_folder(hierarchy, uuid)))
            made.append(cgroups.make_group(hierarchy, uuid, cell.jail.limits))
            reach("cgroup-made")
    except HostError as error:
        warn(f"{error}; the pod's machine is not limited by the host")
    return cell._replace(groups=tuple(made))


def _open(disk: DiskImage, stack: ExitStack) -> DiskImage:
    flags = os.O_RDONLY if disk.read_only else os.O_RDWR
    fd = os.open(disk.path, flags | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return msgspec.structs.replace(disk, fd=fd)


def _files(machine: Machine, qemu: Path) -> tuple[Bind, ...]:
    modules: tuple[Path, ...] = ()
    devices = [Path(device) for device in _DEVICES]
    if machine.accelerator == "tcg":
        modules = tuple(sorted(Path("/usr/lib").glob(_EMULATOR)))
    else:
        devices.append(_KVM)
    firmware = [Path(file) for file in _FIRMWARE if os.access(file, os.R_OK)]
    own = (*files_of(qemu, RUNTIME, modules=modules), *firmware, *devices)
    boot = (Bind(machine.kernel, _KERNEL), Bind(machine.initrd, _INITRD))
    return (*(Bind(file, file) for file in own), *boot)


def _identity(machine: Machine, uid: int) -> Identity:
    if isinstance(machine.share, Plan9):
        # it serves the files of any user, so it has to be any user; in a root of its own
        return Identity(0, 0, capabilities=_FOR_VOLUMES)
    if machine.accelerator != "kvm":
        return Identity(uid, uid)
    state = _KVM.stat()
    groups = (state.st_gid,) if state.st_mode & stat.S_IWGRP else ()
    return Identity(uid, uid, groups)


def _limits(machine: Machine) -> Limits:
    return limits_of_machine(
        machine.memory_bytes,
        machine.cpus,
        disk_bytes=max(disk.path.stat().st_size for disk in machine.disks),
        emulated=machine.accelerator == "tcg",
    )
