"""The supervisor against a scripted guest: every ending has its own explanation."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest
from guest_double import GREETING, HELLO, GuestDouble, Notes, a_pod, an_app, supervise

from kvmrkt.errors import (
    AgentSilentError,
    AppStartError,
    EngineError,
    GuestError,
    KvmrktError,
    OutOfMemoryError,
    VmmError,
)
from kvmrkt.stage1.kvm import console, downfall, supervisor
from kvmrkt.stage1.kvm.monitor import MachineStoppedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path


def exits_with(*endings: dict[str, object]) -> Callable[[GuestDouble], Awaitable[None]]:
    """A guest whose apps start and end as told."""

    async def script(guest: GuestDouble) -> None:
        monitor = asyncio.ensure_future(guest.serve_monitor())
        await guest.notify("hello", **HELLO)
        spec = await guest.answer("pod.start")
        assert len(spec["entropy"]) > 80
        for ending in endings:
            await guest.notify("app.started", name=ending["name"], pid=7, time_ns=1)
        for ending in endings:
            await guest.notify("app.exited", time_ns=2, **ending)
        await guest.log.send({"end": True})
        await guest.notify("pod.exited")
        monitor.cancel()

    return script


def test_a_pod_ends_with_its_apps_code(tmp_path: Path) -> None:
    notes = Notes()
    script = exits_with({"name": "web", "code": 7})
    assert supervise(tmp_path, a_pod(), script, notes=notes) == 7
    assert notes.started == ["web"]
    assert notes.exits == {"web": 7}


def test_the_first_app_that_failed_gives_the_status(tmp_path: Path) -> None:
    spec = a_pod(an_app("a"), an_app("b"), an_app("c"))
    script = exits_with(
        {"name": "a", "code": 0},
        {"name": "b", "code": 3},
        {"name": "c", "signal": 15, "stopped": True},
    )
    assert supervise(tmp_path, spec, script) == 3


def test_a_signalled_app_gives_128_and_the_signal(tmp_path: Path) -> None:
    assert supervise(tmp_path, a_pod(), exits_with({"name": "web", "signal": 9})) == 137


def test_an_app_that_dies_of_being_stopped_is_no_failure(tmp_path: Path) -> None:
    script = exits_with({"name": "web", "signal": 15, "stopped": True})
    assert supervise(tmp_path, a_pod(), script) == 0


def test_lines_are_shown_with_rkts_prefix_and_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ending = exits_with({"name": "web", "code": 0})

    async def script(guest: GuestDouble) -> None:
        await guest.log.send(
            {"time_ns": 1, "uptime_ns": 784177000, "app": "web", "pid": 5, "stream": "stdout",
             "text": "hi \x1b[1mthere\x07"}
        )  # fmt: skip
        await ending(guest)

    assert supervise(tmp_path, a_pod(), script) == 0
    assert capfd.readouterr().out == "[    0.784177] web[5]: hi \x1b[1mthere?\n"
    assert b'"pid": 5' in (tmp_path / "web.jsonl").read_bytes()


def test_an_app_that_cannot_start_says_why(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.notify("hello", **HELLO)
        await guest.answer(
            "pod.start", code=-32000, message="no user nobody",
            data={"kind": "no-such-user", "app": "web"},
        )  # fmt: skip

    with pytest.raises(AppStartError, match='cannot start app "web": no user nobody'):
        supervise(tmp_path, a_pod(), script)


def test_a_killed_qemu_is_named(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.notify("hello", **HELLO)
        await guest.answer("pod.start")
        guest.die(signal.SIGKILL)

    with pytest.raises(VmmError, match="QEMU was ended by SIGKILL"):
        supervise(tmp_path, a_pod(), script)


def test_a_panic_is_told_with_the_consoles_last_lines(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.console.send(b"boot\r\nKernel panic - not syncing: No working init found.\r\n")
        guest.die(signal.SIGTERM)

    with pytest.raises(GuestError, match="panicked: No working init found") as caught:
        supervise(tmp_path, a_pod(), script)
    assert "boot\n" in (caught.value.details or "")


def test_of_a_console_that_is_flooded_the_end_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_FILE_LIMIT_BYTES", 10_000)

    async def script(guest: GuestDouble) -> None:
        for _ in range(50):
            await guest.console.send(b"x" * 1000)
        await guest.console.send(b"last words")
        guest.die(signal.SIGTERM)

    with pytest.raises(VmmError):
        supervise(tmp_path, a_pod(), script)
    assert (tmp_path / "console").read_bytes().endswith(b"last words")
    kept = sum(path.stat().st_size for path in tmp_path.glob("console*"))
    assert kept <= 2 * 16_384  # a piece is at most what is read at once


def test_a_silent_agent_meets_its_deadline(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.console.send(b"stuck here\n")

    with pytest.raises(GuestError, match="said nothing within 0.2 seconds") as caught:
        supervise(tmp_path, a_pod(), script, hello_seconds=0.2)
    assert caught.value.details == "stuck here"


def test_a_machine_that_qemu_stops_is_a_broken_accelerator(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.monitor.send(GREETING)
        assert await guest.answer_monitor({}) == "qmp_capabilities"
        stamp = {"seconds": 1, "microseconds": 1}
        await guest.monitor.send({"event": "STOP", "timestamp": stamp})
        answer = {"status": "internal-error", "running": False}
        assert await guest.answer_monitor(answer) == "query-status"

    with pytest.raises(MachineStoppedError, match="internal-error"):
        supervise(tmp_path, a_pod(), script)


def test_a_machine_that_stops_once_apps_may_have_run_is_not_to_be_started_again(
    tmp_path: Path,
) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.monitor.send(GREETING)
        await guest.answer_monitor({})
        await guest.notify("hello", **HELLO)
        await guest.control.receive()  # pod.start, which the agent does not live to answer
        stamp = {"seconds": 1, "microseconds": 0}
        await guest.monitor.send({"event": "STOP", "timestamp": stamp})
        answer = {"status": "internal-error", "running": False}
        assert await guest.answer_monitor(answer) == "query-status"

    with pytest.raises(VmmError, match="internal-error") as caught:
        supervise(tmp_path, a_pod(), script)
    assert not isinstance(caught.value, MachineStoppedError)


def test_sigterm_stops_the_apps(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.notify("hello", **HELLO)
        await guest.answer("pod.start")
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        params = await guest.answer("pod.stop")
        assert params == {"grace_seconds": 10}
        await guest.notify("app.exited", name="web", signal=15, stopped=True, time_ns=1)
        await guest.log.send({"end": True})
        await guest.notify("pod.exited")

    assert supervise(tmp_path, a_pod(), script) == 0


def test_two_who_stop_a_pod_do_not_kill_its_apps(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.notify("hello", **HELLO)
        await guest.answer("pod.start")
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await guest.answer("pod.stop")
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        await guest.notify("app.exited", name="web", code=0, time_ns=1)
        await guest.log.send({"end": True})
        await guest.notify("pod.exited")

    assert supervise(tmp_path, a_pod(), script) == 0


def test_a_second_ctrl_c_ends_the_pod_at_once(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.notify("hello", **HELLO)
        await guest.answer("pod.start")
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGINT)
        await guest.answer("pod.stop")
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(EngineError, match="killed on request"):
        supervise(tmp_path, a_pod(), script)


def test_a_signal_before_the_apps_run_is_no_failure_of_the_engine(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.notify("hello", **HELLO)
        request = await guest.control.receive()
        assert request["method"] == "pod.start"
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KvmrktError, match="killed on request") as caught:
        supervise(tmp_path, a_pod(), script)
    assert not isinstance(caught.value, EngineError)


HOSTILE = {
    "not JSON": b"}{\n",
    "not UTF-8": b'{"jsonrpc":"2.0","method":"\xff"}\n',
    "no version": b'{"method":"hello"}\n',
    "a line without end": b"x" * (2 << 20),
    "an answer nobody asked for": b'{"jsonrpc":"2.0","id":5,"result":{}}\n',
    "a hello of another protocol": b'{"jsonrpc":"2.0","method":"hello","params":{"protocol":2,'
    b'"agent":"","kernel":"","uptime_ns":0}}\n',
    "a hello with a wrong type": b'{"jsonrpc":"2.0","method":"hello","params":{"protocol":"1"}}\n',
    "deep nesting": b'{"jsonrpc":"2.0","method":"hello","params":' + b"[" * 5000 + b"\n",
    "an exit without a name": b'{"jsonrpc":"2.0","method":"app.exited","params":{}}\n',
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_guest_that_breaks_the_protocol_ends_its_pod(tmp_path: Path, message: bytes) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.control.send(message)

    with pytest.raises(GuestError):
        supervise(tmp_path, a_pod(), script)


HOSTILE_LOGS = {
    "another pod's app": b'{"app":"other","text":"x"}\n',
    "a path as an app": b'{"app":"../../x","text":"x"}\n',
    "bad base64": b'{"app":"web","base64":"?"}\n',
    "not JSON": b"hello\n",
    "a line without end": b"x" * (1 << 17),
}


@pytest.mark.parametrize("record", HOSTILE_LOGS.values(), ids=HOSTILE_LOGS.keys())
def test_a_guest_that_forges_log_records_ends_its_pod(tmp_path: Path, record: bytes) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.log.send(record)

    with pytest.raises(GuestError):
        supervise(tmp_path, a_pod(), script)


A_LINE = {"time_ns": 1, "uptime_ns": 1, "app": "web", "pid": 5, "stream": "stdout"}


def test_what_a_guest_wrote_before_qemu_was_killed_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.notify("hello", **HELLO)
        await guest.answer("pod.start")
        for number in range(200):
            await guest.log.send(A_LINE | {"text": f"line {number}"})
        guest.die(signal.SIGKILL)

    with pytest.raises(VmmError):
        supervise(tmp_path, a_pod(), script)
    assert (tmp_path / "web.jsonl").read_bytes().count(b"\n") == 200
    assert capfd.readouterr().out.endswith("web[5]: line 199\n")


class StuckOutput:
    """Standard output is a pipe that nobody reads, until somebody does."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        self._saved = os.dup(1)
        os.dup2(writer, 1)
        os.close(writer)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self.read = b""

    def _read(self) -> None:
        while data := os.read(self._reader, 1 << 16):
            self.read += data

    def start_reading(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Standard output is what it was; a reader has read all."""
        if self._saved >= 0:
            os.dup2(self._saved, 1)
            os.close(self._saved)
            self._saved = -1
            if self._thread.is_alive():
                self._thread.join(60)
            os.close(self._reader)


@contextlib.contextmanager
def stuck_output() -> Iterator[StuckOutput]:
    """For use in a test itself: pytest puts its own standard output back before each."""
    output = StuckOutput()
    try:
        yield output
    finally:
        output.close()


LONG = "x" * 1000


def test_a_reader_that_does_not_read_costs_no_records(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.notify("hello", **HELLO)
        await guest.answer("pod.start")
        for _ in range(150):  # more than a pipe holds, less than a pipe and a socket
            await guest.log.send(A_LINE | {"text": LONG})
        guest.die(signal.SIGKILL)

    with stuck_output(), pytest.raises(VmmError):
        supervise(tmp_path, a_pod(), script)
    assert (tmp_path / "web.jsonl").read_bytes().count(b"\n") == 150


def test_a_pod_waits_for_the_reader_of_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_DRAIN_SECONDS", 0.01)
    ending = exits_with({"name": "web", "code": 0})

    async def script(guest: GuestDouble) -> None:
        for _ in range(150):
            await guest.log.send(A_LINE | {"text": LONG})
        await ending(guest)
        while guest.process.poll() is None:  # the time for the drain has passed
            await asyncio.sleep(0.01)
        output.start_reading()

    with stuck_output() as output:
        assert supervise(tmp_path, a_pod(), script) == 0
    assert output.read.count(b"\n") == 150


def test_a_signal_ends_the_wait_for_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_DRAIN_SECONDS", 0.01)
    ending = exits_with({"name": "web", "code": 3})

    async def script(guest: GuestDouble) -> None:
        for _ in range(150):
            await guest.log.send(A_LINE | {"text": LONG})
        await ending(guest)
        while guest.process.poll() is None:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    with stuck_output():
        assert supervise(tmp_path, a_pod(), script) == 3
    assert (tmp_path / "web.jsonl").read_bytes().count(b"\n") == 150


def test_an_agent_that_does_not_answer_meets_a_deadline_of_its_own(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        await guest.notify("hello", **HELLO)
        await guest.control.receive()

    with pytest.raises(AgentSilentError, match=r"did not answer .* within 0.2 seconds"):
        supervise(tmp_path, a_pod(), script, hello_seconds=0.2)


def test_a_qemu_that_the_host_killed_for_memory_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downfall, "killed_for_memory", lambda pid: pid > 0)

    async def script(guest: GuestDouble) -> None:
        await guest.notify("hello", **HELLO)
        await guest.answer("pod.start")
        guest.die(signal.SIGKILL)

    with pytest.raises(OutOfMemoryError, match="the host ran out of memory"):
        supervise(tmp_path, a_pod(), script)
