"""What bad input gets: one clear paragraph, a status of its own, and nothing left behind."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from real_pods import BUSYBOX, Kvmrkt

from kvmrkt.errors import EXIT_FAILURE, EXIT_IMAGE_REFUSED

pytestmark = pytest.mark.functional

MANIFEST: dict[str, Any] = {
    "acKind": "ImageManifest",
    "acVersion": "0.8.11",
    "name": "example.com/bad",
    "labels": [{"name": "os", "value": "linux"}, {"name": "arch", "value": "amd64"}],
    "app": {"exec": ["/bin/sh"], "user": "0", "group": "0"},
}


def write_aci(path: Path, manifest: bytes) -> Path:
    """An image with that manifest and an empty root."""
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("manifest")
        member.size = len(manifest)
        archive.addfile(member, io.BytesIO(manifest))
        root = tarfile.TarInfo("rootfs")
        root.type, root.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(root)
    return path


def with_changes(**changes: Any) -> bytes:
    """The good manifest with some fields changed; None takes a field out."""
    changed = {**MANIFEST, **changes}
    return json.dumps({key: value for key, value in changed.items() if value is not None}).encode()


def with_app(**changes: Any) -> bytes:
    """The good manifest with some fields of the app changed."""
    return with_changes(app={**MANIFEST["app"], **changes})


FAULTS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "JSON"),
    "another kind": (with_changes(acKind="PodManifest"), "acKind"),
    "no version": (with_changes(acVersion=None), "acVersion"),
    "a bad version": (with_changes(acVersion="new"), "acVersion"),
    "no name": (with_changes(name=None), "name"),
    "a bad name": (with_changes(name="Bad Name"), "name"),
    "a doubled label": (with_changes(labels=MANIFEST["labels"] * 2), "labels"),
    "no os": (with_changes(labels=[]), "missing os label"),
    "another architecture": (
        with_changes(labels=[MANIFEST["labels"][0], {"name": "arch", "value": "s390x"}]),
        "arch",
    ),
    "an exec that is no list": (with_app(exec="/bin/sh"), "app.exec"),
    "no user": (with_app(user=""), "app.user"),
    "a relative working directory": (with_app(workingDirectory="x"), "app.workingDirectory"),
    "a bad mount point": (
        with_app(mountPoints=[{"name": "a", "path": "x"}]), "app.mountPoints[0].path",
    ),
    "a port out of range": (
        with_app(ports=[{"name": "a", "protocol": "tcp", "port": 70000}]), "app.ports[0].port",
    ),
    "a handler of an unknown event": (
        with_app(eventHandlers=[{"name": "never", "exec": ["/x"]}]), "app.eventHandlers[0].name",
    ),
    "a bad variable": (
        with_app(environment=[{"name": "a=b", "value": ""}]), "app.environment[0].name",
    ),
}  # fmt: skip


def refused(kvmrkt: Kvmrkt, *words: str | Path, status: int = EXIT_FAILURE) -> str:
    """Run, insist on a refusal that leaves nothing, and return what was said."""
    done = kvmrkt.run(*words)
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert kvmrkt.pods() == []
    return done.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_manifest_is_refused_with_the_faulty_field(
    kvmrkt: Kvmrkt, tmp_path: Path, fault: str
) -> None:
    manifest, words = FAULTS[fault]
    image = write_aci(tmp_path / "bad.aci", manifest)
    assert words in refused(kvmrkt, image, status=EXIT_IMAGE_REFUSED)


def test_an_isolator_that_cannot_be_applied_is_refused(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    manifest = with_app(isolators=[{"name": "resource/memory", "value": {"limit": "lots"}}])
    said = refused(kvmrkt, write_aci(tmp_path / "bad.aci", manifest))
    assert "app.isolators[0].value.limit" in said


def test_a_file_that_is_no_image_is_refused(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    (tmp_path / "bad.aci").write_bytes(b"hello\n" * 1000)
    assert "bad.aci" in refused(kvmrkt, tmp_path / "bad.aci", status=EXIT_IMAGE_REFUSED)


def test_a_truncated_image_is_refused(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    whole = BUSYBOX.read_bytes()
    (tmp_path / "bad.aci").write_bytes(whole[: len(whole) // 2])
    assert "bad.aci" in refused(kvmrkt, tmp_path / "bad.aci", status=EXIT_IMAGE_REFUSED)


def test_a_missing_file_is_named(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    assert "none.aci" in refused(kvmrkt, tmp_path / "none.aci")


REFUSALS: dict[str, tuple[tuple[str, ...], str]] = {
    "a missing executable": (("--exec=/bin/none",), "/bin/none"),
    "a name that PATH does not have": (("--exec=none",), "none"),
    "a file that is no program": (("--exec=/etc/passwd",), "/etc/passwd"),
    "a missing user": (("--user=nobody-here",), "nobody-here"),
    "a missing group": (("--group=nobody-here",), "nobody-here"),
    "a missing working directory": (("--working-dir=/none",), "/none"),
    "a limit of nearly nothing": (("--memory=16m",), "memory limit of 1 bytes too low"),
    "a bad quantity": (("--cpu=many",), "many"),
    "a dangling mount": (("--mount=volume=zz,target=/x",), 'volume "zz" not found'),
    "a bad app name": (("--name=Bad_Name",), "Bad_Name"),
    "an unknown flag": (("--no-such-flag",), "--no-such-flag"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_request_that_cannot_be_met_is_refused(kvmrkt: Kvmrkt, case: str) -> None:
    flags, words = REFUSALS[case]
    assert words in refused(kvmrkt, BUSYBOX, *flags)


def test_a_network_there_is_not_is_refused(kvmrkt: Kvmrkt) -> None:
    done = kvmrkt("run", "--net=nosuch", BUSYBOX, "--exec=/bin/true")
    assert done.returncode == EXIT_FAILURE
    assert "networks not found: nosuch" in done.stderr
    assert kvmrkt.pods() == []


def test_a_volume_without_its_source_is_refused(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    volume = f"--volume=data,kind=host,source={tmp_path}/none"
    said = refused(kvmrkt, volume, "--mount=volume=data,target=/data", BUSYBOX)
    assert f'cannot use the volume "data": its source {tmp_path}/none' in said


def test_an_unsigned_image_is_refused_before_it_is_read(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    (tmp_path / "bad.aci").write_bytes(b"never parsed")
    done = kvmrkt("--insecure-options=none", "run", "--net=none", tmp_path / "bad.aci")
    assert done.returncode == EXIT_IMAGE_REFUSED
    assert "--insecure-options=image" in done.stderr
