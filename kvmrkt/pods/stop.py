"""Stopping a running pod: by asking its supervisor, or by force."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

from kvmrkt.errors import PodError
from kvmrkt.faults import reach
from kvmrkt.pods.holder import open_supervisor
from kvmrkt.pods.states import PodState

if TYPE_CHECKING:
    from kvmrkt.pods.directory import PodDirectory

STOP_SECONDS = 60.0
"""The apps have ten seconds before they are killed; a busy host may need long for the rest."""
KILL_SECONDS = 10.0


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
    supervisor = open_supervisor(pod)
    if supervisor is None:
        if pod.state() is PodState.RUNNING:
            raise PodError(
                f'cannot tell which process runs pod "{pod.uuid}": its file pid is damaged',
                hint="/proc/locks has the process that holds the lock of the pod's directory",
            )
        return True
    try:
        signal.pidfd_send_signal(supervisor, signal.SIGKILL if force else signal.SIGTERM)
        reach("supervisor-signalled")
        poll = select.poll()
        poll.register(supervisor, select.POLLIN)
        seconds = KILL_SECONDS if force else STOP_SECONDS
        if not poll.poll(seconds * 1000):
            raise PodError(
                f'pod "{pod.uuid}" has not ended within {seconds:g} seconds',
                hint=None if force else "stop it with --force",
            )
    except ProcessLookupError:
        pass  # it has ended by itself just now
    finally:
        os.close(supervisor)
    pod.wait_unlocked()
    return True
