"""Several people at the same real pods at once; tests/unit/test_racing_commands.py has the rest."""

from __future__ import annotations

import subprocess

import pytest
from real_pods import BUSYBOX, DEADLINE_SECONDS, Kvmrkt

pytestmark = pytest.mark.functional

ENDS_WELL = "trap 'sleep 1; exit 5' TERM; echo ready; while :; do sleep 0.1; done"


def test_many_who_stop_wait_for_and_remove_the_same_pods(kvmrkt: Kvmrkt) -> None:
    pods = [kvmrkt.start(BUSYBOX, "--exec=/bin/sh", "--", "-c", ENDS_WELL) for _ in range(2)]
    for pod in pods:
        assert pod.stdout is not None
        assert pod.stdout.readline().endswith("ready\n")
    uuids = [path.name for path in kvmrkt.pods()]

    def begin(*words: str) -> subprocess.Popen[str]:
        command = subprocess.Popen(
            kvmrkt.argv(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        kvmrkt.started.append(command)
        return command

    waiting = [begin("status", "--wait", uuid) for uuid in uuids]
    stops = [begin("stop", uuid) for uuid in uuids for _ in range(2)]
    collectors = [begin("gc", "--grace-period=0s") for _ in range(2)]
    for command in collectors + stops:
        _, errors = command.communicate(timeout=DEADLINE_SECONDS)
        assert command.returncode == 0, errors
    assert [pod.wait() for pod in pods] == [5, 5], "a second stop left the apps their time"
    removers = [begin("rm", *uuids), begin("gc", "--grace-period=0s"), begin("rm", *uuids)]
    for command in removers:
        _, errors = command.communicate(timeout=DEADLINE_SECONDS)
        assert not command.returncode or "no matches found" in errors or "deleted" in errors
    for command in waiting:
        output, errors = command.communicate(timeout=DEADLINE_SECONDS)
        assert "app-busybox=5" in output or "no matches found" in errors
    for pod in pods:
        pod.communicate()
    assert kvmrkt.pods() == []
