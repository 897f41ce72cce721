"""The apps' logs: files of bounded size, read in order, followed to the pod's end."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from pods_on_disk import fabricate, manifest

import kvmrkt.paths
from kvmrkt.cli import main
from kvmrkt.cli.moments import parse_moment_ns
from kvmrkt.errors import UsageError
from kvmrkt.paths import DataDir
from kvmrkt.pods.log_reader import PodLogs, Wanted
from kvmrkt.pods.logs import LogRecord, format_line, format_with_time, parse_record
from kvmrkt.pods.states import Section
from kvmrkt.rotation import RotatedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kvmrkt.pods.directory import PodDirectory

    Command = Callable[..., tuple[int, str, str]]

EVERYTHING = Wanted()
A = "aaaaaaaa-0000-4000-8000-000000000000"


def record(number: int, app: str = "web") -> bytes:
    """A record of second `number`."""
    moment = {"time_ns": number * 10**9, "uptime_ns": number * 10**9}
    line = {"app": app, "pid": 7, "stream": "stdout", "text": f"line {number}"}
    return json.dumps(moment | line).encode() + b"\n"


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PodDirectory:
    """A pod with two apps that has run."""
    monkeypatch.setattr(kvmrkt.paths, "RUNTIME", tmp_path / "runtime")
    pod = fabricate(DataDir(tmp_path / "data"), Section.RUN, A)
    pod.write_pod_manifest(manifest("db", "web"))
    (pod.path / "logs").mkdir()
    return pod


def log_file(pod: PodDirectory, app: str = "web", limit_bytes: int = 1 << 20) -> RotatedFile:
    return RotatedFile(pod.path / "logs" / f"{app}.jsonl", limit_bytes)


def write(pod: PodDirectory, *numbers: int, app: str = "web") -> None:
    file = log_file(pod, app)
    for number in numbers:
        file.write(record(number, app))
    file.close()


def read(pod: PodDirectory, wanted: Wanted = EVERYTHING) -> list[str | None]:
    with PodLogs(pod, wanted) as logs:
        return [record.text for record in logs.read()]


# -- files -------------------------------------------------------------------------------------


def test_a_full_file_gives_way_and_the_end_is_what_stays(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "log", 100)
    for number in range(100):
        file.write(b"%09d\n" % number)
    file.close()
    whole = (tmp_path / "log.1").read_bytes() + (tmp_path / "log").read_bytes()
    assert 100 <= len(whole) <= 200
    assert whole.split() == [b"%09d" % number for number in range(100 - len(whole) // 10, 100)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]


def test_a_piece_larger_than_the_limit_is_kept_all_the_same(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "log", 10)
    file.write(b"x" * 50)
    file.write(b"y")
    file.close()
    assert (tmp_path / "log.1").read_bytes() == b"x" * 50
    assert (tmp_path / "log").read_bytes() == b"y"


def test_what_a_former_process_wrote_counts(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 95)
    file = RotatedFile(tmp_path / "log", 100)
    file.write(b"y" * 10)
    file.close()
    assert (tmp_path / "log.1").stat().st_size == 95


def test_a_full_disk_drops_lines_and_does_not_end_the_pod(
    pod: PodDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = log_file(pod)
    real = os.write

    def short(fd: int, data: bytes) -> int:
        return real(fd, data[:20])

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file.write(record(1))
    for broken in (short, full):
        monkeypatch.setattr(os, "write", broken)
        file.write(record(2))
    monkeypatch.setattr(os, "write", real)
    file.write(record(3))
    file.close()
    assert read(pod) == ["line 1", "line 3"]


# -- records -----------------------------------------------------------------------------------


def test_a_record_is_shown_as_run_shows_it_or_with_the_time_of_day() -> None:
    line = LogRecord(1_700_000_000_123_456_789, 784_177_000, "web", 5, "stdout", "a\x07\x1b[1mb")
    assert format_line(line) == "[    0.784177] web[5]: a?\x1b[1mb"
    assert format_with_time(line) == "2023-11-14T22:13:20.123456Z web[5]: a?\x1b[1mb"


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"[]", b"\xff", b'{"text":1}', b'{"app":"web","base64":"?"}', b"[" * 100_000,
        b'{"time_ns":-1}', b'{"time_ns":9223372036854775808}', b'{"uptime_ns":1%0400d}' % 0,
    ],
)  # fmt: skip
def test_damage_is_no_record(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_record(line)


# -- reading -----------------------------------------------------------------------------------


def test_lines_of_all_apps_are_in_order_of_time(pod: PodDirectory) -> None:
    write(pod, 1, 3, 5)
    write(pod, 2, 4, 6, app="db")
    assert read(pod) == [f"line {number}" for number in range(1, 7)]
    assert read(pod, Wanted(apps=frozenset({"db"}))) == ["line 2", "line 4", "line 6"]
    assert read(pod, Wanted(since_ns=5 * 10**9)) == ["line 5", "line 6"]


def test_both_files_are_read_and_only_logs(pod: PodDirectory) -> None:
    file = log_file(pod, limit_bytes=300)
    for number in range(20):
        file.write(record(number))
    file.close()
    (pod.path / "logs" / "console").write_bytes(record(99))
    last = [f"line {number}" for number in range(20)]
    found = read(pod)
    assert found == last[-len(found) :]
    assert len(found) >= 2


def test_a_pod_killed_between_two_files_has_lost_nothing(pod: PodDirectory) -> None:
    write(pod, 1, 2)
    (pod.path / "logs" / "web.jsonl").rename(pod.path / "logs" / "web.jsonl.1")
    assert read(pod) == ["line 1", "line 2"]


def test_damaged_lines_are_passed_over(pod: PodDirectory) -> None:
    content = record(1) + b'{"half\n' + b"x" * 300_000 + b"\n" + record(2) + b'{"cut'
    (pod.path / "logs" / "web.jsonl").write_bytes(content)
    assert read(pod) == ["line 1", "line 2"]


def test_reading_goes_on_across_any_number_of_rotations(pod: PodDirectory) -> None:
    file = log_file(pod, limit_bytes=300)
    seen: list[str | None] = []
    with PodLogs(pod, Wanted()) as logs:
        for number in range(40):
            file.write(record(number))
            if number % 2:
                seen += [record.text for record in logs.read()]
        for number in range(40, 60):  # the reader falls behind: only the end is there
            file.write(record(number))
        seen += [record.text for record in logs.read()]
    file.close()
    assert seen[:40] == [f"line {number}" for number in range(40)]
    assert seen[40:] == [f"line {number}" for number in range(100 - len(seen), 60)]


# -- following ---------------------------------------------------------------------------------


class Follower:
    """Reads in a thread until the pod ends."""

    def __init__(self, pod: PodDirectory) -> None:
        self.texts: list[str | None] = []
        self.came = threading.Condition()
        self._logs = PodLogs(pod, Wanted())
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with self._logs as logs:
            for batch in logs.follow():
                for line in batch:
                    with self.came:
                        self.texts.append(line.text)
                        self.came.notify_all()

    def wait_for(self, text: str) -> None:
        with self.came:
            assert self.came.wait_for(lambda: text in self.texts, timeout=60)

    def end(self) -> list[str | None]:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.texts


@pytest.fixture
def running(pod: PodDirectory) -> Iterator[PodDirectory]:
    assert pod.lock()
    yield pod
    pod.unlock()


def test_following_sees_lines_as_they_come_and_ends_with_the_pod(running: PodDirectory) -> None:
    file = log_file(running, limit_bytes=300)
    file.write(record(1))
    follower = Follower(running)
    follower.wait_for("line 1")
    for number in range(2, 12):  # several files long
        file.write(record(number))
        follower.wait_for(f"line {number}")
    write(running, 20, app="db")  # an app that says its first word
    follower.wait_for("line 20")
    file.write(record(30))
    file.close()
    running.unlock()
    assert follower.end() == [*(f"line {number}" for number in range(1, 12)), "line 20", "line 30"]


def test_a_pod_that_moves_on_is_followed(running: PodDirectory) -> None:
    follower = Follower(running)
    write(running, 1)
    follower.wait_for("line 1")
    assert running.move_if_there(Section.EXITED_GARBAGE)
    write(running, 2)
    follower.wait_for("line 2")
    running.unlock()
    assert follower.end() == ["line 1", "line 2"]


def test_a_pod_that_has_no_log_folder_yet_is_followed(running: PodDirectory) -> None:
    (running.path / "logs").rmdir()
    follower = Follower(running)
    time.sleep(0.05)
    (running.path / "logs").mkdir()
    write(running, 1)
    follower.wait_for("line 1")
    running.unlock()
    assert follower.end() == ["line 1"]


def test_following_stops_when_nobody_reads_any_more(running: PodDirectory) -> None:
    reader, writer = os.pipe()
    with PodLogs(running, Wanted()) as logs:
        batches = logs.follow([writer])
        assert list(next(batches)) == []
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            next(batches)
    os.close(writer)


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def logs(pod: PodDirectory, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: str) -> tuple[int, str, str]:
        status = main.run([f"--dir={pod.data.root}", "logs", *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_the_command_prints_as_run_did(pod: PodDirectory, logs: Command) -> None:
    write(pod, 1)
    write(pod, 2, app="db")
    whole = "[    1.000000] web[7]: line 1\n[    2.000000] db[7]: line 2\n"
    assert logs("AAAA") == (0, whole, "")
    assert logs("-f", A) == (0, whole, "")
    assert logs(A, "--follow=true", "--app=db", "--app", "web") == (0, whole, "")
    assert logs("--app=web", A)[1] == whole.splitlines(keepends=True)[0]
    assert logs("--since=1970-01-01T00:00:02Z", A)[1] == whole.splitlines(keepends=True)[1]
    assert logs("--timestamps", "--app=web", A)[1] == "1970-01-01T00:00:01.000000Z web[7]: line 1\n"


def test_json_is_a_record_a_line(pod: PodDirectory, logs: Command) -> None:
    write(pod, 1)
    file = log_file(pod)
    file.write(
        b'{"time_ns":2,"app":"web","pid":7,"stream":"stderr","base64":"/w==","partial":true}\n'
    )
    file.close()
    status, output, _ = logs("--format=json", A)
    assert status == 0
    first, second = map(json.loads, output.splitlines())
    assert first == {"time_ns": 10**9, "uptime_ns": 10**9, "app": "web", "pid": 7,
                     "text": "line 1"} | {"stream": "stdout"}  # fmt: skip
    assert second["base64"] == "/w=="
    assert second["stream"] == "stderr"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "logs: give the UUID of one pod\n"),
        (["c"], 'logs: no matches found for "c"\n'),
        ([A, A], "logs: give the UUID of one pod\n"),
        ([A, "--app=x"], f'logs: pod "{A}" has no app "x"\n  hint: its apps: db, web\n'),
        ([A, "--since=yesterday"], 'logs: invalid moment "yesterday"\n'),
        ([A, "--format=xml"], "Error: Invalid value for '--format'"),
    ],
)
def test_what_the_command_refuses(logs: Command, words: list[str], error: str) -> None:
    status, output, errors = logs(*words)
    assert (status, output) == (254, "")
    assert errors.startswith(error)


def test_a_pod_that_has_not_run_has_no_logs(pod: PodDirectory, logs: Command) -> None:
    other = fabricate(pod.data, Section.PREPARED)
    assert logs(other.uuid)[2] == (f'logs: pod "{other.uuid}" has no logs: it has not run yet\n')


NOW_NS = 1_800_000_000 * 10**9


@pytest.mark.parametrize(
    ("text", "moment_ns"),
    [
        ("10m", NOW_NS - 600 * 10**9),
        ("0", NOW_NS),
        ("@1700000000.5", 1_700_000_000_500_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000 * 10**9),
        ("2023-11-14T23:13:20.000250+01:00", 1_700_000_000_000_250_000),
        ("2023-11-14 22:13:20", 1_700_000_000 * 10**9),
        ("2023-11-14", 1_699_920_000 * 10**9),
    ],
)
def test_moments(text: str, moment_ns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert parse_moment_ns(text, NOW_NS) == moment_ns


@pytest.mark.parametrize("text", ["", "10", "@", "@nan", "@inf", "2023-99-01", "x-y", "soon"])
def test_other_words_are_no_moments(text: str) -> None:
    with pytest.raises(UsageError, match="invalid moment"):
        parse_moment_ns(text, NOW_NS)
