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
from kvmrkt.pods.directory import PodDirectory, walk
from kvmrkt.pods.resources import Resources, start_ticks
from kvmrkt.pods.states import Section

SUPERVISORS = 40


def supervise(data: DataDir, told: int) -> None:
    """What the process behind `run` does to the pod's directory, with a helper process."""
    pod = PodDirectory.create(data)
    pod.to_prepare()
    pod.write_pod_manifest(b"{}")
    pod.to_run()
    pod.write_pid(os.getpid())
    listed = Resources(pod)
    listed.record_run_dir()
    helper = os.fork()
    if helper == 0:
        os.setsid()
        while True:
            time.sleep(60)
    os.write(told, b"%d %d\n" % (helper, start_ticks(helper) or 0))
    listed.record_process(helper, "helper")
    time.sleep(0.05)
    if random.random() < 0.3:  # noqa: S311
        os.kill(helper, signal.SIGKILL)
        os.waitpid(helper, 0)
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
        time.sleep(random.choice([0.0, 0.002, 0.005, 0.01, 0.02, 0.1]))  # noqa: S311
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
    # One that was killed between the start of its helper and writing it down leaves it to
    # PDEATHSIG, which this test's helpers do not have: only listed ones count here.
    alive = [pid for pid, ticks in helpers if start_ticks(pid) == ticks and not _zombie(pid)]
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    assert errors == []
    assert list(walk(data, Section)) == []
    assert list((runtime / "pods").iterdir()) == []
    assert len(alive) <= SUPERVISORS // 10


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
