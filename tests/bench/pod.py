"""What kvmrkt itself costs: a pod's start, its own processor time, an idle pod's memory."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from machine import BUILD, ROOT

KVMRKT = ROOT / ".venv" / "bin" / "kvmrkt"
PYTHON = ROOT / ".venv" / "bin" / "python"
_SETTLE_SECONDS = 3.0
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Run:
    """One `kvmrkt run` from start to end."""

    wall_seconds: float
    own_cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Proportional set size of an idle pod's processes."""

    total_bytes: int
    guest_bytes: int
    """The part that is the guest's own used memory."""
    translated_bytes: int
    """The part that is code translated by an emulator; 0 under KVM."""

    @property
    def overhead_bytes(self) -> int:
        """What the pod costs beside what the guest uses."""
        return self.total_bytes - self.guest_bytes


def run_argv(data: Path, *command: str) -> list[str]:
    """A pod of the busybox image without a network."""
    executable, *arguments = command
    image = str(BUILD / "images" / "busybox.aci")
    options = [f"--dir={data}", "--insecure-options=image", "run", "--net=none"]
    return [str(KVMRKT), *options, image, "--exec", executable, "--", *arguments]


def time_run(data: Path) -> Run:
    """Run /bin/true in a pod; RuntimeError when it fails."""
    began = time.monotonic()
    process = subprocess.Popen(
        run_argv(data, "/bin/true"), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    # The process stays a zombie until it is reaped, so that its own processor time, without that
    # of the QEMU it waited for, can be read. (getrusage's figures would mix the two.)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    wall_seconds = time.monotonic() - began
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    own_ticks = int(fields[11]) + int(fields[12])  # utime and stime, proc(5)
    said = process.communicate()[1].decode()
    if process.returncode:
        raise RuntimeError(f"kvmrkt run failed with {process.returncode}: {said}")
    return Run(wall_seconds, own_ticks * _TICK_SECONDS)


def time_command(*argv: str) -> float:
    """Seconds one command takes."""
    began = time.monotonic()
    subprocess.run(argv, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


def measure_idle_memory(data: Path, guest_bytes: int) -> Memory:
    """Start a pod that sleeps, let it settle, and add up all its processes' memory."""
    script = "echo started; exec sleep 1000"
    process = subprocess.Popen(
        run_argv(data, "/bin/sh", "-c", script),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError("the idle pod did not start")
        time.sleep(_SETTLE_SECONDS)
        pids = process_tree(process.pid)
        return Memory(
            sum(_pss_bytes(pid) for pid in pids),
            sum(_mappings_bytes(pid, f"{guest_bytes // 1024} kB", "rw-p") for pid in pids),
            sum(_mappings_bytes(pid, "", "rwxp") for pid in pids),
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def process_tree(root: int) -> list[int]:
    """A process and all its descendants."""
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _pss_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(_kib(line) for line in text.splitlines() if line.startswith("Pss:"))


def _mappings_bytes(pid: int, size: str, permissions: str) -> int:
    """PSS of the mappings with these permissions and, unless it is empty, this size."""
    total_bytes, is_meant = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            is_meant = words[1] == permissions
        elif words[0] == "Size:":
            is_meant = is_meant and line.endswith(size)
        elif words[0] == "Pss:" and is_meant:
            total_bytes += _kib(line)
    return total_bytes


def _kib(line: str) -> int:
    return int(line.split()[1]) * 1024
