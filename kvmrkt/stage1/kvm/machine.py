"""The machine model: what a pod's virtual machine consists of, and QEMU's command line for it.

Pure: from data to data. Facts and figures come from measurements of Debian's QEMU 7.2 and from
QEMU's documentation of the microvm machine type (docs/system/i386/microvm.rst).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from kvmrkt.errors import UsageError

VIRTIO_SLOTS = 8
"""virtio-mmio transports of a microvm without ACPI."""
_FIXED_SLOTS = 3
"""virtio-serial, virtio-rng and virtio-balloon, in every pod."""

Accelerator = Literal["kvm", "tcg"]


class DiskImage(msgspec.Struct, frozen=True):
    """A raw disk image; `serial` is how the guest finds it."""

    serial: str
    path: Path
    read_only: bool
    fd: int | None = None
    """Inherited, open: then QEMU does not look for the path."""


class Port(msgspec.Struct, frozen=True):
    """A virtio-serial port whose host end is the inherited socket `fd`."""

    name: str
    fd: int


class VirtioFs(msgspec.Struct, frozen=True):
    """A share served by a virtiofsd that listens at the other end of the inherited socket `fd`."""

    tag: str
    fd: int


class Plan9(msgspec.Struct, frozen=True):
    """A share served by QEMU itself from `folder`."""

    tag: str
    folder: Path


class NetworkCard(msgspec.Struct, frozen=True):
    """A virtio network card whose packets travel through the inherited tap `fd`."""

    mac: str
    fd: int


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A pod's machine, complete."""

    name: str
    accelerator: Accelerator
    cpus: int
    memory_bytes: int
    kernel: Path
    initrd: Path
    kernel_parameters: tuple[str, ...]
    tsc_khz: int
    monitor_fd: int
    console_fd: int
    ports: tuple[Port, ...]
    disks: tuple[DiskImage, ...]
    share: VirtioFs | Plan9 | None = None
    cards: tuple[NetworkCard, ...] = ()


class DiskLayout(msgspec.Struct, frozen=True):
    """Which disks have a slot of their own, and which are LUNs of one SCSI controller."""

    slots: tuple[DiskImage, ...]
    luns: tuple[DiskImage, ...]


def lay_out_disks(disks: tuple[DiskImage, ...], *, other_devices: int) -> DiskLayout:
    """Give each disk a virtio-blk slot while slots last; past that, images share a controller.

    `other_devices` counts what else needs a slot beside the three of every pod. Raises UsageError
    when the machine has no slot left for the controller.
    """
    free = VIRTIO_SLOTS - _FIXED_SLOTS - other_devices
    if len(disks) <= free:
        return DiskLayout(slots=disks, luns=())
    own = tuple(disk for disk in disks if not disk.read_only)
    if len(own) + 1 > free:
        raise UsageError(
            f"the pod needs {len(own) + 1 + other_devices} devices beside the machine's own, and a "
            f"virtual machine has room for {VIRTIO_SLOTS - _FIXED_SLOTS}",
            hint="use fewer networks, or split the pod",
        )
    return DiskLayout(slots=own, luns=tuple(disk for disk in disks if disk.read_only))


def kernel_command_line(machine: Machine) -> str:
    """The stage1 image's parameters, then what only the host knows.

    The TSC's frequency is always given: a guest that calibrates it on a busy host under emulation
    may hang for ever. With KVM it costs nothing.
    """
    own = ("console=ttyS0", "tsc=reliable", f"tsc_early_khz={machine.tsc_khz}")
    return " ".join((*machine.kernel_parameters, *own))


# Each group of fixed options with its reason; figures are from the project's measurements.
_MACHINE_OPTIONS = (
    "acpi=off",  # no tables to parse: a boot of 46 instead of 84 million instructions
    "pcie=off",  # nothing to scan
    "usb=off",  # no controller
    "rtc=on",  # off costs 110 million instructions: the kernel waits for the absent CMOS
    "pit=on",  # off panics unless the PIC is off too
    "pic=on",  # saves nothing when off
    "isa-serial=on",  # the guest's console: the last words of a kernel that panics
    "x-option-roms=off",  # no firmware extension is needed
    "mem-merge=off",  # KSM would let one tenant time another's pages
    "dump-guest-core=off",  # a crash of QEMU must not write a tenant's memory to disk
)
_FIXED = (
    "-nodefaults",  # no device that is not in this list
    "-no-user-config",  # nor any that a file in /etc adds
    "-display", "none",
    "-no-reboot",  # a reset ends QEMU: that is how a pod powers off without ACPI
    "-global", "virtio-mmio.force-legacy=off",  # virtio 1.0: virtiofs hangs without
    "-sandbox",  # QEMU's own seccomp filter, all of it
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
)  # fmt: skip


