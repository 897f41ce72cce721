"""`--interactive` through a real pseudo-terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pexpect
import pytest
from real_pods import BUSYBOX, DEADLINE_SECONDS, Kvmrkt

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.functional


@pytest.fixture
def shell(kvmrkt: Kvmrkt) -> Iterator[pexpect.spawn[str]]:
    """A shell in a pod, on a terminal of 30 rows and 100 columns."""
    program, *words = kvmrkt.argv(
        "run", "--net=none", "--interactive", BUSYBOX, "--exec=/bin/sh", "--environment=PS1=ready> "
    )
    terminal = pexpect.spawn(
        program, words, dimensions=(30, 100), timeout=DEADLINE_SECONDS, encoding="utf-8"
    )
    terminal.expect("ready> ")
    yield terminal
    terminal.close(force=True)


def test_what_is_typed_is_echoed_and_answered(shell: pexpect.spawn[str]) -> None:
    shell.sendline("echo $((6 * 7))")
    shell.expect_exact("echo $((6 * 7))\r\n42\r\n")
    shell.sendline("exit 5")
    shell.expect(pexpect.EOF)
    shell.wait()
    assert shell.exitstatus == 5


def test_ctrl_c_interrupts_the_app_and_not_the_pod(shell: pexpect.spawn[str]) -> None:
    shell.sendline("echo begun; sleep 1000; echo status $?")
    shell.expect_exact("\r\nbegun\r\n")
    shell.sendcontrol("c")
    shell.expect_exact("ready> ")
    shell.sendline("echo still here")
    shell.expect_exact("\r\nstill here\r\n")
    shell.expect_exact("ready> ")  # an end of input that comes before the shell listens is lost
    shell.sendcontrol("d")
    shell.expect(pexpect.EOF)
    shell.wait()
    assert shell.signalstatus is None


def test_the_windows_size_follows(shell: pexpect.spawn[str]) -> None:
    shell.sendline("stty size")
    shell.expect_exact("\r\n30 100\r\n")
    shell.setwinsize(41, 123)
    shell.sendline("until [ \"$(stty size)\" = '41 123' ]; do sleep 0.1; done; echo seen")
    shell.expect(re.compile(r"\r\nseen\r\n"))


def test_without_a_terminal_input_and_output_are_piped_byte_for_byte(kvmrkt: Kvmrkt) -> None:
    done = kvmrkt(
        "run", "--net=none", "--interactive", BUSYBOX, "--exec=/bin/sh", "--", "-c",
        "tr a-z A-Z; echo problem >&2", stdin="first\nlast without newline",
    )  # fmt: skip
    assert done.stdout == "FIRST\nLAST WITHOUT NEWLINE"
    assert "problem\n" in done.stderr
    assert done.returncode == 0


def test_two_images_cannot_share_a_terminal(kvmrkt: Kvmrkt) -> None:
    done = kvmrkt.run("--interactive", BUSYBOX, "--name=a", "---", BUSYBOX, "--name=b")
    assert done.returncode == 254
    assert "interactive option only supports one image" in done.stderr
