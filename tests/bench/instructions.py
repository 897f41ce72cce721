"""Guest instructions from reset until the agent says hello: a figure no machine's speed changes."""

from __future__ import annotations

import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

from kvmrkt.stage1.kvm.ports import CONTROL_PORT
from kvmrkt.stage1.kvm.vmm import MONITOR, find_qemu, make_wires
from machine import BUILD, FOLDER, Boot

_HELLO_LIMIT_SECONDS = 300
_PER_VCPU_API = (8, 2)
"""From this QEMU on the plugin interface is version 2; older ones know only 1."""


def build_plugin(folder: Path) -> Path:
    """Compile the counting plugin for the QEMU that is installed."""
    said = subprocess.run(
        [find_qemu("tcg", lean=False), "--version"], capture_output=True, check=True
    )
    found = re.search(rb"version (\d+)\.(\d+)", said.stdout)
    assert found is not None
    api_version = 2 if (int(found[1]), int(found[2])) >= _PER_VCPU_API else 1
    plugin = folder / "instruction_plugin.so"
    flags = ["-shared", "-fPIC", "-O2", f"-DAPI_VERSION={api_version}"]
    subprocess.run(["gcc", *flags, "-o", plugin, FOLDER / "instruction_plugin.c"], check=True)
    return plugin


def count_instructions(plugin: Path, folder: Path) -> int:
    """Boot the real initrd under emulation, and end QEMU when the agent has said hello."""
    output = folder / "instructions"
    boot = Boot("tcg", BUILD / "initrd.cpio")
    with ExitStack() as stack:
        wires = make_wires(stack, ())
        process = boot.start(wires, "-plugin", f"{plugin},out={output}")
        stack.callback(process.wait)
        stack.callback(process.kill)
        control, monitor = wires.ours[CONTROL_PORT], wires.ours[MONITOR]
        control.settimeout(_HELLO_LIMIT_SECONDS)
        if b'"hello"' not in control.recv(4096):
            raise RuntimeError("the guest's agent did not say hello")
        monitor.sendall(b'{"execute":"qmp_capabilities"}\n{"execute":"quit"}\n')
        process.wait(_HELLO_LIMIT_SECONDS)
    return int(output.read_text().split()[0])
