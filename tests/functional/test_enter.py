"""Programs started inside a running pod: `enter` and `app exec`."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pexpect
import pytest
from inside_pod import Inside, running
from real_pods import BUSYBOX, DEADLINE_SECONDS, Kvmrkt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.functional

SESSIONS = 20
BULK_BYTES = 4 << 20
"""More than every buffer on the way together."""


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[Inside]:
    """A pod that runs until the module's tests are over; its app is nobody and may do little."""
    flags = ("--user=65534", "--group=65534", "--environment=OWN=app", "--caps-retain=CAP_CHOWN")
    with running(tmp_path_factory.mktemp("inside"), store, *flags) as inside:
        yield inside


def test_enter_runs_a_command_as_root_in_the_apps_root(inside: Inside) -> None:
    script = "id -u; id -g; echo $OWN; ls -d /bin/busybox; echo problem >&2; exit 7"
    done = inside.run("enter", inside.uuid, "sh", "-c", script)
    assert done.stdout == b"0\n0\napp\n/bin/busybox\n"
    assert done.stderr == b"problem\n"
    assert done.returncode == 7


def test_without_a_command_bash_is_assumed(inside: Inside) -> None:
    done = inside.run("enter", inside.uuid)
    assert done.stderr.startswith(b'enter: no command specified, assuming "/bin/bash"\n')
    assert b'"/bin/bash"' in done.stderr.splitlines()[1]  # the image has none
    assert done.returncode == 254


def test_exec_runs_as_the_app_does(inside: Inside) -> None:
    look = "id -u; echo $OWN; grep -E '^(CapBnd|Seccomp):' /proc/self/status; cat /proc/self/cgroup"
    done = inside.exec("sh", "-c", look)
    own = inside.run("enter", inside.uuid, "sh", "-c", "cat /proc/2/status /proc/2/cgroup")
    wanted = re.findall(rb"^(?:CapBnd|Seccomp):.*\n|^0::.*\n", own.stdout, re.MULTILINE)
    assert len(wanted) == 3
    assert done.stdout == b"65534\napp\n" + b"".join(wanted)


def test_flags_of_exec_change_user_folder_and_variables(inside: Inside) -> None:
    flags = ("--user=0:5", "--workdir=/tmp", "--env", "OWN=mine", "-e", "B=c=d")
    done = inside.exec("sh", "-c", "id -u; id -g; pwd; echo $OWN $B", flags=flags)
    assert done.stdout == b"0\n5\n/tmp\nmine c=d\n"


def test_what_cannot_be_started_says_why_and_returns_254(inside: Inside) -> None:
    done = inside.exec("/no/such/program")
    assert b'there is no executable "/no/such/program"' in done.stderr
    assert done.stdout == b""
    assert done.returncode == 254


def test_a_signals_number_is_in_the_status(inside: Inside) -> None:
    assert inside.exec("sh", "-c", "kill -9 $$").returncode == 137


