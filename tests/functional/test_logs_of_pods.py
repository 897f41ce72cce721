"""Logs of real pods: complete after every kind of end, followed while they run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from real_pods import BUSYBOX, DEADLINE_SECONDS, Kvmrkt, lines

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.functional

COUNT = 500
WRITER = f"i=0; while [ $i -lt {COUNT} ]; do echo line $i; i=$((i+1)); done; echo last >&2; "
EXPECTED = [*(f"line {number}" for number in range(COUNT)), "last"]


def start(kvmrkt: Kvmrkt, script: str) -> tuple[subprocess.Popen[str], str]:
    """A pod, and its UUID once it exists."""
    file = kvmrkt.dir / "uuid"
    pod = kvmrkt.start(f"--uuid-file-save={file}", BUSYBOX, "--exec=/bin/sh", "--", "-c", script)
    assert pod.stdout is not None
    first = pod.stdout.readline()
    assert "line 0" in first
    return pod, file.read_text()


def test_a_pod_is_followed_to_its_end_and_read_afterwards(
    kvmrkt: Kvmrkt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as init:
        init.bind(f"{tmp_path}/notify")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
        pod, uuid = start(kvmrkt, WRITER + "sleep 1; echo after; exit 7")
        monkeypatch.delenv("NOTIFY_SOCKET")
        followed = kvmrkt("logs", "-f", uuid)
        assert pod.stdout is not None
        shown = pod.stdout.read()
        pod.communicate(timeout=DEADLINE_SECONDS)
        init.setblocking(False)
        told = [init.recv(4096).decode() for _ in range(3)]
    assert pod.returncode == 7
    assert lines(followed) == [*EXPECTED, "after"]
    assert followed.stdout.splitlines()[1:] == shown.splitlines()
    assert kvmrkt("logs", uuid[:8]).stdout == followed.stdout
    records = [
        json.loads(line) for line in kvmrkt("logs", "--format=json", uuid).stdout.splitlines()
    ]
    assert [r["text"] for r in records if r["stream"] == "stderr"] == ["last"]
    since = f"@{records[-1]['time_ns'] / 1e9 - 0.5}"
    assert lines(kvmrkt("logs", f"--since={since}", uuid)) == ["after"]
    assert [word.partition("\n")[0] for word in told[1:]] == ["READY=1", "STOPPING=1"]


@pytest.mark.parametrize("victim", ["qemu", "supervisor"])
def test_logs_are_complete_after_a_crash(kvmrkt: Kvmrkt, victim: str) -> None:
    pod, uuid = start(kvmrkt, WRITER + "sleep 1000")
    assert pod.stdout is not None
    while "last" not in pod.stdout.readline():
        pass
    if victim == "supervisor":
        pod.send_signal(signal.SIGKILL)
    else:
        document = json.loads((kvmrkt.dir / "pods" / "run" / uuid / "resources.json").read_text())
        processes = [item for item in document["resources"] if item["name"] == "qemu"]
        os.kill(processes[0]["process"]["pid"], signal.SIGKILL)
    followed = kvmrkt("logs", "-f", uuid)
    pod.communicate(timeout=DEADLINE_SECONDS)
    assert lines(followed) == EXPECTED
