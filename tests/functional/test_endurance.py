"""Pods one after the other, and many at once, leave nothing. `make soak` has the long forms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from real_pods import BUSYBOX, Kvmrkt
from residue import files_below, held, residue

from kvmrkt import AppRequest, Host, PodRequest, RunOptions
from kvmrkt.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.functional

CYCLES = int(os.environ.get("KVMRKT_CYCLES", "5"))
WARM_CYCLES = 2
PODS = int(os.environ.get("KVMRKT_PODS", "4"))
BOOT_SECONDS = 1800
"""For each of many pods at once, that share few cores, and emulate theirs."""
GROWTH_BYTES = 8 << 20
"""What a program may grow by between its first pods and its last, however many they are."""


def say(line: str) -> None:
    """A figure, shown by `make soak`."""
    sys.stdout.write(f"{line}\n")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files, of this process and of those it starts."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.mark.timeout(60 + 60 * CYCLES)
def test_cycles_of_run_and_stop_leave_nothing(
    kvmrkt: Kvmrkt, tmp_path: Path, temporary: Path
) -> None:
    host = Host(kvmrkt.dir, insecure_options="image")
    script = "echo ready; exec sleep 1000"
    app = AppRequest(image=str(BUSYBOX), exec="/bin/sh", arguments=("-c", script))
    uuids = []
    before = held()
    began = time.monotonic()
    for number in range(CYCLES):
        if number == WARM_CYCLES:
            before = held()
        pod = host.run(PodRequest(apps=(app,)), options=RunOptions(boot_timeout_seconds=600))
        uuids.append(pod.uuid)
        assert pod.wait_ready()
        assert pod.stop(force=number % 3 == 2)
        if number % 2:
            pod.remove()
        else:
            with suppress(EngineError):  # the supervisor was killed
                pod.wait()
            assert host.collect_garbage(grace_seconds=0) == 1
    after = held()
    growth_bytes = after.memory_bytes - before.memory_bytes
    say(
        f"{CYCLES} cycles in {time.monotonic() - began:.0f} s, grown by {growth_bytes >> 10} KiB, "
        f"descriptors {before.descriptors} and {after.descriptors}"
    )
    assert (after.descriptors, after.children) == (before.descriptors, before.children)
    assert growth_bytes < GROWTH_BYTES
    assert residue(tmp_path, uuids) == []
    assert files_below(kvmrkt.dir) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.timeout(600 + 60 * PODS)
def test_many_pods_at_once_leave_nothing(kvmrkt: Kvmrkt, tmp_path: Path, temporary: Path) -> None:
    began = time.monotonic()
    started = [
        kvmrkt.start(
            f"--boot-timeout={BOOT_SECONDS}s", f"--uuid-file-save={tmp_path}/uuid-{number}",
            BUSYBOX, "--exec=/bin/sleep", "--", "10000",
        )
        for number in range(PODS)
    ]  # fmt: skip
    uuids = [_uuid_of(tmp_path / f"uuid-{number}", pod) for number, pod in enumerate(started)]
    for uuid in uuids:
        assert kvmrkt.wait(uuid, BOOT_SECONDS).startswith("state=running\n")
    say(f"{PODS} pods ran at once after {time.monotonic() - began:.0f} s")
    listed = json.loads(kvmrkt("list", "--format=json").stdout)
    assert {pod["name"]: pod["state"] for pod in listed} == dict.fromkeys(uuids, "running")
    kinds = {line.partition(" ")[0] for line in residue(kvmrkt.dir, uuids)}
    assert {"process", "folder", "group", "lock"} <= kinds, "the search finds what is there"
    stops = [
        subprocess.Popen(kvmrkt.argv("stop", uuid), stdout=subprocess.DEVNULL) for uuid in uuids
    ]
    assert [stop.wait() for stop in stops] == [0] * PODS
    assert [pod.wait() for pod in started] == [0] * PODS
    for pod in started:
        pod.communicate()
    assert kvmrkt("gc", "--grace-period=0s").returncode == 0
    say(f"and were gone after {time.monotonic() - began:.0f} s")
    assert residue(kvmrkt.dir, uuids) == []
    assert files_below(kvmrkt.dir) == []
    assert list(temporary.iterdir()) == []


def _uuid_of(file: Path, pod: subprocess.Popen[str]) -> str:
    """What `run` saved before it started the pod."""
    while not (file.exists() and file.stat().st_size):
        assert pod.poll() is None, pod.communicate()
        time.sleep(0.05)
    return file.read_text()
