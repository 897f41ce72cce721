"""Pods through the whole command line, on an engine without a virtual machine."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
from simulated_engine import SimulatedPod

if TYPE_CHECKING:
    from pathlib import Path

    from simulated_host import SimulatedHost


def test_a_pod_runs_from_its_image_to_its_status(host: SimulatedHost) -> None:
    done = host.run(host.image(), "--exec=/bin/exit", "--", "7")
    assert done == (7, "", "run: this pod is only simulated\n")
    (uuid,) = host.pods()
    assert host.pods()[uuid] == "run"
    lines = host("status", uuid).output.splitlines()
    assert lines[0] == "state=exited"
    assert lines[-1] == "app-app=7"


def test_what_an_app_says_is_shown_and_kept(host: SimulatedHost) -> None:
    done = host.run(host.image(), "--exec=/bin/echo", "--", "hello", "there")
    assert done.output == "[    0.784177] app[7]: hello there\n"
    (uuid,) = host.pods()
    log = host.data.pods / "run" / uuid / "logs" / "app.jsonl"
    assert json.loads(log.read_text())["text"] == "hello there"


def test_the_first_app_that_fails_ends_the_pod(host: SimulatedHost) -> None:
    image = host.image()
    done = host.run(
        image, "--name=a", "--exec=/bin/sleep", "---", image, "--name=b", "--exec=/bin/kill",
        "--", "9", "---", image, "--name=c", "--exec=/bin/true",
    )  # fmt: skip
    assert done.status == 137
    (uuid,) = host.pods()
    assert host("status", uuid).output.splitlines()[-3:] == ["app-a=143", "app-b=137", "app-c=0"]


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("/no/such", 'run: cannot start app "app": /no/such: no such file'),
        ("/fails/no-accelerator", "run: there is no /dev/kvm"),
    ],
)
def test_a_pod_that_cannot_start_leaves_nothing(
    host: SimulatedHost, program: str, error: str
) -> None:
    done = host.run(host.image(), f"--exec={program}")
    assert done.status == 254
    assert error in done.errors
    assert host.pods() == {}


@pytest.mark.parametrize(
    ("program", "status", "error"),
    [
        ("/fails/silent", 247, "said nothing within 60 seconds"),
        ("/fails/mute", 248, "closed its control port"),
        ("/fails/panic", 249, "panicked"),
        ("/fails/lies", 250, "broke the protocol"),
        ("/fails/memory", 251, "out of memory"),
        ("/fails/no-qemu", 252, "cannot start qemu"),
        ("/fails/killed", 252, "QEMU was ended by SIGKILL"),
    ],
)
def test_a_pod_whose_machinery_fails_has_its_status_and_stays_to_be_looked_at(
    host: SimulatedHost, program: str, status: int, error: str
) -> None:
    done = host.run(host.image(), f"--exec={program}")
    assert done.status == status
    assert error in done.errors
    (uuid,) = host.pods()
    exit_file = host.data.pods / "run" / uuid / "exit"
    assert int(exit_file.read_text()) == status
    assert host("status", uuid).output.startswith("state=exited\n")


def test_an_image_that_is_refused_is_told_apart(host: SimulatedHost) -> None:
    bad = host.folder / "bad.aci"
    bad.write_bytes(b"no archive")
    assert host.run(bad).status == 253
    assert host("prepare", bad).status == 253
    assert host("fetch", bad).status == 254
    assert host.pods() == {}


def test_a_prepared_pods_machinery_fails_with_the_same_status(host: SimulatedHost) -> None:
    uuid = host("prepare", host.image(), "--exec=/fails/panic").output.splitlines()[-1]
    assert host("run-prepared", "--net=none", uuid).status == 249
    assert (host.data.pods / "run" / uuid / "exit").read_text() == "249\n"


def test_a_running_pod_is_seen_waited_for_and_stopped(host: SimulatedHost) -> None:
    uuid_file = host.folder / "uuid"
    pod = host.start(
        "run", "--net=none", f"--uuid-file-save={uuid_file}", host.image(), "--exec=/bin/sleep"
    )
    uuid = host.running(pod, uuid_file)
    listed = json.loads(host("list", "--format=json").output)
    assert [(entry["name"], entry["state"]) for entry in listed] == [(uuid, "running")]
    assert host("status", uuid).output.splitlines()[-1] == "exited=false"
    assert host("rm", uuid).status == 254
    assert host("stop", uuid).output == f'"{uuid}"\n'
    assert host.finish(pod).status == 0
    assert host("status", uuid).output.splitlines()[-1] == "app-app=143"
    assert host("rm", uuid).output == f'"{uuid}"\n'
    assert host.pods() == {}


def test_a_killed_supervisor_leaves_an_exited_pod_that_gc_removes(host: SimulatedHost) -> None:
    uuid_file = host.folder / "uuid"
    pod = host.start(
        "run", "--net=none", f"--uuid-file-save={uuid_file}", host.image(), "--exec=/bin/sleep"
    )
    uuid = host.running(pod, uuid_file)
    assert host("stop", "--force", uuid).status == 0
    assert host.finish(pod).status == -signal.SIGKILL
    assert host("status", uuid).output.startswith("state=exited\n")
    assert f'Garbage collecting pod "{uuid}"\n' == host("gc", "--grace-period=0").output
    assert host.pods() == {}


def test_an_isolator_that_the_engine_refuses_is_refused_before_there_is_a_pod(
    host: SimulatedHost,
) -> None:
    app = {"exec": ["/bin/true"], "user": "0", "group": "0",
           "isolators": [{"name": "refused", "value": {}}]}  # fmt: skip
    done = host.run(host.image(app=app))
    assert done.status == 254
    assert 'cannot run app "app": the isolator is refused' in done.errors
    assert host.pods() == {}


def test_a_volumes_missing_folder_is_refused_before_the_pod_starts(
    host: SimulatedHost, tmp_path: Path
) -> None:
    volume = f"--volume=v,kind=host,source={tmp_path}/missing"
    done = host.run(volume, host.image(), "--mount=volume=v,target=/v", "--exec=/bin/true")
    assert done.status == 254
    assert f'cannot use the volume "v": its source {tmp_path}/missing' in done.errors
    assert host.pods() == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_apps_run_leaves_nothing(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def interrupted(*_: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(SimulatedPod, "run", interrupted)
    done = host.run(host.image(), "--exec=/bin/true")
    assert done.status == 254
    assert done.errors == f"run: stopped by {number.name} before the pod's apps ran\n"
    assert host.pods() == {}
    assert signal.getsignal(number) is signal.SIG_DFL
