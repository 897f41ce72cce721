"""Waiting for a pod to get ready or to end, without looking again and again.

What wakes who waits: a file of the pod that was written, a move of its directory, and the end of
the process that holds its lock.
"""

from __future__ import annotations

import os
import select
import time
from contextlib import ExitStack, suppress
from enum import Enum, auto
from typing import TYPE_CHECKING

from kvmrkt.errors import HostError, PodNotFoundError, describe
from kvmrkt.inotify import FolderWatch
from kvmrkt.pods.holder import open_end_of_lock, open_supervisor
from kvmrkt.pods.states import PodState
from kvmrkt.pods.status import read_pod

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmrkt.pods.directory import PodDirectory

_BEFORE = frozenset({PodState.EMBRYO, PodState.PREPARING, PodState.PREPARED})


class Outcome(Enum):
    """How waiting ended."""

    HAPPENED = auto()
    NEVER = auto()
    """What was waited for cannot happen any more: the pod has ended, or is removed."""
    TIME_OVER = auto()


def wait_ready(pod: PodDirectory, timeout_seconds: float | None = None) -> Outcome:
    """Wait until every app has started; a pod that is only prepared is waited for as well.

    Raises PodError for a damaged pod, HostError where the host cannot watch one more folder.
    """
    return _wait(pod, _look_for_start, timeout_seconds)


def wait_ended(pod: PodDirectory, timeout_seconds: float | None = None) -> Outcome:
    """Wait until the pod has run and ended, or is never to run; NEVER when it is removed.

    Raises as `wait_ready`.
    """
    return _wait(pod, _look_for_end, timeout_seconds)


def _look_for_start(pod: PodDirectory) -> Outcome | None:
    status = read_pod(pod).status
    apps = status.apps or ()
    if apps and all(isinstance(app.started_at, int) for app in apps):
        return Outcome.HAPPENED
    waits = status.state in _BEFORE or status.state is PodState.RUNNING
    return None if waits else Outcome.NEVER


def _look_for_end(pod: PodDirectory) -> Outcome | None:
    state = pod.state()
    waits = state in _BEFORE or state is PodState.RUNNING
    return None if waits else Outcome.HAPPENED


def _wait(
    pod: PodDirectory,
    look: Callable[[PodDirectory], Outcome | None],
    timeout_seconds: float | None,
) -> Outcome:
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    with _watch(pod) as watch:
        try:
            while True:
                watch.forget()  # what comes from now on is news
                watched = pod.path
                _watch_folders(pod, watch)
                outcome = look(pod)
                if outcome is not None:
                    return outcome
                if pod.path != watched:
                    continue  # it had moved on: nothing was watched yet
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return Outcome.TIME_OVER
                _sleep(pod, watch, left)
        except PodNotFoundError:
            return Outcome.NEVER


def _watch(pod: PodDirectory) -> FolderWatch:
    try:
        return FolderWatch()
    except OSError as error:
        raise HostError(
            f'cannot watch pod "{pod.uuid}": {describe(error)}',
            hint="see the sysctls fs.inotify.max_user_instances and fs.file-max",
        ) from error


def _watch_folders(pod: PodDirectory, watch: FolderWatch) -> None:
    for folder in (pod.path, pod.path / "status"):
        with suppress(FileNotFoundError):  # it moves, or is made later, which is seen
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                watch.add(fd)
            finally:
                os.close(fd)


def _sleep(pod: PodDirectory, watch: FolderWatch, seconds: float | None) -> None:
    """Until something happens, or the time is over."""
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    with ExitStack() as stack:
        holder = _open_holder(pod)
        if holder is not None:
            stack.callback(os.close, holder)
            poll.register(holder, select.POLLIN)
        poll.poll(None if seconds is None else seconds * 1000)


def _open_holder(pod: PodDirectory) -> int | None:
    """What turns readable at the end of who holds the lock, at once if that has come meanwhile.

    None for a pod that waits for somebody to take it: it moves then.
    """
    state = pod.state()
    if state in (PodState.EMBRYO, PodState.PREPARED):
        return None
    if (supervisor := open_supervisor(pod)) is not None:
        return supervisor
    try:
        return open_end_of_lock(os.fspath(pod.path))
    except FileNotFoundError:
        return None  # it has moved, which is seen
