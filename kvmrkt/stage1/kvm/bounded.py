"""Run a function in a child process that may crash or hang without taking the caller along.

Code that touches `/dev/kvm` or runs machine code of its own can die by a signal, or sit inside the
kernel where no signal reaches it. So the caller never waits for the child beyond a deadline: a
child that not even SIGKILL ends is left behind, holding none of the caller's descriptors.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_ANSWER_LIMIT_BYTES = 4096  # written with one write(2), which a pipe takes whole
_REAP_SECONDS = 0.1


class ChildFailedError(Exception):
    """The child gave no answer; the message says how it ended, `child_ran` whether it began."""

    def __init__(self, message: str, *, child_ran: bool = True) -> None:
        """Keep whether there was a child."""
        super().__init__(message)
        self.child_ran = child_ran


def call_in_child(function: Callable[[], bytes], *, deadline_seconds: float) -> bytes:
    """The function's answer (at most 4 KiB); ChildFailedError if it crashes, fails or is late."""
    reader, writer = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        os.close(reader)
        os.close(writer)
        raise ChildFailedError(f"no child process: {error.strerror}", child_ran=False) from error
    if child == 0:
        _answer_and_exit(function, writer)
    os.close(writer)
    ended = False
    try:
        poll = select.poll()
        poll.register(reader, select.POLLIN | select.POLLHUP)
        if not poll.poll(deadline_seconds * 1000):
            raise ChildFailedError(f"no answer within {deadline_seconds:g} seconds")
        answer = os.read(reader, _ANSWER_LIMIT_BYTES)
        status = _reap(child)
        ended = status is not None
        if not answer:
            raise ChildFailedError(_ending(status))
        return answer
    finally:
        os.close(reader)
        if not ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            _reap(child)


def _reap(child: int) -> int | None:
    """The child's wait status, None if it is not over soon."""
    end = time.monotonic() + _REAP_SECONDS
    while True:
        try:
            pid, status = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:  # the caller ignores SIGCHLD
            return 0
        if pid:
            return status
        if time.monotonic() > end:
            return None
        time.sleep(0.001)


def _ending(status: int | None) -> str:
    if status is not None and os.WIFSIGNALED(status):
        return f"the process was killed by signal {os.WTERMSIG(status)}"
    return "the process ended without an answer"


def _answer_and_exit(function: Callable[[], bytes], writer: int) -> None:
    """In the child: never returns, and runs none of the caller's exit handlers."""
    try:
        # A child left behind must not hold a pod's lock or the caller's output.
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            if fd != writer:
                os.dup2(null, fd)
        limit = os.sysconf("SC_OPEN_MAX")
        os.closerange(3, writer)
        os.closerange(max(3, writer + 1), limit if limit > 0 else 1 << 16)
        os.write(writer, function()[:_ANSWER_LIMIT_BYTES])
    finally:
        os._exit(0)
