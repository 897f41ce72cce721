"""Supervisors that are killed at any moment, while garbage is collected all the time."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

import kvmrkt.paths
from kvmrkt.errors import KvmrktError
from kvmrkt.paths import DataDir
from kvmrkt.pods import gc
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.lookup import walk
from kvmrkt.pods.resources import Resources, start_ticks
from kvmrkt.pods.states import Section
from kvmrkt.process import spawn

SUPERVISORS = 25


def supervise(data: DataDir, told: int) -> None:
    """What the process behind `run` does to the pod's directory, with a helper process."""
    pod = PodDirectory.create(data)
    pod.to_prepare()
    pod.write_pod_manifest(b"{}")
    pod.to_run()
    pod.write_pid(os.getpid())
    listed = Resources(pod)
    listed.record_run_dir()
    # listed after its start; in the moment between, PDEATHSIG ends it
    helper = spawn(["sleep", "60"], die_with_parent=True)
    os.write(told, b"%d %d\n" % (helper.pid, start_ticks(helper.pid) or 0))
    listed.record_process(helper.pid, "helper")
    time.sleep(0.05)
    if random.random() < 0.3:
        helper.kill()
        helper.wait()
        pod.write_exit(0)
        os._exit(0)
    time.sleep(60)


def collect(data: DataDir, errors: list[KvmrktError | None]) -> None:
    def report(step: gc.Step, uuid: str, error: KvmrktError | None = None) -> None:
        if step is gc.Step.FAIL:
            errors.append(error)

    gc.mark(data, report)
    gc.sweep(data, report, grace_seconds=0, expire_prepared_seconds=0)


def collect_for_ever(data: DataDir) -> None:
    errors: list[KvmrktError | None] = []
    while not errors:
        collect(data, errors)
    os._exit(1)


def fork(function: object, *arguments: object) -> int:
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)  # type: ignore[operator]
        finally:
            os._exit(2)
    return child


def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = tmp_path / "runtime"
    monkeypatch.setattr(kvmrkt.paths, "RUNTIME", runtime)
    data = DataDir(tmp_path / "data")
    reader, writer = os.pipe()
    collectors = [fork(collect_for_ever, data) for _ in range(3)]
    for _ in range(SUPERVISORS):
        child = fork(supervise, data, writer)
        time.sleep(random.choice([0.0, 0.003, 0.006, 0.01, 0.02, 0.05, 0.1]))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    for collector in collectors:
        assert os.waitpid(collector, os.WNOHANG) == (0, 0), "a collector saw an error"
        os.kill(collector, signal.SIGKILL)  # anywhere in its work
        os.waitpid(collector, 0)
    errors: list[KvmrktError | None] = []
    time.sleep(0.01)
    collect(data, errors)
    os.close(writer)
    with open(reader) as file:
        helpers = [tuple(map(int, line.split())) for line in file]
    assert [pid for pid, ticks in helpers if _runs(pid, ticks)] == []
    assert errors == []
    assert list(walk(data, Section)) == []
    assert list((runtime / "pods").iterdir()) == []


def _runs(pid: int, ticks: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return start_ticks(pid) == ticks and text.rpartition(")")[2].split()[0] != "Z"
