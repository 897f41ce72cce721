"""Supervisor and QEMU, killed at every step of a real pod: the truth is told, and nothing stays.

tests/unit/test_faults.py has the steps of pods and images for which no machine is needed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from real_pods import BUSYBOX, DEADLINE_SECONDS, ROOT, Kvmrkt, processes_naming

sys.path.insert(0, str(ROOT / "tests" / "unit"))

from fault_points import OF_THE_MACHINE, wait_until_stopped

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.functional

RUNTIME = Path("/run/kvmrkt/pods")
WITH_QEMU = OF_THE_MACHINE[
    OF_THE_MACHINE.index("qemu-started") : OF_THE_MACHINE.index("apps-ended")
]
SLEEPER = ("---", BUSYBOX, "--name=sleeper", "--exec=/bin/sleep", "--", "1000")


class World(NamedTuple):
    """A data directory in which somebody else's pod runs."""

    kvmrkt: Kvmrkt
    neighbour: str

    def start(self, point: str, folder: Path, *words: str | Path) -> subprocess.Popen[str]:
        """A pod of a short app and a host volume, and of `words`, that has stopped at the point."""
        pod = subprocess.Popen(
            self.kvmrkt.argv(
                "run", "--net=none",
                f"--volume=data,kind=host,source={folder}", "--mount=volume=data,target=/data",
                BUSYBOX, "--exec=/bin/true", *words,
            ),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "KVMRKT_FAULT": f"{point}:stop"},
        )  # fmt: skip
        self.kvmrkt.started.append(pod)
        wait_until_stopped(pod, point)
        return pod

    def uuid(self) -> str:
        """The one pod beside the neighbour."""
        (uuid,) = {pod.name for pod in self.kvmrkt.pods()} - {self.neighbour}
        return uuid

    def state(self, uuid: str) -> str:
        """What `list` and `status` say of it, and that the neighbour runs."""
        listed = self.kvmrkt("list", "--format=json")
        assert (listed.returncode, listed.stderr) == (0, "")
        states = {pod["name"]: str(pod["state"]) for pod in json.loads(listed.stdout)}
        assert states[self.neighbour] == "running"
        assert self.kvmrkt("status", uuid).stdout.startswith(f"state={states[uuid]}\n")
        return states[uuid]

    def assert_gc_leaves_nothing(self, uuid: str) -> None:
        """No file, no process, no folder of that pod."""
        done = self.kvmrkt("gc", "--grace-period=0s")
        assert done.returncode == 0, done.stderr
        assert [pod.name for pod in self.kvmrkt.pods()] == [self.neighbour]
        assert not (RUNTIME / uuid).exists()
        assert processes_naming(uuid) == []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "data").mkdir()
    (folder / "data" / "cas").symlink_to(store)
    kvmrkt = Kvmrkt(folder / "data")
    beat = "trap 'exit 0' TERM; while :; do echo beat; sleep 1; done"
    file = folder / "uuid"
    pod = kvmrkt.start(f"--uuid-file-save={file}", BUSYBOX, "--exec=/bin/sh", "--", "-c", beat)
    assert pod.stdout is not None
    assert "beat" in pod.stdout.readline()
    yield World(kvmrkt, file.read_text())
    pod.terminate()
    output, said = pod.communicate(timeout=DEADLINE_SECONDS)
    for other in kvmrkt.started:  # of a test that failed
        other.kill()
        other.communicate()
    assert pod.returncode == 0, said
    assert "beat" in output


@pytest.mark.parametrize("point", OF_THE_MACHINE)
def test_a_supervisor_killed_at_a_step_leaves_the_truth_and_nothing_else(
    world: World, tmp_path: Path, point: str
) -> None:
    pod = world.start(point, tmp_path)
    uuid = world.uuid()
    assert world.state(uuid) == "running"
    pod.kill()
    pod.communicate()
    assert world.state(uuid) == "exited"
    ended = OF_THE_MACHINE.index(point) >= OF_THE_MACHINE.index("app-exit-recorded")
    assert ("app-busybox=0" in world.kvmrkt("status", uuid).stdout) is ended
    world.assert_gc_leaves_nothing(uuid)


@pytest.mark.parametrize("point", WITH_QEMU)
def test_a_qemu_killed_at_a_step_ends_its_pod_with_the_truth(
    world: World, tmp_path: Path, point: str
) -> None:
    pod = world.start(point, tmp_path, *SLEEPER)  # else the machine might end by itself
    uuid = world.uuid()
    os.kill(qemu_of(uuid), signal.SIGKILL)
    assert world.state(uuid) == "running"
    pod.send_signal(signal.SIGCONT)
    _, said = pod.communicate(timeout=DEADLINE_SECONDS)
    assert (pod.returncode, "QEMU was ended by SIGKILL" in said) == (252, True), said
    assert world.state(uuid) == "exited"
    told = world.kvmrkt("status", uuid).stdout
    assert ("app-busybox=0" in told) is (point == "app-exit-recorded")
    assert "app-sleeper" not in told
    (folder,) = (path for path in world.kvmrkt.pods() if path.name == uuid)
    assert int((folder / "exit").read_text()) == pod.returncode
    assert json.loads((folder / "resources.json").read_text()) == {"resources": []}
    world.assert_gc_leaves_nothing(uuid)


def qemu_of(uuid: str) -> int:
    """The one process that is the pod's machine."""
    found = []
    for commands in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if f"kvmrkt-{uuid}".encode() in commands.read_bytes():
                found.append(int(commands.parent.name))
    (pid,) = found
    return pid
