"""The command line as the functional tests drive it, and what they look at from outside."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "build" / "images"
BUSYBOX = IMAGES / "busybox.aci"
REDIS = IMAGES / "redis.aci"
INSIDE = IMAGES / "inside.aci"
PROGRAM = ROOT / ".venv" / "bin" / "kvmrkt"
DEADLINE_SECONDS = 240
"""For one command: a backstop against hangs, far above what a loaded machine takes."""


@dataclass(frozen=True)
class Kvmrkt:
    """The command line, with a data directory."""

    dir: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def argv(self, *words: str | Path) -> list[str]:
        """The command's words, the global flags among them."""
        flags = [f"--dir={self.dir}", "--insecure-options=image"]
        return [str(PROGRAM), *flags, *(str(word) for word in words)]

    def __call__(
        self, *words: str | Path, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.argv(*words), input=stdin, capture_output=True, text=True, check=False,
            timeout=DEADLINE_SECONDS, stdin=None if stdin is not None else subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """`run --net=none`."""
        return self("run", "--net=none", *words)

    def shell(self, script: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run a script in busybox's shell."""
        return self.run(BUSYBOX, "--exec=/bin/sh", *flags, "--", "-c", script)

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """Start `run --net=none` and return at once."""
        pod = subprocess.Popen(
            self.argv("run", "--net=none", *words),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started.append(pod)
        return pod

    def wait(self, uuid: str, seconds: float) -> str:
        """What `status` says once the pod's apps have started."""
        return subprocess.run(
            self.argv("status", f"--wait-ready={seconds:g}s", uuid),
            capture_output=True, text=True, check=True, timeout=2 * seconds,
        ).stdout  # fmt: skip

    def pods(self) -> list[Path]:
        """Every pod directory there is, in whatever state."""
        return sorted((self.dir / "pods").glob("*/*"))


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the apps printed, without the prefixes."""
    return [line.partition("]: ")[2] for line in done.stdout.splitlines()]


def lines_of(done: subprocess.CompletedProcess[str], app: str) -> list[str]:
    """What one app printed."""
    split = (line.partition("] ")[2].partition(": ") for line in done.stdout.splitlines())
    return [text for name, _, text in split if name.partition("[")[0] == app]


def processes_naming(text: str) -> list[str]:
    """The command lines of living processes with the text in them, or in an open file's path.

    virtiofsd names paths, and a jailed QEMU its pod; its disks are open files.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text in command or any(text in path for path in _open_files(entry)):
            found.append(command)
    return found


def _open_files(process: Path) -> list[str]:
    paths = []
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for file in (process / "fd").iterdir():
            with suppress(FileNotFoundError, PermissionError):
                paths.append(os.readlink(file))
    return paths
