"""Killed at any step: what is said of a pod stays true, gc leaves nothing, others live on.

On the simulated engine; tests/functional/test_machine_faults.py does the same to real machines.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from fault_points import (
    OF_AN_EXPORT,
    OF_PLUGINS,
    OF_THE_MACHINE,
    OF_THE_NETWORK,
    points_in_the_code,
    wait_until_stopped,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from simulated_host import SimulatedHost

NOBODY_AT_WORK = {
    "prepare": "aborted prepare",
    "prepared": "prepared",
    "run": "exited",
    "exited-garbage": "exited garbage",
}
"""What `list` shows, and says, once no process holds a pod."""
BEING_WORKED_ON = {
    "preparing",
    "prepared",
    "running",
    "exited",
    "exited deleting",
    "exited garbage",
}


class World(NamedTuple):
    """A host on which somebody else's pod runs."""

    host: SimulatedHost
    neighbour: str
    uuid_file: Path

    def run(self, program: str) -> Words:
        """The words to run a pod, whose UUID goes to `uuid_file`."""
        flags = ["--net=none", f"--uuid-file-save={self.uuid_file}"]
        return ["run", *flags, self.host.image(), f"--exec={program}"]

    def pods(self) -> dict[str, str]:
        """The section of every pod but the neighbour, by UUID."""
        return {uuid: where for uuid, where in self.host.pods().items() if uuid != self.neighbour}

    def states(self) -> dict[str, str]:
        """What `list` and, in the same words, `status` say of every pod but the neighbour."""
        listed = self.host("list", "--format=json")
        assert (listed.status, listed.errors) == (0, "")
        states = {pod["name"]: pod["state"] for pod in json.loads(listed.output)}
        for uuid, state in states.items():
            told = self.host("status", uuid)
            assert (told.status, told.errors) == (0, "")
            assert told.output.splitlines()[0] == f"state={state}"
        assert states.pop(self.neighbour) == "running"
        return states


Words = list["str | Path"]


@pytest.fixture
def world(host: SimulatedHost) -> Iterator[World]:
    file = host.folder / "neighbour"
    pod = host.start("run", "--net=none", f"--uuid-file-save={file}", host.image("neighbour"),
                     "--exec=/bin/sleep")  # fmt: skip
    yield World(host, host.running(pod, file), host.folder / "uuid")
    pod.terminate()
    assert host.finish(pod).status == 0


# -- commands and the points they come to ----------------------------------------------------------


def run(world: World) -> Words:
    return world.run("/bin/true")


def hold(world: World) -> Words:
    return world.run("/bin/hold")


def prepare(world: World) -> Words:
    return ["prepare", world.host.image()]


def prepare_as_the_first(world: World) -> Words:
    shutil.rmtree(world.host.data.cas / "stage1")
    return prepare(world)


def run_prepared(world: World) -> Words:
    prepared = world.host("prepare", "--quiet", world.host.image())
    return ["run-prepared", "--net=none", prepared.output.strip()]


def collect(world: World) -> Words:
    world.host(*run(world))
    return ["gc", "--grace-period=0s"]


def remove(world: World) -> Words:
    world.host(*run(world))
    return ["rm", *world.pods()]


def collect_what_was_held(world: World) -> Words:
    pod = world.host.start(*hold(world), fault="resource-recorded@2:stop")
    wait_until_stopped(pod, "resource-recorded")
    pod.kill()
    pod.communicate()
    return ["gc", "--grace-period=0s"]


def fetch(world: World) -> Words:
    return ["fetch", world.host.image("other")]


def render(world: World) -> Words:
    world.host("fetch", world.host.image("base"))
    above = world.host.image("above", dependencies=[{"imageName": "example.com/base"}])
    return ["fetch", above]


def remove_image(world: World) -> Words:
    world.host(*fetch(world))
    return ["image", "rm", "example.com/other"]


def collect_images(world: World) -> Words:
    world.host(*remove_image(world))
    (world.host.data.cas / "tmp" / "download-of-someone-killed").touch()
    return ["image", "gc", "--grace-period=0s"]


class Case(NamedTuple):
    """A command that comes to a point, for the count-th time."""

    point: str
    words: Callable[[World], Words]
    count: int = 1
    stopped: bool = False
    """The pod goes on to the point when it is asked to stop."""

    def __str__(self) -> str:
        """The test's name."""
        return f"{self.words.__name__}: {self.point} {self.count}"