def test_the_input_ends_and_bytes_go_both_ways_unchanged(inside: Inside) -> None:
    data = os.urandom(BULK_BYTES)
    done = inside.exec("cat", stdin=data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    assert done.returncode == 0


def test_a_program_that_reads_nothing_ends_before_its_input(inside: Inside) -> None:
    done = inside.exec("echo", "done", stdin=bytes(BULK_BYTES))
    assert (done.stdout, done.returncode) == (b"done\n", 0)


def test_a_signal_reaches_the_program(inside: Inside) -> None:
    argv = inside.kvmrkt.argv(
        "app", "exec", inside.uuid, "sh", "-c",
        "trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.1; done",
    )  # fmt: skip
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(10)
        assert client.stdout.readline() == b"caught\n"
        assert client.wait(DEADLINE_SECONDS) == 3


def test_what_a_killed_client_left_is_hung_up_on(inside: Inside) -> None:
    argv = inside.kvmrkt.argv("app", "exec", inside.uuid, "sh", "-c", "echo $$; sleep 54321")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        pid = client.stdout.readline().decode().strip()
        client.kill()
    gone = inside.exec("sh", "-c", f"while [ -d /proc/{pid} ]; do sleep 0.1; done; echo gone")
    assert gone.stdout == b"gone\n"


def test_a_reader_that_goes_away_ends_the_program(inside: Inside) -> None:
    argv = inside.kvmrkt.argv("app", "exec", inside.uuid, "yes")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"y\n"
        client.stdout.close()
        assert client.wait(DEADLINE_SECONDS) == 141


def test_many_sessions_at_once_and_one_that_is_not_read(inside: Inside) -> None:
    stuck = subprocess.Popen(
        inside.kvmrkt.argv("app", "exec", inside.uuid, "yes"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert stuck.stdout is not None
        assert stuck.stdout.read(2) == b"y\n"
        meet = f"touch /tmp/$0; until [ $(ls /tmp | wc -l) = {SESSIONS} ]; do sleep 0.2; done"
        clear = "rm -f /tmp/*"
        assert inside.exec("sh", "-c", clear).returncode == 0
        with ThreadPoolExecutor(SESSIONS) as pool:
            names = [f"session{number}" for number in range(SESSIONS)]
            done = list(
                pool.map(lambda name: inside.exec("sh", "-c", f"{meet}; echo $0", name), names)
            )
        assert [one.stdout.decode().strip() for one in done] == names
    finally:
        stuck.kill()
        stuck.communicate()


@pytest.fixture
def shell(inside: Inside) -> Iterator[pexpect.spawn[str]]:
    """A shell in the pod, on a terminal of 30 rows and 100 columns."""
    program, *words = inside.kvmrkt.argv("app", "exec", "-e", "PS1=ready> ", inside.uuid, "sh")
    terminal = pexpect.spawn(
        program, words, dimensions=(30, 100), timeout=DEADLINE_SECONDS, encoding="utf-8"
    )
    terminal.expect("ready> ")
    yield terminal
    terminal.close(force=True)


def test_a_terminal_has_size_keys_and_status(shell: pexpect.spawn[str]) -> None:
    shell.sendline("stty size; tty")
    shell.expect(re.compile(r"\r\n30 100\r\n/dev/pts/\d+\r\n"))
    shell.setwinsize(41, 123)
    shell.sendline("until [ \"$(stty size)\" = '41 123' ]; do sleep 0.1; done; echo se''en")
    shell.expect_exact("\r\nseen\r\n")
    shell.sendline("echo begun; sleep 1000")
    shell.expect_exact("\r\nbegun\r\n")
    shell.sendcontrol("c")
    shell.expect_exact("ready> ")
    shell.sendline("exit 5")
    shell.expect(pexpect.EOF)
    shell.wait()
    assert shell.exitstatus == 5


def test_a_session_does_not_outlive_the_pods_stop(kvmrkt: Kvmrkt) -> None:
    pod = kvmrkt.start(BUSYBOX, "--exec=/bin/sh", "--", "-c", "echo up; exec sleep 100000")
    assert pod.stdout is not None
    assert pod.stdout.readline().endswith("up\n")
    (path,) = kvmrkt.pods()
    argv = kvmrkt.argv(
        "app", "exec", path.name, "sh", "-c", "trap '' TERM HUP; echo on; sleep 99999"
    )
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        assert client.stdout is not None and client.stderr is not None
        assert client.stdout.readline() == b"on\n"
        assert kvmrkt("stop", path.name).returncode == 0
        assert client.wait(DEADLINE_SECONDS) in (137, 254)
    pod.communicate()
    assert pod.returncode == 0


def test_a_pod_that_does_not_run_cannot_be_entered(kvmrkt: Kvmrkt) -> None:
    assert kvmrkt.shell("true").returncode == 0
    (path,) = kvmrkt.pods()
    done = kvmrkt("enter", path.name, "true")
    assert f'pod "{path.name}" isn\'t currently running' in done.stderr
    assert done.returncode == 254
