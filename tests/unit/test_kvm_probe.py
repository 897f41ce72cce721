from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from kvmrkt.stage1.kvm import bounded, kvmprobe
from kvmrkt.stage1.kvm.bounded import ChildFailedError, call_in_child
from kvmrkt.stage1.kvm.kvmfake import FakeKvm, io_exit, other_exit
from kvmrkt.stage1.kvm.kvmioctl import ExitReason
from kvmrkt.stage1.kvm.kvmprobe import CODE, PORT_FEATURES, PORT_LOOP, judge, probe
from kvmrkt.stage1.kvm.verdict import ProbeVerdict

GOOD = (io_exit(PORT_FEATURES), io_exit(PORT_LOOP, 0.000_021))


def test_a_good_host() -> None:
    kvm = FakeKvm(exits=GOOD)
    assert judge(kvm) == ProbeVerdict(
        usable=True,
        reason="20000 rounds of a loop in guest kernel code took 21 µs",
        loop_microseconds=21.0,
        tsc_khz=2_900_000,
    )
    assert kvm.code == CODE


@pytest.mark.parametrize(
    ("kvm", "reason"),
    [
        (
            FakeKvm(version=OSError(errno.ENODEV, "No such device")),
            "/dev/kvm does not open: No such device",
        ),
        (FakeKvm(version=11), "/dev/kvm speaks version 11 of the KVM API, not 12"),
        (
            FakeKvm(create_error=OSError(errno.EBUSY, "Device or resource busy")),
            "a virtual machine cannot be made: Device or resource busy",
        ),
        (
            FakeKvm(exits=[other_exit(ExitReason.INTERNAL_ERROR, suberror=1)]),
            "guest kernel code does not run: KVM internal error 1 "
            "(the host interprets ring 0 and gives up)",
        ),
        (
            FakeKvm(exits=[GOOD[0], other_exit(ExitReason.INTERNAL_ERROR, suberror=3)]),
            "a loop in guest kernel code does not run: KVM internal error 3 "
            "(the host interprets ring 0 and gives up)",
        ),
        (
            FakeKvm(exits=[other_exit(ExitReason.SHUTDOWN)]),
            "guest kernel code does not run: the virtual CPU shut down (triple fault)",
        ),
        (
            FakeKvm(exits=[other_exit(ExitReason.FAIL_ENTRY)]),
            "guest kernel code does not run: the CPU refused to enter the guest",
        ),
        (
            FakeKvm(exits=[other_exit(ExitReason.INTERRUPTED)]),
            "guest kernel code does not run: it did not end within 0.5 seconds",
        ),
        (
            FakeKvm(exits=[GOOD[0], other_exit(ExitReason.INTERRUPTED)]),
            "a loop in guest kernel code does not run: it did not end within 0.5 seconds",
        ),
        (
            FakeKvm(exits=[other_exit(ExitReason.HLT)]),
            "guest kernel code does not run: KVM stopped it with exit reason 5",
        ),
        (
            FakeKvm(exits=[io_exit(PORT_LOOP)]),
            "guest kernel code does not run: it wrote to port 16, not 17",
        ),
        (
            FakeKvm(exits=[OSError(errno.EFAULT, "Bad address")]),
            "a virtual machine cannot be made: Bad address",
        ),
        (
            FakeKvm(exits=GOOD, rax=0x0B),
            "guest kernel code runs in ring 3, where no stock kernel boots",
        ),
    ],
)
def test_bad_hosts(kvm: FakeKvm, reason: str) -> None:
    verdict = judge(kvm)
    assert not verdict.usable
    assert verdict.reason == reason
    assert verdict.lasting


@pytest.mark.parametrize(("seconds", "usable"), [(0.001_9, True), (0.002_1, False), (0.02, False)])
def test_the_loop_is_judged_by_its_cpu_time(seconds: float, usable: bool) -> None:
    verdict = judge(FakeKvm(exits=[GOOD[0], io_exit(PORT_LOOP, seconds)]))
    assert verdict.usable is usable
    assert verdict.loop_microseconds == pytest.approx(seconds * 1e6)
    assert verdict.reason.endswith("it is interpreted") is not usable


