"""`kvmrkt prepare` and `run-prepared`, on the simulated engine."""

from __future__ import annotations

import fcntl
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from kvmrkt.preparing import fill

if TYPE_CHECKING:
    from pathlib import Path

    from simulated_host import SimulatedHost


def prepare(host: SimulatedHost, *words: str | Path) -> str:
    """The UUID of a pod that is prepared."""
    done = host("prepare", "--quiet", *words)
    assert (done.status, done.errors) == (0, "")
    return done.output.strip()


def test_a_prepared_pod_waits_and_is_run_once(host: SimulatedHost) -> None:
    done = host("prepare", host.image(), "--exec=/bin/exit", "--", "7")
    uuid = done.output.strip()
    assert (done.status, host.pods()) == (0, {uuid: "prepared"})
    assert host("status", uuid).output.startswith("state=prepared\n")
    assert host("run-prepared", "--net=none", uuid[:8].upper()).status == 7
    assert host("status", uuid).output.splitlines()[-1] == "app-app=7"
    again = host("run-prepared", "--net=none", uuid)
    assert (again.status, again.errors) == (254, f'run-prepared: pod "{uuid}" is not prepared\n')


def test_the_uuid_is_on_the_last_line_whatever_else_is_said(host: SimulatedHost) -> None:
    app = {"exec": ["/bin/true"], "user": "0", "group": "0",
           "mountPoints": [{"name": "data", "path": "/data"}]}  # fmt: skip
    image = host.image(app=app)
    done = host("prepare", image)
    assert 'no volume specified for mount point "data"' in done.errors
    assert host.pods().keys() == {done.output.strip()}
    assert host("prepare", "--quiet", image).errors == ""


def test_what_a_pod_needs_is_written_down(host: SimulatedHost) -> None:
    uuid = prepare(host, host.image(), "--name=web")
    pod = host.data.pods / "prepared" / uuid
    machine = json.loads((pod / "machine.json").read_text())
    assert (host.data.cas / "stage1" / machine["stage1"]).is_dir()
    tree = (pod / "appsinfo" / "web" / "treeStoreID").read_text()
    assert (host.data.cas / "tree" / f"{tree}.squashfs").is_file()
    image = json.loads((pod / "appsinfo" / "web" / "manifest").read_text())
    assert image["name"] == "example.com/app"
    stage1 = json.loads((pod / "stage1" / "manifest").read_text())
    assert stage1["name"] == "example.com/stage1"
    assert not (pod / "pid").exists()


def test_how_a_run_was_asked_for_is_written_down(host: SimulatedHost) -> None:
    uuid = prepare(host, host.image(), "--exec=/bin/hostname")
    done = host("--insecure-options=image,paths", "run-prepared", "--net=none", "--hostname=web",
                uuid)  # fmt: skip
    assert done.output == "[    0.784177] app[7]: web\n"
    config = json.loads((host.data.pods / "run" / uuid / "runtime-config").read_text())
    assert (config["Hostname"], config["NetList"]) == ("web", ["none"])
    assert config["InsecureOptions"] == {
        "DisablePaths": True, "DisableCapabilities": False, "DisableSeccomp": False,
    }  # fmt: skip


def test_gc_leaves_a_prepared_pod_all_it_needs(host: SimulatedHost) -> None:
    image = host.image()
    uuid = prepare(host, image, "--exec=/bin/exit", "--", "3")
    for text in ("example.com/app", "example.com/stage1"):
        assert host("image", "rm", text).status == 0
    assert host("image", "gc", "--grace-period=0").status == 0
    assert host("gc", "--grace-period=0").status == 0
    assert host("run-prepared", "--net=none", uuid).status == 3
    assert host("gc", "--grace-period=0").output == f'Garbage collecting pod "{uuid}"\n'
    collected = host("image", "gc", "--grace-period=0").output
    assert "removed treestore" in collected
    assert 'removed stage1 files "sha512-' in collected


def test_images_that_only_prepared_pods_have_are_not_collected(host: SimulatedHost) -> None:
    uuid = prepare(host, host.image())
    collected = host("image", "gc", "--grace-period=0")
    assert (collected.status, collected.output) == (0, "")
    assert host("run-prepared", "--net=none", uuid).status == 0


def test_a_tree_that_is_gone_is_made_again(host: SimulatedHost) -> None:
    uuid = prepare(host, host.image())
    shutil.rmtree(host.data.cas / "tree")
    assert host("run-prepared", "--net=none", uuid).status == 0


