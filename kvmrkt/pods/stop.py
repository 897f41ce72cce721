"""Stopping a running pod: by asking its supervisor, or by force."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING

from kvmrkt.errors import PodError
from kvmrkt.faults import reach
from kvmrkt.pods.states import PodState

if TYPE_CHECKING:
    from kvmrkt.pods.directory import PodDirectory

STOP_SECONDS = 60.0
"""The apps have ten seconds before they are killed; a busy host may need long for the rest."""
KILL_SECONDS = 10.0

_PID_SECONDS = 2.0
_POLL_SECONDS = 0.02


def stop(pod: PodDirectory, *, force: bool) -> bool:
    """Stop the pod and wait for its end; False if it had ended before.

    Without force the supervisor gets SIGTERM, ends the apps and powers the machine off; with force
    it is killed, and the machine with it. Raises PodError if the pod does not run or does not end.
    """
    state = pod.state()
    if state not in {PodState.RUNNING, PodState.EMBRYO, PodState.PREPARING, PodState.PREPARED}:
        return False
    if state is not PodState.RUNNING:
        raise PodError(f'pod "{pod.uuid}" is not running')
    fd = _open_supervisor(pod)
    if fd is None:
        return True
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL if force else signal.SIGTERM)
        reach("supervisor-signalled")
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        seconds = KILL_SECONDS if force else STOP_SECONDS
        if not poll.poll(seconds * 1000):
            raise PodError(
                f'pod "{pod.uuid}" has not ended within {seconds:g} seconds',
                hint=None if force else "stop it with --force",
            )
    except ProcessLookupError:
        pass  # it has ended by itself just now
    finally:
        os.close(fd)
    pod.wait_unlocked()
    return True


def _open_supervisor(pod: PodDirectory) -> int | None:
    """A descriptor of the supervisor; None if the pod ends meanwhile.

    The number in `pid` is the process that holds the lock: if the lock is still held after the
    descriptor was opened, the descriptor is that process and no later one of the same number.
    """
    deadline = time.monotonic() + _PID_SECONDS
    while (pid := pod.read_pid()) is None:  # it takes the lock before it writes its number
        if pod.state() is not PodState.RUNNING:
            return None
        if time.monotonic() > deadline:
            raise PodError(f'pod "{pod.uuid}" has not started yet')
        time.sleep(_POLL_SECONDS)
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if pod.state() is not PodState.RUNNING:
        os.close(fd)
        return None
    return fd
