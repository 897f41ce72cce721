"""The virtual machine alone, as kvmrkt would start it, for what a pod's start is compared with."""

from __future__ import annotations

import json
import subprocess
import tarfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kvmrkt.stage1.kvm.machine import Accelerator, Machine, qemu_argv
from kvmrkt.stage1.kvm.sizing import size_machine
from kvmrkt.stage1.kvm.tsc import tsc_khz
from kvmrkt.stage1.kvm.vmm import (
    CONSOLE,
    MONITOR,
    Wires,
    find_qemu,
    machine_ports,
    make_wires,
)

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
BUILD = ROOT / "build"
_BOOT_LIMIT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Boot:
    """What is booted, and on what."""

    accelerator: Accelerator
    initrd: Path

    def argv(self, wires: Wires) -> list[str]:
        """QEMU's command line: kvmrkt's own for a pod of one app, without its disks."""
        size = size_machine([None], [None], host_cpus=1, emulated=self.accelerator == "tcg")
        machine = Machine(
            name="kvmrkt-bench",
            accelerator=self.accelerator,
            cpus=size.cpus,
            memory_bytes=size.memory_bytes,
            kernel=BUILD / "kernel" / self.accelerator / "vmlinux",
            initrd=self.initrd,
            kernel_parameters=kernel_parameters(),
            tsc_khz=tsc_khz(),
            monitor_fd=wires.theirs[MONITOR].fileno(),
            console_fd=wires.theirs[CONSOLE].fileno(),
            ports=machine_ports(wires),
            disks=(),
        )
        return qemu_argv(find_qemu(self.accelerator, lean=True), machine)

    def start(self, wires: Wires, *extra: str) -> subprocess.Popen[bytes]:
        """Start QEMU; the caller ends it."""
        inherited = [end.fileno() for end in wires.theirs.values()]
        process = subprocess.Popen(
            [*self.argv(wires), *extra], pass_fds=inherited, stdin=subprocess.DEVNULL
        )
        wires.close_theirs()
        return process


def kernel_parameters() -> tuple[str, ...]:
    """The boot parameters of the stage1 image's manifest."""
    with tarfile.open(BUILD / "stage1-kvm.aci") as image:
        content = image.extractfile("manifest")
        assert content is not None
        annotations = {a["name"]: a["value"] for a in json.load(content)["annotations"]}
    return tuple(annotations["kvmrkt.io/stage1/kvm/kernel-parameters"].split())


def make_bare_initrd(folder: Path) -> Path:
    """An initrd whose init resets the machine at once."""
    init = folder / "bare-init"
    flags = ["-O2", "-static", "-nostdlib", "-nostartfiles", "-fno-stack-protector"]
    subprocess.run(["gcc", *flags, "-o", init, FOLDER / "bare_init.c"], check=True)
    archive = folder / "bare-initrd"
    archive.write_bytes(_newc("init", init.read_bytes(), 0o100755) + _newc("TRAILER!!!", b"", 0))
    return archive


def time_bare_boot(boot: Boot) -> float:
    """Seconds from starting QEMU until it has ended."""
    with ExitStack() as stack:
        wires = make_wires(stack, ())
        began = time.monotonic()
        process = boot.start(wires)
        stack.callback(process.kill)
        status = process.wait(_BOOT_LIMIT_SECONDS)
        seconds = time.monotonic() - began
        if status:
            raise RuntimeError(f"the bare machine's QEMU ended with status {status}")
        return seconds


def _newc(name: str, content: bytes, mode: int) -> bytes:
    """One entry of a cpio archive (format newc, cpio(5))."""
    fields = [1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name.encode() + b"\0") + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
