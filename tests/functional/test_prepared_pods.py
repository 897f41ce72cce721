"""Prepared pods and pods of the Python interface, on real machines."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest
from real_pods import BUSYBOX, Kvmrkt, lines, processes_naming

from kvmrkt import AppRequest, Host, KvmrktError, PodRequest, PodState

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.functional

SH = ("--exec=/bin/sh",)


def test_a_prepared_pod_is_run_with_what_was_asked_for_then(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    folder = tmp_path / "volume"
    folder.mkdir()
    (folder / "file").write_text("from the host\n")
    script = "hostname; echo $WHO; cat /v/file; exit 7"
    done = kvmrkt(
        "prepare", f"--volume=v,kind=host,source={folder}", "--set-env=WHO=me", BUSYBOX, *SH,
        "--mount=volume=v,target=/v", "--", "-c", script,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    uuid = done.stdout.strip()
    assert re.fullmatch(r"[0-9a-f-]{36}", uuid)
    (listed,) = json.loads(kvmrkt("list", "--format=json").stdout)
    assert (listed["name"], listed["state"]) == (uuid, "prepared")
    manifest = json.loads(kvmrkt("cat-manifest", uuid).stdout)
    assert manifest["apps"][0]["app"]["exec"] == ["/bin/sh", "-c", script]

    done = kvmrkt("run-prepared", "--net=none", "--hostname=web", uuid[:8])
    assert lines(done) == ["web", "me", "from the host"]
    assert done.returncode == 7, done.stderr
    assert "app-busybox=7" in kvmrkt("status", uuid).stdout
    again = kvmrkt("run-prepared", "--net=none", uuid)
    assert (again.returncode, again.stderr) == (
        254, f'run-prepared: pod "{uuid}" is not prepared\n',
    )  # fmt: skip


def test_a_program_runs_pods_beside_itself(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    host = Host(kvmrkt.dir, insecure_options="image")
    script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    app = AppRequest(image=str(BUSYBOX), exec="/bin/sh", arguments=("-c", script))
    said = tmp_path / "said"
    with said.open("wb") as output, host.run(PodRequest(apps=(app,)), output=output) as pod:
        assert pod.wait_ready()
        assert pod.state is PodState.RUNNING
        while "ready" not in said.read_text():  # started is not yet ready for a signal
            assert pod.state is PodState.RUNNING
            time.sleep(0.05)
        assert any("qemu" in process for process in processes_naming(pod.uuid))
        assert "state=running" in kvmrkt("status", pod.uuid).stdout
    assert pod.wait() == 5
    assert pod.exit_status == 5
    assert said.read_text().endswith("]: ready\n")
    pod.remove()
    assert kvmrkt.pods() == []


def test_a_supervisor_that_is_killed_takes_its_machine_along(kvmrkt: Kvmrkt) -> None:
    host = Host(kvmrkt.dir, insecure_options="image")
    app = AppRequest(image=str(BUSYBOX), exec="/bin/sleep", arguments=("1000",))
    pod = host.run(PodRequest(apps=(app,)))
    assert pod.wait_ready()
    assert pod.stop(force=True)
    assert pod.state is PodState.EXITED
    assert pod.exit_status is None
    with pytest.raises(KvmrktError, match="was killed"):
        pod.wait()
    assert host.collect_garbage(grace_seconds=0) == 1
    assert processes_naming(pod.uuid) == []
