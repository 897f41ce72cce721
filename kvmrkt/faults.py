"""Named fault points: every step that makes or removes something outside the process has one.

A step calls `reach` once it is done, and before what follows it is begun or written down. With
KVMRKT_FAULT=NAME in its environment a process that comes to the point of this name kills itself
with SIGKILL; NAME@3 means the third time, and NAME:stop stops the process instead, so that a test
can look around, and kill something else. Nobody but the one who starts a process can do that to it.
"""

from __future__ import annotations

import os
import signal

_VARIABLE = "KVMRKT_FAULT"


class _Fault:
    """The point at which this process is to be struck."""

    def __init__(self, text: str) -> None:
        place, _, action = text.partition(":")
        self._name, _, count = place.partition("@")
        self._left = int(count) if count.isdigit() else 1
        self._signal = signal.SIGSTOP if action == "stop" else signal.SIGKILL

    def reached(self, name: str) -> None:
        if name == self._name:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), self._signal)


_fault = _Fault(os.environ[_VARIABLE]) if _VARIABLE in os.environ else None


def reach(name: str) -> None:
    """The step of this name is done."""
    if _fault is not None:
        _fault.reached(name)