@pytest.mark.parametrize("khz", [0, OSError(errno.EIO, "no TSC")])
def test_kvm_need_not_know_the_tsc(khz: int | OSError) -> None:
    verdict = judge(FakeKvm(exits=GOOD, khz=khz))
    assert verdict.usable
    assert verdict.tsc_khz is None


def test_the_probe_of_this_host_gives_a_verdict_in_time() -> None:
    """Whatever this host is like: no device, a broken one, or a good one."""
    started = time.monotonic()
    verdict = probe()
    assert time.monotonic() - started < 3
    assert verdict.reason


def _hang() -> bytes:
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(60)


@pytest.mark.parametrize(
    ("here", "reason", "lasting"),
    [
        (_hang, "the probe failed: no answer within 0.1 seconds", True),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "killed by signal 11", True),
        (lambda: 1 / 0, "the process ended without an answer", True),
        (lambda: b"{", "the probe gave no verdict", True),
    ],
)
def test_a_probe_that_fails_is_a_verdict(
    monkeypatch: pytest.MonkeyPatch, here: object, reason: str, lasting: bool
) -> None:
    monkeypatch.setattr(kvmprobe, "_probe_here", here)
    monkeypatch.setattr(kvmprobe, "_CHILD_SECONDS", 0.1)
    verdict = probe()
    assert not verdict.usable
    assert reason in verdict.reason
    assert verdict.lasting is lasting


def test_a_host_out_of_processes_is_no_finding_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    verdict = probe()
    assert not verdict.usable
    assert not verdict.lasting


def test_an_endless_guest_is_ended_by_the_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real device, where there is one: `jmp .` never comes back by itself."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no /dev/kvm to try it on")
    monkeypatch.setattr(kvmprobe, "CODE", b"\xeb\xfe")
    verdict = probe()
    assert not verdict.usable
    assert "did not end within 0.5 seconds" in verdict.reason or "internal error" in verdict.reason


def test_an_answer() -> None:
    assert call_in_child(lambda: b"42", deadline_seconds=5) == b"42"


def test_a_child_that_cannot_be_killed_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[int] = []
    kill = os.kill
    monkeypatch.setattr(os, "kill", lambda pid, _number: children.append(pid))
    monkeypatch.setattr(bounded, "_REAP_SECONDS", 0.01)
    started = time.monotonic()
    with pytest.raises(ChildFailedError, match="no answer within"):
        call_in_child(_hang, deadline_seconds=0.05)
    assert time.monotonic() - started < 2
    kill(children[0], signal.SIGKILL)
    os.waitpid(children[0], 0)


def test_a_child_holds_nothing_of_the_caller(tmp_path: Path) -> None:
    """A wedged child would else keep a pod's lock, or a pipe that someone reads to its end."""
    fd = os.open(tmp_path, os.O_RDONLY)

    def look() -> bytes:
        open_files = {os.readlink(f"/proc/self/fd/{number}") for number in range(100)
                      if Path(f"/proc/self/fd/{number}").is_symlink()}  # fmt: skip
        return "\n".join(open_files).encode()

    seen = call_in_child(look, deadline_seconds=5).decode().splitlines()
    os.close(fd)
    assert sorted(name.split(":")[0] for name in seen) == ["/dev/null", "pipe"]


def test_no_zombies_and_no_descriptors_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    fork = os.fork
    children = []

    def fork_and_note() -> int:
        child = fork()
        children.append(child)
        return child

    monkeypatch.setattr(os, "fork", fork_and_note)
    assert call_in_child(lambda: b"1", deadline_seconds=5) == b"1"
    with pytest.raises(ChildFailedError):
        call_in_child(lambda: b"", deadline_seconds=5)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(children) == 2
    assert not any(Path(f"/proc/{child}").exists() for child in children)