CASES = [
    Case("pod-made", run),
    Case("pod-locked", run),
    *(Case("pod-file-written", run, count) for count in range(1, 12)),
    Case("pod-moved", run, 1),
    Case("pod-moved", run, 2),
    Case("pod-moved", prepare, 2),
    Case("pod-moved", run_prepared),
    Case("pod-filled", run),
    Case("pod-filled", prepare),
    Case("uuid-saved", run),
    Case("pod-entered", run),
    Case("pod-entered", run_prepared),
    Case("pod-released", run),
    Case("exit-written", run),
    Case("exit-written", run_prepared),
    Case("resource-recorded", hold, 1),
    Case("run-dir-made", hold),
    Case("resource-recorded", hold, 2),
    Case("leftover-killed", hold, stopped=True),
    Case("resource-released", hold, 1, stopped=True),
    Case("resource-released", hold, 2, stopped=True),
    Case("tree-removed", hold, stopped=True),
    Case("pod-marked", collect),
    Case("garbage-released", collect),
    Case("garbage-hidden", collect),
    Case("tree-unmounted", collect),
    Case("tree-removed", collect),
    Case("garbage-hidden", remove),
    Case("tree-unmounted", remove),
    Case("resource-released", collect_what_was_held, 1),
    Case("resource-released", collect_what_was_held, 2),
    *(Case("temporary-made", fetch, count) for count in range(1, 4)),
    Case("image-checked", fetch),
    Case("image-file-placed", fetch, 1),
    Case("image-file-placed", fetch, 2),
    Case("image-indexed", fetch),
    Case("tree-placed", fetch),
    Case("tree-placed", render),
    Case("boot-files-extracted", prepare_as_the_first),
    Case("boot-files-placed", prepare_as_the_first),
    Case("image-file-removed", remove_image, 1),
    Case("image-file-removed", remove_image, 2),
    Case("image-tree-removed", collect_images),
    Case("temporary-removed", collect_images),
]
OF_THEIR_OWN = {"supervisor-signalled", "supervisor-spawned", "scratch-formatted"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_command_killed_at_a_step_leaves_the_truth_and_nothing_else(
    world: World, case: Case
) -> None:
    words = case.words(world)
    struck = strike(world, case, words)
    assert set(world.states().values()) <= BEING_WORKED_ON
    struck.kill()
    struck.communicate()
    pods = world.pods()
    listed = {uuid: where for uuid, where in pods.items() if where in NOBODY_AT_WORK}
    assert world.states() == {uuid: NOBODY_AT_WORK[where] for uuid, where in listed.items()}
    assert set(pods.values()) - set(NOBODY_AT_WORK) <= {"embryo", "garbage"}
    assert_gc_leaves_nothing(world)
    assert_all_works_on(world)


def strike(world: World, case: Case, words: Words) -> subprocess.Popen[str]:
    """Start the command, and wait until it has stopped itself at the case's point."""
    struck = world.host.start(*words, fault=f"{case.point}@{case.count}:stop")
    if case.stopped:
        world.host.running(struck, world.uuid_file)
        struck.terminate()
    wait_until_stopped(struck, case.point)
    return struck


def assert_gc_leaves_nothing(world: World) -> None:
    done = world.host("gc", "--grace-period=0s", "--expire-prepared=0s")
    assert done.status == 0, done.errors
    assert world.pods() == {}
    runtime = world.host.folder / "run" / "pods"
    assert [path.name for path in runtime.glob("*") if path.name != world.neighbour] == []
    assert processes_naming(runtime) == []
    done = world.host("image", "gc", "--grace-period=0s")
    assert done.status == 0, done.errors
    assert list((world.host.data.cas / "tmp").iterdir()) == []


def processes_naming(folder: Path) -> list[str]:
    """What of the pods of `/bin/hold` is left."""
    wanted = os.fsencode(folder)
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            command = entry.read_bytes()
            if wanted in command:
                found.append(command.decode())
    return found


def assert_all_works_on(world: World) -> None:
    """What was struck half-way is in nobody's way."""
    assert world.host(*fetch(world)).status == 0
    assert world.host(*run(world)).status == 0
    assert world.host("image", "verify", "example.com/other", "example.com/app").status == 0


def test_a_stop_that_is_killed_has_asked_the_pod(world: World) -> None:
    pod = world.host.start(*world.run("/bin/sleep"))
    uuid = world.host.running(pod, world.uuid_file)
    stop = world.host.start("stop", uuid, fault="supervisor-signalled")
    assert world.host.finish(stop).status == -signal.SIGKILL
    assert world.host.finish(pod).status == 0
    assert world.states() == {uuid: "exited"}
    assert_gc_leaves_nothing(world)


PROGRAM = """
import os, sys
from pathlib import Path
import simulated_host
from kvmrkt import AppRequest, Host, PodRequest, background
folder = Path(os.environ["KVMRKT_SIMULATED"])
simulated_host.pretend(folder)
background.PROGRAM = simulated_host.SUPERVISOR
configuration = {"system_config": folder / "usr", "local_config": folder / "etc"}
host = Host(folder / "data", **configuration, insecure_options="image")
host.run(PodRequest(apps=(AppRequest(image=sys.argv[1], exec="/bin/sleep"),)))
"""


def test_a_program_killed_as_its_pod_starts_leaves_a_pod_like_any_other(world: World) -> None:
    strike_here = {"KVMRKT_FAULT": "supervisor-spawned", "PYTHONPATH": str(Path(__file__).parent)}
    struck = subprocess.run(
        [sys.executable, "-c", PROGRAM, world.host.image()], env={**os.environ, **strike_here}
    )
    assert struck.returncode == -signal.SIGKILL
    (uuid,) = world.pods()
    assert world.host("status", "--wait-ready=60s", uuid).status == 0
    assert world.states() == {uuid: "running"}
    assert world.host("stop", uuid).status == 0
    assert_gc_leaves_nothing(world)


def test_a_scratch_disk_killed_in_the_making_is_swept(world: World) -> None:
    target = world.host.folder / "disk"
    program = f"""
from pathlib import Path
from kvmrkt.stage1.kvm.scratch import make_scratch
make_scratch(Path({str(world.host.data.cas)!r}), Path({str(target)!r}), 1 << 30)
"""
    struck = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "KVMRKT_FAULT": "scratch-formatted"}
    )
    assert struck.returncode == -signal.SIGKILL
    assert len(list((world.host.data.cas / "tmp").iterdir())) == 1
    assert_gc_leaves_nothing(world)


def test_every_fault_point_is_struck_by_a_test() -> None:
    elsewhere = {*OF_THE_MACHINE, *OF_THE_NETWORK, *OF_PLUGINS, *OF_AN_EXPORT}
    struck = {case.point for case in CASES} | OF_THEIR_OWN | elsewhere
    assert struck == points_in_the_code()
    assert len(struck) >= 25
