from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from pods_on_disk import IMAGE_ID, fabricate, manifest

from kvmrkt.errors import ManifestError, PodError, PodNotFoundError
from kvmrkt.paths import DataDir
from kvmrkt.pods import status
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.records import AppRecord
from kvmrkt.pods.states import Section
from kvmrkt.pods.status import NetInfo, read_line, read_pod

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path)


def as_json(pod: PodDirectory) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(msgspec.json.encode(read_pod(pod).status))
    return document


def test_the_least_that_can_be_said(data: DataDir) -> None:
    pod = fabricate(data, Section.PREPARE)
    assert as_json(pod) == {"name": pod.uuid, "state": "aborted prepare"}


def test_a_running_pod(data: DataDir) -> None:
    pod = PodDirectory.create(data)
    pod.write_pod_manifest(
        manifest(
            "db",
            "web",
            volumes=[{"name": "data", "kind": "host", "source": "/srv/data", "readOnly": True}],
            userLabels={"tier": "x"},
        ).replace(
            b'"name": "web",',
            b'"name": "web", "mounts": [{"volume": "data", "path": "/data"}],'
            b'"app": {"exec": ["/x"], "user": "0", "group": "0", "userLabels": {"a": "b"}},',
        )
    )
    pod.to_prepare()
    pod.to_run()
    pod.write_pid(4711)
    pod.write_net_info(b'[{"netName":"default","ip":"172.16.28.2","ifName":"eth0","new":1}]')
    pod.write_app_record("db", AppRecord(started_ns=5_000_000_000))
    try:
        document = as_json(pod)
    finally:
        pod.unlock()
    created = (pod.path / "pod-created").stat().st_mtime_ns
    assert document == {
        "name": pod.uuid,
        "state": "running",
        "networks": [{"netName": "default", "ip": "172.16.28.2", "ifName": "eth0"}],
        "app_names": ["db", "web"],
        "apps": [
            {
                "name": "db",
                "state": "running",
                "created_at": created,
                "started_at": 5_000_000_000,
                "image_id": IMAGE_ID,
            },
            {
                "name": "web",
                "state": "created",
                "created_at": created,
                "image_id": IMAGE_ID,
                "mounts": [
                    {
                        "name": "data",
                        "container_path": "/data",
                        "host_path": "/srv/data",
                        "read_only": True,
                    }
                ],
                "user_labels": {"a": "b"},
            },
        ],
        "created_at": created // 1_000_000_000,
        "started_at": (pod.path / "pid").stat().st_mtime_ns // 1_000_000_000,
        "pid": 4711,
        "user_labels": {"tier": "x"},
    }


def test_an_exited_pod(data: DataDir) -> None:
    pod = fabricate(data, Section.RUN)
    pod.write_pod_manifest(manifest("a", "b", "c"))
    pod.write_pid(4711)
    pod.write_app_record("a", AppRecord(code=0, started_ns=1, finished_ns=2))
    pod.write_app_record("b", AppRecord(code=137, started_ns=1, finished_ns=2))
    document = as_json(pod)
    assert document["state"] == "exited"
    assert "pid" not in document
    assert [app["state"] for app in document["apps"]] == ["exited"] * 3
    assert [app.get("exit_code") for app in document["apps"]] == [0, 137, None]
    assert document["apps"][1]["finished_at"] == 2


@pytest.mark.parametrize(
    ("section", "state"),
    [(Section.PREPARE, "unknown"), (Section.PREPARED, "created"), (Section.GARBAGE, "unknown")],
)
def test_apps_that_never_ran(data: DataDir, section: Section, state: str) -> None:
    pod = fabricate(data, section)
    pod.write_pod_manifest(manifest("a"))
    assert as_json(pod)["apps"][0]["state"] == state


def test_an_app_that_ended_in_a_pod_that_runs(data: DataDir) -> None:
    pod = fabricate(data, Section.RUN)
    pod.write_pod_manifest(manifest("a"))
    pod.write_app_record("a", AppRecord(code=3, started_ns=1, finished_ns=2))
    assert pod.lock()
    assert as_json(pod)["apps"][0]["state"] == "exited"
    pod.unlock()


def test_the_image_name_has_the_version(data: DataDir) -> None:
    pod = fabricate(data, Section.RUN)
    pod.write_pod_manifest(manifest("a"))
    assert [str(app.image) for app in read_line(pod).apps] == ["example.com/a:v1"]


def test_networks_in_the_table() -> None:
    assert str(NetInfo("default", ip="172.16.28.2")) == "default:ip4=172.16.28.2"
    assert str(NetInfo("v6", ip="fd00::2")) == "v6:ip6=fd00::2"


def test_damaged_files_are_named(data: DataDir) -> None:
    pod = fabricate(data, Section.RUN)
    pod.write_net_info(b"[{}]")
    with pytest.raises(PodError, match="cannot read the networks of pod"):
        read_pod(pod)
    pod.write_pod_manifest(b"{")
    with pytest.raises(ManifestError):
        read_pod(pod)


def test_a_pod_that_moves_while_it_is_read(data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = fabricate(data, Section.RUN)
    pod.write_pod_manifest(manifest("a"))
    read_at = status.read_at

    def move_first(folder: int, name: str) -> bytes | None:
        PodDirectory(data, Section.RUN, pod.uuid).move_if_there(Section.EXITED_GARBAGE)
        return read_at(folder, name)

    monkeypatch.setattr(status, "read_at", move_first)
    document = as_json(pod)
    assert document["state"] == "exited garbage"
    assert document["app_names"] == ["a"]


def test_a_pod_that_is_deleted_while_it_is_read(data: DataDir) -> None:
    pod = fabricate(data, Section.RUN)
    pod.path.rmdir()
    with pytest.raises(PodNotFoundError):
        read_pod(pod)
