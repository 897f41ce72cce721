"""Waiting for a pod's apps: whatever happens while nobody looks is seen."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from pods_on_disk import manifest

import kvmrkt.paths
from kvmrkt.paths import DataDir
from kvmrkt.pods import waiting
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.gc import remove
from kvmrkt.pods.records import AppRecord
from kvmrkt.pods.states import Section
from kvmrkt.pods.waiting import Outcome, wait_ended, wait_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(30)  # what is lost here is waited for without end


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[PodDirectory]:
    """A running pod of two apps, neither of which has started."""
    made = PodDirectory.create(DataDir(tmp_path))
    made.to_prepare()
    made.write_pod_manifest(manifest("a", "b"))
    made.to_run()
    made.write_pid(os.getpid())
    yield made
    made.unlock()


@pytest.fixture
def prepared(tmp_path: Path) -> PodDirectory:
    """A prepared pod, unlocked."""
    made = PodDirectory.create(DataDir(tmp_path))
    made.to_prepare()
    made.write_pod_manifest(manifest("a"))
    made.to_prepared()
    return made


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have one thing happen each time somebody has looked and goes to sleep."""
    sleep = waiting._sleep

    def set_up(*steps: Callable[[], object]) -> None:
        left = list(steps)

        def eventful(*words: object) -> None:
            left.pop(0)()
            sleep(*words)  # type: ignore[arg-type]

        monkeypatch.setattr(waiting, "_sleep", eventful)

    return set_up


def starts(pod: PodDirectory, app: str) -> Callable[[], None]:
    return lambda: pod.write_app_record(app, AppRecord(started_ns=1))


def test_the_start_of_the_last_app_is_what_is_waited_for(
    pod: PodDirectory, meanwhile: Callable[..., None]
) -> None:
    meanwhile(starts(pod, "a"), starts(pod, "b"))
    seen = PodDirectory(pod.data, Section.RUN, pod.uuid)
    assert wait_ready(seen) is Outcome.HAPPENED


def test_a_pod_that_moved_on_since_it_was_last_seen_is_watched_where_it_is(
    pod: PodDirectory, meanwhile: Callable[..., None]
) -> None:
    (pod.path / "status").mkdir()
    meanwhile(starts(pod, "a"), starts(pod, "b"))
    seen = PodDirectory(pod.data, Section.PREPARED, pod.uuid)
    assert wait_ready(seen) is Outcome.HAPPENED


def test_a_pod_may_move_while_it_is_waited_for(
    tmp_path: Path, meanwhile: Callable[..., None]
) -> None:
    pod = PodDirectory.create(DataDir(tmp_path))
    pod.to_prepare()
    pod.write_pod_manifest(manifest("a"))
    pod.to_prepared()
    seen = PodDirectory(pod.data, Section.PREPARED, pod.uuid)

    def begin() -> None:
        assert pod.lock()
        pod.to_run()
        pod.write_pid(os.getpid())

    meanwhile(begin, starts(pod, "a"))
    assert wait_ready(seen) is Outcome.HAPPENED
    pod.unlock()


def test_an_end_without_a_start_is_seen(pod: PodDirectory, meanwhile: Callable[..., None]) -> None:
    def end() -> None:
        pod.write_exit(254)
        pod.unlock()

    meanwhile(starts(pod, "a"), end)
    assert wait_ready(PodDirectory(pod.data, Section.RUN, pod.uuid)) is Outcome.NEVER


def test_the_time_may_be_over(pod: PodDirectory) -> None:
    seen = PodDirectory(pod.data, Section.RUN, pod.uuid)
    for wait in (wait_ready, wait_ended):
        assert wait(seen, timeout_seconds=0) is Outcome.TIME_OVER
        assert wait(seen, timeout_seconds=0.01) is Outcome.TIME_OVER


def test_a_prepared_pod_is_waited_for_until_it_has_run(
    prepared: PodDirectory, meanwhile: Callable[..., None]
) -> None:
    def begin() -> None:
        assert prepared.lock()
        prepared.write_pid(os.getpid())

    def end() -> None:
        prepared.write_exit(0)
        prepared.unlock()

    meanwhile(begin, prepared.to_run, end)
    seen = PodDirectory(prepared.data, Section.PREPARED, prepared.uuid)
    assert wait_ended(seen) is Outcome.HAPPENED
    assert seen.section is Section.RUN


@pytest.mark.parametrize("wait", [wait_ready, wait_ended])
def test_a_prepared_pod_that_is_removed_is_not_waited_for(
    prepared: PodDirectory,
    meanwhile: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    wait: Callable[[PodDirectory], Outcome],
) -> None:
    monkeypatch.setattr(kvmrkt.paths, "RUNTIME", tmp_path / "run")
    meanwhile(lambda: remove(PodDirectory(prepared.data, Section.PREPARED, prepared.uuid)))
    assert wait(prepared) is Outcome.NEVER


def test_a_preparation_that_is_given_up_is_the_end(
    tmp_path: Path, meanwhile: Callable[..., None]
) -> None:
    pod = PodDirectory.create(DataDir(tmp_path))
    pod.to_prepare()
    meanwhile(pod.unlock)
    seen = PodDirectory(pod.data, Section.PREPARE, pod.uuid)
    assert wait_ended(seen) is Outcome.HAPPENED


def test_a_running_pod_whose_pid_is_damaged_is_waited_for(
    pod: PodDirectory, meanwhile: Callable[..., None]
) -> None:
    pod.write_file("pid", b"many")
    meanwhile(pod.unlock)
    assert wait_ended(PodDirectory(pod.data, Section.RUN, pod.uuid)) is Outcome.HAPPENED