def qemu_argv(qemu: Path, machine: Machine) -> list[str]:
    """QEMU's command line; raises UsageError when the pod does not fit the machine."""
    layout = lay_out_disks(machine.disks, other_devices=bool(machine.share) + len(machine.cards))
    # -cpu max and not qemu64: without RDRAND the random pool costs 100 million instructions
    cpu = "host" if machine.accelerator == "kvm" else "max"
    argv = [
        str(qemu),
        "-name", machine.name,
        "-M", ",".join(("microvm", *_MACHINE_OPTIONS, *_memory_option(machine))),
        "-accel", machine.accelerator,
        "-cpu", cpu,
        "-smp", str(machine.cpus),
        "-m", f"{machine.memory_bytes // (1 << 20)}M",
        *_FIXED,
        "-kernel", str(machine.kernel),
        "-initrd", str(machine.initrd),
        "-append", kernel_command_line(machine),
        "-chardev", f"socket,id=monitor,fd={machine.monitor_fd}",
        "-mon", "chardev=monitor,mode=control",
        "-chardev", f"socket,id=console,fd={machine.console_fd}",
        "-serial", "chardev:console",
        "-device", "virtio-serial-device,id=ports",
        "-object", "rng-builtin,id=entropy",
        "-device", "virtio-rng-device,rng=entropy",
        # pages the guest frees go back to the host without being asked for
        "-device", "virtio-balloon-device,id=balloon,free-page-reporting=on",
    ]  # fmt: skip
    for number, port in enumerate(machine.ports):
        argv += ["-chardev", f"socket,id=port{number},fd={port.fd}"]
        argv += ["-device", f"virtserialport,chardev=port{number},name={port.name}"]
    argv += _disk_options(layout)
    argv += _share_options(machine)
    for number, card in enumerate(machine.cards):
        # no vhost: it would put a guest's packets straight into the host's kernel
        argv += ["-netdev", f"tap,id=net{number},fd={card.fd},vhost=off"]
        argv += ["-device", f"virtio-net-device,netdev=net{number},mac={card.mac}"]
    return argv


def _memory_option(machine: Machine) -> tuple[str, ...]:
    # only virtiofs needs memory that another process can map
    return ("memory-backend=ram",) if isinstance(machine.share, VirtioFs) else ()


def _disk_options(layout: DiskLayout) -> list[str]:
    argv: list[str] = []
    for disk in (*layout.slots, *layout.luns):
        if disk.fd is not None:
            argv += ["-add-fd", f"fd={disk.fd},set={disk.fd}"]
    for disk in layout.slots:
        argv += ["-blockdev", _blockdev(disk)]
        argv += ["-device", f"virtio-blk-device,drive={disk.serial},serial={disk.serial}"]
    if layout.luns:
        argv += ["-device", "virtio-scsi-device,id=scsi"]
    for lun, disk in enumerate(layout.luns):
        argv += ["-blockdev", _blockdev(disk)]
        argv += [
            "-device",
            f"scsi-hd,bus=scsi.0,lun={lun},drive={disk.serial},serial={disk.serial}",
        ]
    return argv


def _blockdev(disk: DiskImage) -> str:
    read_only = "on" if disk.read_only else "off"
    # rendered images are shared by all pods and never written: no lock is wanted on them
    locking = "off" if disk.read_only else "on"
    # what a pod writes does not outlive the host: a flush would only wait for the host's disk
    flush = "" if disk.read_only else "cache.no-flush=on,"
    return (
        f"driver=raw,node-name={disk.serial},read-only={read_only},discard=unmap,"
        f"{flush}"
        f"file.driver=file,file.locking={locking},file.filename={_file_name(disk)}"
    )


def _file_name(disk: DiskImage) -> str:
    """Its path, or the name of the set that `-add-fd` made of its descriptor."""
    return _escaped(disk.path) if disk.fd is None else f"/dev/fdset/{disk.fd}"


def _share_options(machine: Machine) -> list[str]:
    share = machine.share
    if share is None:
        return []
    if isinstance(share, Plan9):
        return [
            "-fsdev", f"local,id=share,path={_escaped(share.folder)},security_model=none",
            "-device", f"virtio-9p-device,fsdev=share,mount_tag={share.tag}",
        ]  # fmt: skip
    size = machine.memory_bytes
    return [
        "-object", f"memory-backend-memfd,id=ram,size={size},share=on",
        "-chardev", f"socket,id=share,fd={share.fd}",
        "-device", f"vhost-user-fs-device,chardev=share,tag={share.tag}",
    ]  # fmt: skip


def _escaped(path: Path) -> str:
    # QEMU's option parser splits at commas; a doubled one is literal
    return str(path).replace(",", ",,")
