from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import pytest
from pods_on_disk import fabricate

import kvmrkt.paths
from kvmrkt.errors import HostError, KvmrktError, PodError
from kvmrkt.paths import DataDir
from kvmrkt.pods import gc, leftovers, resources
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.gc import Step
from kvmrkt.pods.lookup import find_pod, walk
from kvmrkt.pods.resources import Resources, load
from kvmrkt.pods.states import PodState, Section

if TYPE_CHECKING:
    from pathlib import Path


class Log:
    """Keeps what was reported."""

    def __init__(self) -> None:
        self.steps: list[tuple[Step, str]] = []
        self.errors: list[KvmrktError] = []

    def __call__(self, step: Step, uuid: str, error: KvmrktError | None = None) -> None:
        self.steps.append((step, uuid))
        if error is not None:
            self.errors.append(error)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataDir:
    monkeypatch.setattr(kvmrkt.paths, "RUNTIME", tmp_path / "runtime")
    return DataDir(tmp_path / "data")


@pytest.fixture
def log() -> Log:
    return Log()


def collect(data: DataDir, log: Log, *, grace: float = 0, expire: float = 86400) -> int:
    time.sleep(0.01)  # the clock of ctime ticks only so often
    gc.mark(data, log)
    return gc.sweep(data, log, grace_seconds=grace, expire_prepared_seconds=expire)


def everything(data: DataDir) -> list[tuple[str, str]]:
    return [(pod.section, pod.uuid) for pod in walk(data, Section)]


def test_a_host_without_pods(data: DataDir, log: Log) -> None:
    assert collect(data, log) == 0
    assert log.steps == []


def test_an_exited_pod_is_marked_and_deleted(data: DataDir, log: Log) -> None:
    pod = fabricate(data, Section.RUN)
    assert collect(data, log) == 1
    assert log.steps == [(Step.MARK_EXITED, pod.uuid), (Step.DELETE, pod.uuid)]
    assert everything(data) == []


def test_mark_alone_deletes_nothing(data: DataDir, log: Log) -> None:
    exited = fabricate(data, Section.RUN)
    aborted = fabricate(data, Section.PREPARE)
    gc.mark(data, log)
    assert everything(data) == [("exited-garbage", exited.uuid), ("garbage", aborted.uuid)]


def test_the_grace_period_begins_at_marking(data: DataDir, log: Log) -> None:
    pod = fabricate(data, Section.RUN)
    assert collect(data, log, grace=3600) == 0
    assert log.steps == [(Step.MARK_EXITED, pod.uuid), (Step.KEEP, pod.uuid)]
    assert find_pod(data, pod.uuid).state() is PodState.EXITED_GARBAGE
    assert collect(data, log, grace=0) == 1


