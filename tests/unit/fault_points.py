"""The fault points there are in the code, and how a test looks at a process struck at one."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "kvmrkt"

OF_THE_MACHINE = (
    "mount-point-made",
    "virtiofsd-started",
    "virtiofsd-recorded",
    "scratch-made",
    "cgroup-made",
    "qemu-started",
    "qemu-recorded",
    "guest-heard",
    "apps-started",
    "app-start-recorded",
    "app-exit-recorded",
    "apps-ended",
    "qemu-killed",
)
"""Those of a machine, in their order: tests/functional/test_machine_faults.py strikes them."""

OF_THE_NETWORK = ("lease-taken", "link-joined", "rules-placed")
"""Those of a network in the making: tests/functional/test_network_faults.py strikes them."""
OF_PLUGINS = ("plugin-called", "chain-joined")
"""Those of a network that plug-ins make: tests/functional/test_plugin_networks.py strikes them."""

OF_AN_EXPORT = ("export-started",)
"""Those of an export: tests/functional/test_export_pods.py strikes them."""


def points_in_the_code() -> set[str]:
    """The name of every fault point."""
    return {
        name
        for file in SOURCE.rglob("*.py")
        for name in re.findall(r'\breach\("([^"]+)"\)', file.read_text())
    }


def wait_until_stopped(process: subprocess.Popen[str], point: str) -> None:
    """Wait until the process has stopped itself at the point; fails when it ends instead."""
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        process.returncode = os.waitstatus_to_exitcode(status)
        raise AssertionError(f"{point} was not reached: {process.communicate()}")
