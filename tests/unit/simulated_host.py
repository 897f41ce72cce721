"""A whole host for tests: data, configuration and images in a folder, and the command line on it.

As a program, this module is `kvmrkt` on such a host, its folder named by KVMRKT_SIMULATED, or the
supervisor of a pod in the background.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import simulated_engine
from aci_files import entry, manifest, write_aci

import kvmrkt.paths
from kvmrkt import background
from kvmrkt.cli import main
from kvmrkt.paths import DataDir

if TYPE_CHECKING:
    import pytest

VARIABLE = "KVMRKT_SIMULATED"
STAGE1 = {
    "coreos.com/rkt/stage1/run": "/init",
    "coreos.com/rkt/stage1/enter": "/enter",
    "coreos.com/rkt/stage1/gc": "/gc",
    "coreos.com/rkt/stage1/interface-version": "6",
    "kvmrkt.io/stage1/engine": simulated_engine.NAME,
}
PROGRAM = (sys.executable, str(Path(__file__).resolve()))
SUPERVISOR = (*PROGRAM, "--supervisor")
DEADLINE_SECONDS = 60
"""For one command: a backstop against hangs."""


class Result(NamedTuple):
    """What a command did."""

    status: int
    output: str
    errors: str


class SimulatedHost:
    """Commands run in this process, or, where something must go on meanwhile, in one of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.data = DataDir(folder / "data")
        self.flags = host_flags(folder)
        self._capsys = capsys
        self._children: list[subprocess.Popen[str]] = []

    def __call__(self, *words: str | Path) -> Result:
        """Run a command in this process."""
        status = main.run([*self.flags, *map(str, words)])
        said = self._capsys.readouterr()
        return Result(status, said.out, said.err)

    def run(self, *words: str | Path) -> Result:
        """`run --net=none`."""
        return self("run", "--net=none", *words)

    def start(self, *words: str | Path, fault: str | None = None) -> subprocess.Popen[str]:
        """Start a command in a process of its own, to be struck at a point of kvmrkt.faults."""
        child = subprocess.Popen(
            [*PROGRAM, *self.flags, *map(str, words)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **({"KVMRKT_FAULT": fault} if fault else {})},
        )  # fmt: skip
        self._children.append(child)
        return child

    def finish(self, child: subprocess.Popen[str]) -> Result:
        """Wait for a command of `start`."""
        output, errors = child.communicate(timeout=DEADLINE_SECONDS)
        return Result(child.returncode, output, errors)

    def running(self, child: subprocess.Popen[str], uuid_file: Path) -> str:
        """The UUID of the pod that `child` runs, once its apps have started."""
        self.wait_for(uuid_file, child)
        uuid = uuid_file.read_text()
        self.wait_for(self.data.pods / "run" / uuid / "pid", child)
        assert self("status", "--wait-ready=60s", uuid).status == 0
        return uuid

    def wait_for(self, file: Path, child: subprocess.Popen[str]) -> None:
        """Wait until a process has written a file; fails when the process ends instead."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (file.exists() and file.stat().st_size):
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def image(self, name: str = "app", **changes: object) -> Path:
        """An image `example.com/NAME` in a file; `changes` are to its manifest."""
        document = manifest(**{"name": f"example.com/{name}", **changes})
        return write_aci(self.folder / f"{name}.aci", entry("rootfs/bin"), document=document)

    def pods(self) -> dict[str, str]:
        """Every pod directory there is: section by UUID."""
        return {path.name: path.parent.name for path in self.data.pods.glob("*/*")}

    def close(self) -> None:
        """End what a failed test left."""
        for child in self._children:
            child.kill()
            child.communicate()


def host_flags(folder: Path) -> list[str]:
    """The global flags that name everything on such a host."""
    return [
        f"--dir={folder / 'data'}",
        f"--system-config={folder / 'usr'}",
        f"--local-config={folder / 'etc'}",
        "--insecure-options=image",
    ]


def set_up(folder: Path) -> None:
    """Make the host's files: a stage1 image of the simulated engine is the default."""
    images = folder / "usr" / "stage1-images"
    images.mkdir(parents=True)
    annotations = [{"name": key, "value": text} for key, text in STAGE1.items()]
    document = manifest(name="example.com/stage1", app=None, annotations=annotations)
    write_aci(images / "stage1-kvm.aci", document=document)


def pretend(folder: Path) -> None:
    """This process is root on the host, as far as kvmrkt can tell."""
    simulated_engine.register()
    kvmrkt.paths.RUNTIME = folder / "run"
    os.geteuid = lambda: 0


if __name__ == "__main__":
    pretend(Path(os.environ[VARIABLE]))
    if sys.argv[1:] == ["--supervisor"]:
        background.main()
    main.main()
