"""Garbage collection of pods, in rkt's order and words.

Everything here may run at any time and several times at once: a move that another process made
first is no error, what is being deleted is locked, and a lock that is taken means "next time".
"""

from __future__ import annotations

import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from kvmrkt.errors import KvmrktError, PodError, PodNotFoundError
from kvmrkt.faults import reach
from kvmrkt.pods.leftovers import remove_tree
from kvmrkt.pods.lookup import walk
from kvmrkt.pods.resources import load, release_all
from kvmrkt.pods.states import PodState, Section

if TYPE_CHECKING:
    from kvmrkt.paths import DataDir
    from kvmrkt.pods.directory import PodDirectory


class Step(Enum):
    """What happens to a pod."""

    MARK_EXITED = auto()
    """It ran and ended: to `exited-garbage`, where the grace period begins."""
    MARK_ABORTED = auto()
    """Its preparation ended half-way: to `garbage`."""
    MARK_EXPIRED = auto()
    """It was prepared long ago and never run: to `garbage`."""
    KEEP = auto()
    """Its grace period is not over."""
    DELETE = auto()
    """About to be deleted."""
    FAIL = auto()
    """Something of it could not be removed; the next gc tries again."""


class Report(Protocol):
    """Who wants to know."""

    def __call__(self, step: Step, uuid: str, error: KvmrktError | None = None) -> None:
        """Told of each step; `error` comes with FAIL."""


def mark(data: DataDir, report: Report) -> None:
    """Move dead pods to the garbage, and take back at once what they hold on the host."""
    for pod in walk(data, [Section.RUN]):
        if _is(pod, PodState.EXITED) and pod.move_if_there(Section.EXITED_GARBAGE):
            reach("pod-marked")
            report(Step.MARK_EXITED, pod.uuid)
            _release_early(pod, report)
    for pod in walk(data, [Section.PREPARE]):
        if _is(pod, PodState.ABORTED_PREPARE) and pod.move_if_there(Section.GARBAGE):
            report(Step.MARK_ABORTED, pod.uuid)
    for pod in walk(data, [Section.EMBRYO]):
        # Its maker may be between mkdir and flock: then he finds it gone, and makes it once more.
        if pod.lock():
            pod.move_if_there(Section.GARBAGE)
            pod.unlock()


def sweep(
    data: DataDir,
    report: Report,
    *,
    grace_seconds: float,
    expire_prepared_seconds: float,
) -> int:
    """Delete what has been garbage for long enough; returns how many pods were deleted.

    Both periods begin when a pod came to its folder (ctime of its directory, as rkt counts).
    """
    for pod in walk(data, [Section.PREPARED]):
        if _in_section_seconds(pod) > expire_prepared_seconds and pod.lock():
            if pod.move_if_there(Section.GARBAGE):
                report(Step.MARK_EXPIRED, pod.uuid)
            pod.unlock()
    deleted = 0
    tried = set()
    for pod in walk(data, [Section.EXITED_GARBAGE]):
        # A clock set back must not make a pod immortal.
        if 0 <= _in_section_seconds(pod) < grace_seconds:
            report(Step.KEEP, pod.uuid)
        elif pod.lock():
            tried.add(pod.uuid)
            deleted += _delete_reporting(pod, report)
    for pod in walk(data, [Section.GARBAGE]):
        if pod.uuid not in tried and pod.lock():
            deleted += _delete_reporting(pod, report)
    return deleted


_REFUSED = {
    PodState.EMBRYO: "is currently being prepared",
    PodState.PREPARING: "is currently being prepared",
    PodState.RUNNING: "is currently running",
    PodState.EXITED_DELETING: "is currently being deleted",
    PodState.DELETING: "is currently being deleted",
}


_DEAD = {
    PodState.EXITED: Section.EXITED_GARBAGE,
    PodState.ABORTED_PREPARE: Section.GARBAGE,
}
"""Nobody takes their lock where they are: they would seem alive. So they move without it."""


def remove(pod: PodDirectory) -> None:
    """Delete a pod that does not run; PodError in rkt's words if it does."""
    while True:
        state = pod.state()
        if state in _REFUSED:
            raise PodError(f'pod "{pod.uuid}" {_REFUSED[state]}')
        if state in _DEAD:
            pod.move_if_there(_DEAD[state])
        elif pod.lock():
            break
    try:
        _delete(pod)
    finally:
        pod.unlock()


def _delete(pod: PodDirectory) -> None:
    """With the lock held: give back, move out of sight, delete. Each step can be done again."""
    release_all(pod)
    reach("garbage-released")
    if pod.section is not Section.GARBAGE:
        # A deletion that is interrupted changes the time the grace period is counted from;
        # in `garbage` none is counted.
        pod.move_if_there(Section.GARBAGE)
    reach("garbage-hidden")
    remove_tree(pod.path)


def _delete_reporting(pod: PodDirectory, report: Report) -> bool:
    report(Step.DELETE, pod.uuid)
    try:
        _delete(pod)
    except KvmrktError as error:
        report(Step.FAIL, pod.uuid, error)
        return False
    finally:
        pod.unlock()
    return True


def _release_early(pod: PodDirectory, report: Report) -> None:
    """A dead pod must not hold memory, ports and processes through its grace period."""
    if load(pod) and pod.lock():
        try:
            release_all(pod)
        except KvmrktError as error:
            report(Step.FAIL, pod.uuid, error)
        finally:
            pod.unlock()


def _is(pod: PodDirectory, state: PodState) -> bool:
    section = pod.section
    try:
        return pod.state() is state and pod.section is section
    except PodNotFoundError:
        return False


def _in_section_seconds(pod: PodDirectory) -> float:
    try:
        return time.time() - pod.path.stat().st_ctime
    except FileNotFoundError:
        return 0.0
