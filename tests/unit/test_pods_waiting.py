"""Waiting for a pod's apps: whatever happens while nobody looks is seen."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from pods_on_disk import manifest

from kvmrkt.paths import DataDir
from kvmrkt.pods import waiting
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.records import AppRecord
from kvmrkt.pods.states import Section
from kvmrkt.pods.waiting import wait_ready

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
    assert wait_ready(seen)


def test_a_pod_that_moved_on_since_it_was_last_seen_is_watched_where_it_is(
    pod: PodDirectory, meanwhile: Callable[..., None]
) -> None:
    (pod.path / "status").mkdir()
    meanwhile(starts(pod, "a"), starts(pod, "b"))
    seen = PodDirectory(pod.data, Section.PREPARED, pod.uuid)
    assert wait_ready(seen)


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
    assert wait_ready(seen)
    pod.unlock()


def test_an_end_without_a_start_is_seen(pod: PodDirectory, meanwhile: Callable[..., None]) -> None:
    def end() -> None:
        pod.write_exit(254)
        pod.unlock()

    meanwhile(starts(pod, "a"), end)
    assert not wait_ready(PodDirectory(pod.data, Section.RUN, pod.uuid))


def test_the_time_may_be_over(pod: PodDirectory) -> None:
    assert not wait_ready(PodDirectory(pod.data, Section.RUN, pod.uuid), timeout_seconds=0)
    assert not wait_ready(PodDirectory(pod.data, Section.RUN, pod.uuid), timeout_seconds=0.01)
