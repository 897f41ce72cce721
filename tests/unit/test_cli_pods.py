from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from pods_on_disk import IMAGE_ID, fabricate, manifest

import kvmrkt.paths
from kvmrkt.cli import main
from kvmrkt.paths import DataDir
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.records import AppRecord
from kvmrkt.pods.states import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

A = "aaaaaaaa-0000-4000-8000-000000000000"
B = "bbbbbbbb-0000-4000-8000-000000000000"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataDir:
    monkeypatch.setattr(kvmrkt.paths, "RUNTIME", tmp_path / "runtime")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    return DataDir(tmp_path / "data")


class Result:
    """What a command did."""

    def __init__(self, status: int, output: str, errors: str) -> None:
        self.status, self.output, self.errors = status, output, errors


@pytest.fixture
def kvmrkt_(data: DataDir, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def run(*words: str) -> Result:
        status = main.run([f"--dir={data.root}", *words])
        said = capsys.readouterr()
        return Result(status, said.out, said.err)

    return run


@pytest.fixture
def two_pods(data: DataDir) -> tuple[PodDirectory, PodDirectory]:
    exited = fabricate(data, Section.RUN, A)
    exited.write_pod_manifest(manifest("db", "web"))
    exited.write_file("pod-created", b"")
    exited.write_pid(4711)
    exited.write_app_record("db", AppRecord(code=0, started_ns=1, finished_ns=2))
    exited.write_app_record("web", AppRecord(code=7, started_ns=1, finished_ns=2))
    exited.write_net_info(
        b'[{"netName":"default","ip":"172.16.28.2"},{"netName":"inner","ip":"10.1.0.2"}]'
    )
    for name in ("pod-created", "pid"):
        os.utime(exited.path / name, ns=(0, 1_700_000_000_123_000_000))
    prepared = fabricate(data, Section.PREPARED, B)
    prepared.write_pod_manifest(manifest("job"))
    return exited, prepared


@pytest.fixture
def supervisor(data: DataDir) -> Iterator[PodDirectory]:
    """A running pod whose supervisor ends on SIGTERM."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
            pod = PodDirectory.create(data)
            pod.to_prepare()
            pod.to_run()
            pod.write_pid(os.getpid())
            os.write(writer, pod.uuid.encode())
            while True:
                time.sleep(60)
        finally:
            os._exit(1)
    uuid = os.read(reader, 100).decode()
    yield PodDirectory(data, Section.RUN, uuid)
    for fd in (reader, writer):
        os.close(fd)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_list(kvmrkt_: Callable[..., Result], two_pods: object, data: DataDir) -> None:
    result = kvmrkt_("list")
    lines = result.output.expandtabs(8).splitlines()
    headings = ["UUID", "APP", "IMAGE NAME", "STATE", "CREATED", "STARTED", "NETWORKS"]
    places = [lines[0].index(heading) for heading in headings]
    cells = [
        [line[start:end].strip() for start, end in zip(places, [*places[1:], None], strict=True)]
        for line in lines[1:]
    ]
    assert result.status == 0
    created = cells[0][4]
    assert created.endswith("ago")
    assert cells == [
        ["aaaaaaaa", "db", "example.com/db:v1", "exited", created, created, DEFAULT],
        ["", "web", "example.com/web:v1", "", "", "", ""],
        ["bbbbbbbb", "job", "example.com/job:v1", "prepared", "", "", ""],
    ]


DEFAULT = "default:ip4=172.16.28.2, inner:ip4=10.1.0.2"


def test_list_full(kvmrkt_: Callable[..., Result], two_pods: object) -> None:
    lines = kvmrkt_("list", "--full").output.splitlines()
    assert [cell for cell in lines[0].split("\t") if cell] == [
        "UUID", "APP", "IMAGE NAME", "IMAGE ID", "STATE", "CREATED", "STARTED", "NETWORKS",
    ]  # fmt: skip
    time_text = "2023-11-14 22:13:20.123 +0000 UTC"
    assert [cell for cell in lines[1].split("\t") if cell] == [
        A, "db", "example.com/db:v1", IMAGE_ID[:19], "exited", time_text, time_text, DEFAULT,
    ]  # fmt: skip


def test_list_of_nothing(kvmrkt_: Callable[..., Result]) -> None:
    assert kvmrkt_("list").output == "UUID\tAPP\tIMAGE NAME\tSTATE\tCREATED\tSTARTED\tNETWORKS\n"
    assert kvmrkt_("list", "--no-legend").output == ""
    assert kvmrkt_("list", "--format=json").output == "null\n"


@pytest.mark.parametrize("flag", ["--no-legend", "--no-legend=1", "--no-legend=true"])
def test_go_booleans(kvmrkt_: Callable[..., Result], two_pods: object, flag: str) -> None:
    assert len(kvmrkt_("list", flag).output.splitlines()) == 3
    assert len(kvmrkt_("list", flag, "--no-legend=false").output.splitlines()) == 4


def test_list_json(kvmrkt_: Callable[..., Result], two_pods: object) -> None:
    pods = json.loads(kvmrkt_("list", "--format=json").output)
    assert [pod["name"] for pod in pods] == [A, B]
    assert pods[0]["created_at"] == 1_700_000_000
    pretty = kvmrkt_("list", "--format=json-pretty").output
    assert json.loads(pretty) == pods
    assert pretty.startswith("[\n\t{\n\t\t")


def test_a_damaged_pod_does_not_hide_the_others(
    kvmrkt_: Callable[..., Result], two_pods: tuple[PodDirectory, PodDirectory]
) -> None:
    two_pods[0].write_pod_manifest(b"{")
    result = kvmrkt_("list", "--no-legend")
    assert result.status == 0
    assert result.output.startswith("bbbbbbbb")
    assert result.errors.startswith(f'list: pod "{A}": ')


def test_status(kvmrkt_: Callable[..., Result], two_pods: object) -> None:
    result = kvmrkt_("status", "AAAA")
    assert result.status == 0
    assert result.output.splitlines() == [
        "state=exited",
        "created=2023-11-14 22:13:20.123 +0000 UTC",
        "started=2023-11-14 22:13:20.123 +0000 UTC",
        f"networks={DEFAULT}",
        "pid=4711",
        "exited=true",
        "app-db=0",
        "app-web=7",
    ]


def test_status_of_a_pod_that_never_ran(kvmrkt_: Callable[..., Result], two_pods: object) -> None:
    assert kvmrkt_("status", B).output == "state=prepared\n"


def test_status_json_is_one_pod(kvmrkt_: Callable[..., Result], two_pods: object) -> None:
    assert json.loads(kvmrkt_("status", B, "--format=json").output)["state"] == "prepared"


def test_status_of_a_running_pod(kvmrkt_: Callable[..., Result], supervisor: PodDirectory) -> None:
    lines = kvmrkt_("status", supervisor.uuid).output.splitlines()
    assert lines[0] == "state=running"
    assert lines[-2:] == [f"pid={supervisor.read_pid()}", "exited=false"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["status", "c"], 'status: problem retrieving pod: no matches found for "c"'),
        (["status", ""], "status: problem retrieving pod: UUID cannot be empty"),
        (["status"], "status: give the UUID of a pod, or --uuid-file"),
        (["status", A, B], "status: give the UUID of one pod"),
        (["rm"], "rm: give the UUID of a pod, or --uuid-file"),
        (["stop"], "stop: give the UUID of a pod, or --uuid-file"),
        (["stop", "c"], 'stop: cannot get pod: no matches found for "c"'),
        (["rm", "c"], 'rm: cannot get pod: no matches found for "c"'),
        (["list", "--full=x"], 'list: invalid argument "x" for --full=x'),
        (["gc", "--grace-period=1"], 'gc: invalid argument "1" for --grace-period=1'),
        (["status", "--wait=soon", A], 'status: invalid duration "soon"'),
    ],
)
def test_errors(
    kvmrkt_: Callable[..., Result], two_pods: object, words: list[str], error: str
) -> None:
    result = kvmrkt_(*words)
    assert result.status == 254
    assert result.errors.splitlines()[0].startswith(error)
    assert result.output == ""


@pytest.mark.parametrize(("command", "status"), [("status", 1), ("stop", 1), ("rm", 254)])
def test_a_uuid_file_that_cannot_be_read(
    kvmrkt_: Callable[..., Result], tmp_path: Path, command: str, status: int
) -> None:
    result = kvmrkt_(command, f"--uuid-file={tmp_path}/nosuch")
    assert result.status == status
    assert result.errors.startswith(f"{command}: unable to resolve UUID from file: ")


def test_a_uuid_file(kvmrkt_: Callable[..., Result], two_pods: object, tmp_path: Path) -> None:
    (tmp_path / "uuid").write_text(f"{B}\n")
    assert kvmrkt_("status", "--uuid-file", f"{tmp_path}/uuid").output == "state=prepared\n"
    result = kvmrkt_("rm", f"--uuid-file={tmp_path}/uuid")
    assert (result.status, result.output) == (0, f'"{B}"\n')


def test_wait_for_a_pod_that_has_ended(kvmrkt_: Callable[..., Result], two_pods: object) -> None:
    assert kvmrkt_("status", "--wait", A).output.startswith("state=exited\n")


def test_waiting_no_longer_than_told(
    kvmrkt_: Callable[..., Result], supervisor: PodDirectory
) -> None:
    result = kvmrkt_("status", "--wait=50ms", supervisor.uuid)
    assert result.status == 254
    assert result.errors == ("status: error waiting for pod to finish: context deadline exceeded\n")
    assert kvmrkt_("status", "--wait=false", supervisor.uuid).status == 0


def test_wait_until_the_end(kvmrkt_: Callable[..., Result], supervisor: PodDirectory) -> None:
    pid = supervisor.read_pid()
    assert pid is not None
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    assert kvmrkt_("status", "--wait", supervisor.uuid).output.startswith("state=exited\n")


def test_wait_until_ready(kvmrkt_: Callable[..., Result], supervisor: PodDirectory) -> None:
    supervisor.write_pod_manifest(manifest("a"))
    early = kvmrkt_("status", "--wait-ready=50ms", supervisor.uuid)
    assert early.status == 254
    assert early.errors == "status: error waiting for pod readiness: context deadline exceeded\n"
    supervisor.write_app_record("a", AppRecord(started_ns=1))
    assert kvmrkt_("status", "--wait-ready=10s", supervisor.uuid).status == 0


@pytest.mark.parametrize("flags", [[], ["--force"]])
def test_stop(kvmrkt_: Callable[..., Result], supervisor: PodDirectory, flags: list[str]) -> None:
    result = kvmrkt_("stop", *flags, supervisor.uuid[:10])
    assert (result.status, result.output) == (0, f'"{supervisor.uuid}"\n')
    again = kvmrkt_("stop", supervisor.uuid)
    assert (again.status, again.output) == (0, f'pod "{supervisor.uuid}" is already stopped\n')


def test_stop_goes_on_after_a_failure(kvmrkt_: Callable[..., Result], two_pods: object) -> None:
    result = kvmrkt_("stop", B, "c", A)
    assert result.status == 254
    assert result.output == f'pod "{A}" is already stopped\n'
    assert result.errors.splitlines() == [
        f'stop: pod "{B}" is not running',
        'stop: cannot get pod: no matches found for "c"',
        "stop: failed to stop 2 pod(s)",
    ]


def test_stop_does_not_signal_another_process_of_the_same_number(
    kvmrkt_: Callable[..., Result], data: DataDir
) -> None:
    pod = fabricate(data, Section.RUN, A)
    pod.write_pid(os.getpid())  # exited: the number is somebody else's by now
    assert kvmrkt_("stop", "--force", A).output == f'pod "{A}" is already stopped\n'


def test_rm(kvmrkt_: Callable[..., Result], two_pods: object, supervisor: PodDirectory) -> None:
    result = kvmrkt_("rm", A, supervisor.uuid, B)
    assert result.status == 254
    assert result.output == f'"{A}"\n"{B}"\n'
    assert result.errors.splitlines() == [
        f'rm: pod "{supervisor.uuid}" is currently running',
        "rm: failed to remove one or more pods",
    ]


def test_gc(kvmrkt_: Callable[..., Result], two_pods: object) -> None:
    result = kvmrkt_("gc")
    assert (result.status, result.output) == (0, "")
    assert result.errors.splitlines() == [
        f'gc: moving pod "{A}" to garbage',
        f'gc: pod "{A}" not removed: still within grace period (30m0s)',
    ]
    time.sleep(0.01)
    result = kvmrkt_("gc", "--grace-period=0", "--expire-prepared", "0")
    assert result.output == f'Garbage collecting pod "{A}"\nGarbage collecting pod "{B}"\n'
    assert result.errors.splitlines() == [
        f'gc: moving expired prepared pod "{B}" to garbage',
        "gc: 2 pod(s) successfully removed",
    ]
    assert kvmrkt_("gc", "--grace-period=0").errors == ""


def test_gc_mark_only(kvmrkt_: Callable[..., Result], two_pods: object) -> None:
    result = kvmrkt_("gc", "--mark-only", "--grace-period=0")
    assert (result.status, result.output) == (0, "")
    assert kvmrkt_("status", A).output.startswith("state=exited garbage\n")


@pytest.mark.parametrize("words", [["gc", "--grace-period=x"], ["rm"]])
def test_root_alone_and_that_is_said_first(
    kvmrkt_: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = kvmrkt_(*words)
    assert result.status == 254
    assert result.errors.splitlines()[0] == f"{words[0]}: cannot run as unprivileged user"
    assert kvmrkt_(words[0], "--help").status == 0


def test_version(kvmrkt_: Callable[..., Result]) -> None:
    lines = kvmrkt_("version").output.splitlines()
    assert lines[0].startswith("kvmrkt Version: ")
    assert lines[1] == "appc Version: 0.8.11"
