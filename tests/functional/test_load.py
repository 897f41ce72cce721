"""A guest boots under full load. The long form, twenty boots, is in `make soak`."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack

import pytest
from real_pods import Kvmrkt, lines

pytestmark = pytest.mark.functional

BOOTS = 3


def test_pods_boot_while_every_core_is_busy(kvmrkt: Kvmrkt) -> None:
    with ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            # in a session of its own: the kernel's autogroups would else give all loops one share
            loop = subprocess.Popen(
                [sys.executable, "-c", "while True: pass"], start_new_session=True
            )
            stack.callback(loop.wait)
            stack.callback(loop.kill)
        for number in range(BOOTS):
            done = kvmrkt.shell(f"echo {number}")
            assert (done.returncode, lines(done)) == (0, [str(number)]), done.stderr