def test_a_clock_set_back_keeps_no_pod_for_ever(
    data: DataDir, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    fabricate(data, Section.EXITED_GARBAGE)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert collect(data, log, grace=3600) == 1


def test_unfinished_preparations_go_without_grace(data: DataDir, log: Log) -> None:
    fabricate(data, Section.PREPARE)
    fabricate(data, Section.EMBRYO)
    fabricate(data, Section.GARBAGE)
    assert collect(data, log, grace=3600) == 3
    assert everything(data) == []


def test_prepared_pods_expire(data: DataDir, log: Log) -> None:
    pod = fabricate(data, Section.PREPARED)
    assert collect(data, log, expire=3600) == 0
    assert find_pod(data, pod.uuid).state() is PodState.PREPARED
    assert collect(data, log, expire=0) == 1
    assert log.steps == [(Step.MARK_EXPIRED, pod.uuid), (Step.DELETE, pod.uuid)]


@pytest.mark.parametrize("section", list(Section))
def test_what_is_locked_is_left_alone(data: DataDir, log: Log, section: Section) -> None:
    pod = fabricate(data, section)
    assert pod.lock()
    assert collect(data, log, expire=0) == 0
    assert everything(data) == [(section, pod.uuid)]
    pod.unlock()


def test_what_a_dead_pod_holds_is_taken_back_at_marking(data: DataDir, log: Log) -> None:
    pod = fabricate(data, Section.RUN)
    path = Resources(pod).record_run_dir()
    collect(data, log, grace=3600)
    assert not path.exists()
    assert load(find_pod(data, pod.uuid)) == ()


def test_a_pod_that_cannot_be_released_is_kept_for_the_next_time(
    data: DataDir, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = fabricate(data, Section.RUN)
    Resources(pod).record("wormhole", "w0")
    other = fabricate(data, Section.RUN)
    assert collect(data, log) == 1
    assert everything(data) == [("exited-garbage", pod.uuid)]
    assert any("wormhole w0" in error.message for error in log.errors)
    assert (Step.DELETE, other.uuid) in log.steps
    monkeypatch.setitem(resources._RELEASE, "wormhole", lambda *_: None)
    assert collect(data, log) == 1
    assert everything(data) == []


def test_a_folder_that_cannot_be_deleted_is_reported_once(
    data: DataDir, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = fabricate(data, Section.RUN)

    def refuse(path: Path) -> None:
        raise HostError(f"cannot delete {path}")

    monkeypatch.setattr(gc, "remove_tree", refuse)
    assert collect(data, log) == 0
    assert [step for step, _ in log.steps].count(Step.FAIL) == 1
    assert everything(data) == [("garbage", pod.uuid)]
    monkeypatch.undo()
    assert collect(data, log) == 1


def test_gc_can_be_killed_at_any_system_call_that_changes_something(
    data: DataDir, log: Log
) -> None:
    """The process ends at the n-th rename, unlink or rmdir; the next gc finishes."""
    for fatal in range(100):
        pod = fabricate(data, Section.RUN)
        Resources(pod).record_run_dir()
        pod.write_file("status/app", b"{}")
        child = os.fork()
        if child == 0:
            _die_at_call(fatal)
            try:
                collect(data, Log())
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        collect(data, log)
        assert everything(data) == []
        assert not kvmrkt.paths.runtime_pod_dir(pod.uuid).exists()
        assert log.errors == []
        if os.waitstatus_to_exitcode(status) == 0:
            break
    else:
        pytest.fail("it never came to the end")
    assert fatal >= 8


def _die_at_call(fatal: int) -> None:
    count = 0

    def hook(event: str, _arguments: object) -> None:
        nonlocal count
        if event in {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}:
            if count == fatal:
                os._exit(9)
            count += 1

    sys.addaudithook(hook)


def test_many_at_once(data: DataDir, log: Log) -> None:
    """Eight of them delete forty pods without an error; each pod is deleted by one."""
    for number in range(40):
        pod = fabricate(data, list(Section)[number % 6])
        for name in "abc":
            pod.write_file(f"status/{name}", b"{}")
    reader, writer = os.pipe()
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            mine = Log()
            deleted = -1000
            try:
                deleted = collect(data, mine, expire=0)
            finally:
                os.write(writer, b"%d,%d\n" % (deleted, len(mine.errors)))
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    os.close(writer)
    with open(reader) as file:
        counts = [tuple(map(int, line.split(","))) for line in file]
    assert len(counts) == 8
    assert sum(errors for _, errors in counts) == 0
    collect(data, log, expire=0)
    assert everything(data) == []
    assert log.errors == []
    assert sum(deleted for deleted, _ in counts) <= 40


@pytest.mark.parametrize(
    "section", [Section.PREPARE, Section.PREPARED, Section.RUN, Section.EXITED_GARBAGE]
)
def test_remove(data: DataDir, section: Section) -> None:
    pod = fabricate(data, section)
    path = Resources(pod).record_run_dir()
    gc.remove(find_pod(data, pod.uuid))
    assert everything(data) == []
    assert not path.exists()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (Section.EMBRYO, "is currently being prepared"),
        (Section.PREPARE, "is currently being prepared"),
        (Section.RUN, "is currently running"),
        (Section.EXITED_GARBAGE, "is currently being deleted"),
        (Section.GARBAGE, "is currently being deleted"),
    ],
)
def test_remove_refuses_in_rkts_words(data: DataDir, section: Section, words: str) -> None:
    pod = fabricate(data, section)
    assert pod.lock()
    with pytest.raises(PodError, match=f'^pod "{pod.uuid}" {words}$'):
        gc.remove(PodDirectory(data, section, pod.uuid))
    pod.unlock()


def test_remove_keeps_what_it_cannot_release(data: DataDir) -> None:
    pod = fabricate(data, Section.RUN)
    Resources(pod).record("wormhole", "w0")
    with pytest.raises(HostError, match="wormhole"):
        gc.remove(pod)
    assert find_pod(data, pod.uuid).state() is PodState.EXITED_GARBAGE


def test_deleting_a_tree_that_another_deletes(tmp_path: Path) -> None:
    leftovers.remove_tree(tmp_path / "gone")


def test_deleting_follows_no_link_and_leaves_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    for folders in ((), ("deep/deeper",)):
        tree = tmp_path / "tree"
        tree.mkdir()
        (tree / "file").touch()
        (tree / "link").symlink_to(kept)
        for folder in folders:
            (tree / folder).mkdir(parents=True)
        leftovers.remove_tree(tree)
        assert not tree.exists()
    assert (kept / "file").exists()
