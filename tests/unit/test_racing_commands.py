"""Commands at the same time on the same pods: each found race once more, then all at random."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import pytest
from pods_on_disk import fabricate, manifest

import kvmrkt.paths
from kvmrkt import host as host_module
from kvmrkt.cli import main
from kvmrkt.errors import PodError
from kvmrkt.paths import DataDir
from kvmrkt.pods import gc
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.states import PodState, Section

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulated_host import SimulatedHost

ROUNDS = 12
AT_ONCE = 6
LIFE_CYCLE = Path(__file__).parents[2] / "docs" / "life-cycle.md"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataDir:
    monkeypatch.setattr(kvmrkt.paths, "RUNTIME", tmp_path / "runtime")
    return DataDir(tmp_path / "data")


def report_nothing(step: gc.Step, uuid: str, error: object = None) -> None:
    return


def collect(data: DataDir) -> None:
    gc.mark(data, report_nothing)
    gc.sweep(data, report_nothing, grace_seconds=0, expire_prepared_seconds=0)


# -- one by one ------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", [Section.RUN, Section.PREPARE])
@pytest.mark.parametrize("remove", [gc.remove, lambda pod: collect(pod.data)])
def test_a_dead_pod_never_seems_alive_while_it_is_removed(
    data: DataDir,
    monkeypatch: pytest.MonkeyPatch,
    section: Section,
    remove: Callable[[PodDirectory], None],
) -> None:
    """Whoever runs `stop` in that moment would send a signal to whatever has the old number now."""
    take = PodDirectory.lock

    def lock(pod: PodDirectory) -> bool:
        assert pod.section is not section
        return take(pod)

    monkeypatch.setattr(PodDirectory, "lock", lock)
    pod = fabricate(data, section)
    time.sleep(0.01)
    remove(pod)
    assert list(data.pods.glob("*/*")) == []


def test_run_prepared_of_a_pod_that_has_run_does_not_lock_it(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = host("prepare", host.image(), "--exec=/bin/true").output.strip()
    assert host("run-prepared", "--net=none", uuid).status == 0
    monkeypatch.setattr(PodDirectory, "lock", lambda _: pytest.fail("it is locked"))
    again = host("run-prepared", "--net=none", uuid)
    assert (again.status, again.errors) == (254, f'run-prepared: pod "{uuid}" is not prepared\n')


def test_a_pod_that_gc_moves_under_the_hands_of_rm_is_removed(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = fabricate(data, Section.RUN)
    move = PodDirectory.move_if_there

    def overtaken(self: PodDirectory, target: Section) -> bool:
        monkeypatch.setattr(PodDirectory, "move_if_there", move)
        gc.mark(data, report_nothing)
        return move(self, target)

    monkeypatch.setattr(PodDirectory, "move_if_there", overtaken)
    gc.remove(pod)
    assert list(data.pods.glob("*/*")) == []


def test_rm_leaves_a_pod_to_the_gc_that_deletes_it(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = fabricate(data, Section.RUN)
    other = PodDirectory(data, Section.RUN, pod.uuid)
    assert other.move_if_there(Section.EXITED_GARBAGE)
    assert other.lock()
    with pytest.raises(PodError, match=f'pod "{pod.uuid}" is currently being deleted'):
        gc.remove(pod)
    other.unlock()


def test_who_only_looks_keeps_nobody_from_the_lock_however_long_he_takes(data: DataDir) -> None:
    pod = fabricate(data, Section.PREPARED)
    fd = os.open(pod.path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    timer = threading.Timer(0.5, os.close, [fd])
    timer.start()
    assert pod.lock()
    timer.join()
    pod.unlock()


def test_a_pod_in_run_has_its_supervisor_written_down(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = PodDirectory.to_run
    seen = []

    def to_run(pod: PodDirectory) -> None:
        move(pod)
        seen.append((pod.state(), pod.read_pid()))

    monkeypatch.setattr(PodDirectory, "to_run", to_run)
    assert host.run(host.image(), "--exec=/bin/true").status == 0
    assert seen == [(PodState.RUNNING, os.getpid())]


def test_a_prepared_pod_has_not_started_whatever_was_tried(data: DataDir) -> None:
    from kvmrkt.pods.status import read_pod

    pod = fabricate(data, Section.PREPARED)
    pod.write_pod_manifest(manifest("a"))
    pod.write_pid(4711)  # killed on its way to run
    facts = read_pod(pod)
    assert (facts.pid, facts.started_ns) == (None, None)


def test_a_pod_that_could_not_start_is_out_of_sight_before_it_is_deleted(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    remove_tree = host_module.remove_tree

    def removing(path: Path) -> None:
        listed.append(host("list", "--format=json").output)
        remove_tree(path)

    monkeypatch.setattr(host_module, "remove_tree", removing)
    assert host.run(host.image(), "--exec=/no/such").status == 254
    assert listed == ["null\n"]
    assert host.pods() == {}


# -- at random -------------------------------------------------------------------------------------


class Said(NamedTuple):
    """What a command of its own process did."""

    words: list[str]
    status: int
    errors: list[str]


class Command:
    """A command in a process of its own, forked: it begins at once, as races need it."""

    def __init__(self, host: SimulatedHost, words: list[str]) -> None:
        self.words = words
        self._errors = host.folder / f"errors-{time.monotonic_ns()}"
        self.pid = os.fork()
        if self.pid == 0:
            self._be([*host.flags, *words])

    def _be(self, words: list[str]) -> NoReturn:
        try:
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - for the rest of a process
            sys.stderr = self._errors.open("w")
            status = main.run(words)
            sys.stderr.flush()
            os._exit(status)
        finally:
            os._exit(99)

    def end(self, flags: int = 0) -> Said | None:
        pid, status = os.waitpid(self.pid, flags)
        if not pid:
            return None
        said = self._errors.read_text().splitlines() if self._errors.exists() else []
        return Said(self.words, os.waitstatus_to_exitcode(status), said)


def documented() -> dict[str, list[str]]:
    """By command, regular expressions of the lines it may say: docs/life-cycle.md."""
    found: dict[str, list[str]] = {}
    for command, line in re.findall(r"^\| `([a-z-]+)` \| `(.+)` \|$", LIFE_CYCLE.read_text(), re.M):
        pattern = re.escape(f"{command}: {line}")
        pattern = pattern.replace("UUID", "[0-9a-f-]{36}").replace("N\\ pod", "[0-9]+\\ pod")
        found.setdefault(command, []).append(pattern)
    return found


def commands(uuids: list[str], chance: random.Random) -> list[list[str]]:
    """What happens to the pods, in random order, `run-prepared` somewhat early."""
    made: list[tuple[float, list[str]]] = []

    def add(times: int, *words: str, until: float = 1.0) -> None:
        made.extend((chance.uniform(0, until), list(words)) for _ in range(times))

    for uuid in uuids:
        add(2, "run-prepared", "--net=none", uuid, until=0.5)
        add(2, "stop", uuid)
        add(1, "stop", "--force", uuid)
        add(2, "rm", uuid)
        add(1, "status", uuid)
        add(1, "status", "--wait=60s", uuid)
        add(1, "status", "--wait-ready=60s", uuid)
        add(1, "list")
    add(len(uuids), "gc", "--grace-period=0")
    add(len(uuids) // 2, "gc")
    add(len(uuids) // 2, "gc", "--mark-only")
    add(2, "gc", "--grace-period=0", "--expire-prepared=0")
    return [words for _, words in sorted(made)]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # a runner's thread does not matter
def test_commands_that_race_say_only_what_is_documented(host: SimulatedHost) -> None:
    """Everything at once on the same pods: no other error, nothing left, nobody waits for ever."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    image = host.image()
    programs = ("/bin/sleep", "/bin/true", "/bin/sleep", "/fails/killed")
    uuids = [
        host("prepare", image, f"--exec={programs[number % 4]}").output.splitlines()[-1]
        for number in range(ROUNDS)
    ]
    waiting = commands(uuids, chance)
    running: list[Command] = []
    said: list[Said] = []
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            running.append(Command(host, waiting.pop(0)))
        for command in list(running):
            done = command.end(os.WNOHANG)
            if done is not None:
                running.remove(command)
                said.append(done)
        if len(running) == AT_ONCE or not waiting:
            _make_way(host)
        time.sleep(0.002)
    known = documented()
    strange = [
        (one.words, one.status, line)
        for one in said
        for line in one.errors
        if one.words[0] != "run-prepared" or one.status == 254
        if line != "run-prepared: this pod is only simulated"
        if not any(re.fullmatch(pattern, line) for pattern in known.get(one.words[0], ()))
    ]
    assert strange == [], seed
    assert {one.status for one in said if one.words[0] in ("gc", "list")} == {0}, seed
    assert {one.status for one in said} <= {0, 143, 252, 254, -9}, seed
    assert host("gc", "--grace-period=0", "--expire-prepared=0").status == 0
    assert host.pods() == {}


def _make_way(host: SimulatedHost) -> None:
    """Pods that sleep, and prepared ones that somebody waits for, would keep everyone."""
    for pod in json.loads(host("list", "--format=json").output) or ():
        words = ["stop"] if pod["state"] == "running" else ["rm"]
        Command(host, [*words, pod["name"]]).end()