def test_an_image_that_is_gone_too_is_told_and_the_pod_stays_prepared(host: SimulatedHost) -> None:
    uuid = prepare(host, host.image())
    shutil.rmtree(host.data.cas / "tree")
    host("image", "rm", "example.com/app")
    done = host("run-prepared", "--net=none", uuid)
    assert done.status >= 1
    assert "no image IDs found" in done.errors
    assert host.pods() == {uuid: "prepared"}


@pytest.mark.parametrize("file", ["machine.json", "pod", "stage1/manifest"])
def test_a_damaged_pod_is_refused(host: SimulatedHost, file: str) -> None:
    uuid = prepare(host, host.image())
    (host.data.pods / "prepared" / uuid / file).unlink()
    done = host("run-prepared", "--net=none", uuid)
    assert done.status == 254
    assert done.errors.startswith(f'run-prepared: pod "{uuid}" is damaged: it lacks ')
    assert host.pods() == {uuid: "prepared"}


def test_a_volume_is_looked_for_when_the_pod_runs(host: SimulatedHost) -> None:
    folder = host.folder / "volume"
    uuid = prepare(host, f"--volume=v,kind=host,source={folder}", host.image(),
                   "--mount=volume=v,target=/v")  # fmt: skip
    done = host("run-prepared", "--net=none", uuid)
    assert done.status == 254
    assert done.errors.startswith('run-prepared: cannot use the volume "v": its source')
    folder.mkdir()
    assert host("run-prepared", "--net=none", uuid).status == 0


@pytest.mark.parametrize("program", ["/no/such", "/fails/no-accelerator", "/fails/panic"])
def test_a_pod_whose_start_fails_has_exited(host: SimulatedHost, program: str) -> None:
    uuid = prepare(host, host.image(), f"--exec={program}")
    done = host("run-prepared", "--net=none", uuid)
    assert done.status >= 1
    assert host("status", uuid).output.startswith("state=exited\n")
    assert int((host.data.pods / "run" / uuid / "exit").read_text()) == done.status


def test_two_cannot_run_one_pod(host: SimulatedHost) -> None:
    uuid = prepare(host, host.image(), "--exec=/bin/sleep")
    first = host.start("run-prepared", "--net=none", uuid)
    host.wait_for(host.data.pods / "run" / uuid / "pid", first)
    assert host("status", "--wait-ready=60s", uuid).status == 0
    second = host("run-prepared", "--net=none", uuid)
    assert (second.status, second.errors) == (254, f'run-prepared: pod "{uuid}" is not prepared\n')
    assert host("stop", uuid).status == 0
    assert host.finish(first).status == 0


def test_interactive_is_for_one_app(host: SimulatedHost) -> None:
    image = host.image()
    uuid = prepare(host, image, "--name=a", "---", image, "--name=b")
    done = host("run-prepared", "--net=none", "--interactive", uuid)
    assert done.status == 254
    assert "interactive option only supports pods with one app" in done.errors
    assert host.pods() == {uuid: "prepared"}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["prepare"], "prepare: must provide at least one image"),
        (["prepare", "/no/such.aci"], "prepare: "),
        (["run-prepared", "--net=none"], "run-prepared: must provide exactly one UUID"),
        (["run-prepared", "--net=none", "a", "b"], "run-prepared: must provide exactly one UUID"),
        (["run-prepared", "--net=none", "a"], "run-prepared: problem retrieving pod: no matches"),
    ],
)
def test_what_makes_no_pod_is_said(host: SimulatedHost, words: list[str], error: str) -> None:
    done = host(*words)
    assert done.status >= 1
    assert done.errors.startswith(error)
    assert host.pods() == {}


def test_images_are_not_collected_while_a_pod_is_prepared_of_them(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def note_if_refused(kind: int, who: str) -> None:
        with host.data.prepare_lock.open() as lock:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(who)

    def filled(*words: Any) -> None:
        note_if_refused(fcntl.LOCK_EX, "a collector")
        note_if_refused(fcntl.LOCK_SH, "nobody")
        fill(*words)

    def collected(*_: object) -> list[tuple[str, str]]:
        note_if_refused(fcntl.LOCK_SH, "a preparer")
        return []

    monkeypatch.setattr("kvmrkt.host.fill", filled)
    monkeypatch.setattr("kvmrkt.images.gc.collect_garbage", collected)
    prepare(host, host.image())
    assert host("image", "gc").status == 0
    assert refused == ["a collector", "a preparer"]
