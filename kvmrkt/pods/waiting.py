"""Waiting until a pod's apps have started, without looking again and again.

Two things wake who waits: a file of the pod that was written, and the end of its supervisor.
"""

from __future__ import annotations

import os
import select
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from kvmrkt.errors import PodNotFoundError
from kvmrkt.inotify import FolderWatch
from kvmrkt.pods.states import PodState
from kvmrkt.pods.status import read_pod

if TYPE_CHECKING:
    from kvmrkt.pods.directory import PodDirectory

_BEFORE = frozenset({PodState.EMBRYO, PodState.PREPARING, PodState.PREPARED})


def wait_ready(pod: PodDirectory, timeout_seconds: float | None = None) -> bool:
    """Wait until every app has started, and say whether it has.

    False when the pod ended before that, is removed, or the time is over. A pod that is only
    prepared is waited for as well. Raises PodError for a damaged pod.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    with FolderWatch() as watch:
        while True:
            watch.forget()  # what comes from now on is news
            watched = pod.path
            _watch_folders(pod, watch)
            try:
                status = read_pod(pod).status
            except PodNotFoundError:
                return False
            if pod.path != watched:
                continue  # it had moved on: nothing was watched yet
            apps = status.apps or ()
            if apps and all(isinstance(app.started_at, int) for app in apps):
                return True
            if status.state not in _BEFORE | {PodState.RUNNING}:
                return False
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            _sleep(pod, watch, left)


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
    with ExitStack() as stack:
        wakers: list[int] = [watch.fileno()]
        pid = pod.read_pid()
        if pid is not None:
            try:
                supervisor = os.pidfd_open(pid)
            except ProcessLookupError:
                pod.wait_unlocked()  # it is about to be
                return
            stack.callback(os.close, supervisor)
            if pod.state() is not PodState.RUNNING:
                return  # the number may be somebody else's by now
            wakers.append(supervisor)
        poll = select.poll()
        for waker in wakers:
            poll.register(waker, select.POLLIN)
        poll.poll(None if seconds is None else seconds * 1000)
