"""Choosing a stage1 image, and taking its boot files out."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from aci_files import entry, link, manifest, write_aci
from web_server import Answer, serving, trust

from kvmrkt.config import InsecureOptions
from kvmrkt.errors import ArchiveError, ImageNotFoundError, ManifestError, SignatureError
from kvmrkt.images.policy import FetchPolicy
from kvmrkt.images.store import Store
from kvmrkt.paths import DataDir
from kvmrkt.stage1 import image as stage1
from kvmrkt.stage1.image import Stage1Choice, Stage1Image, Stage1Sources, find_stage1, stage1_of_pod
from kvmrkt.stage1.kvm.boot import boot_of

ANNOTATIONS = {
    "coreos.com/rkt/stage1/run": "/init",
    "coreos.com/rkt/stage1/enter": "/enter",
    "coreos.com/rkt/stage1/gc": "/gc",
    "coreos.com/rkt/stage1/interface-version": "6",
    "kvmrkt.io/stage1/engine": "kvm",
    "kvmrkt.io/stage1/kvm/kernel": "/kernel/kvm",
    "kvmrkt.io/stage1/kvm/kernel-tcg": "/kernel/tcg",
    "kvmrkt.io/stage1/kvm/initrd": "/initrd",
    "kvmrkt.io/stage1/kvm/kernel-parameters": "panic=-1  quiet",
}
FILES = (
    entry("rootfs/kernel"),
    entry("rootfs/kernel/kvm", b"kvm kernel"),
    entry("rootfs/kernel/tcg", b"tcg kernel"),
    entry("rootfs/initrd", b"initrd" * 1000),
)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(DataDir(tmp_path / "data")) as opened:
        yield opened


def document(**changes: str | None) -> dict[str, Any]:
    chosen = ANNOTATIONS | {f"kvmrkt.io/stage1/{key}": value for key, value in changes.items()}
    return manifest(
        name="example.com/stage1",
        app=None,
        annotations=[
            {"name": key, "value": text} for key, text in chosen.items() if text is not None
        ],
    )


def find(store: Store, kind: Any, value: str, *, secure: bool = False) -> Stage1Image:
    policy = FetchPolicy(insecure=InsecureOptions(image=not secure))
    return find_stage1(
        store,
        Stage1Choice(kind, value),
        policy,
        Stage1Sources(store.data.root.parent / "config" / "stage1-images"),
    )


def test_boot_files(store: Store, tmp_path: Path) -> None:
    path = write_aci(tmp_path / "s.aci", *FILES, document=document())
    found = find(store, "path", str(path))
    boot = boot_of(found)
    assert boot.kernel_for("kvm").read_bytes() == b"kvm kernel"
    assert boot.kernel_for("tcg").read_bytes() == b"tcg kernel"
    assert boot.initrd.read_bytes() == b"initrd" * 1000
    assert boot.kernel_parameters == ("panic=-1", "quiet")
    assert find(store, "hash", found.id[:20], secure=True).folder == found.folder
    assert find(store, "name", "example.com/stage1:1.0", secure=True).id == found.id


def test_it_may_come_from_a_url(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_aci(tmp_path / "s.aci", *FILES, document=document())
    trust(monkeypatch, tmp_path)
    with serving() as server:
        server.answers["/s.aci"] = Answer(path.read_bytes())
        found = find(store, "url", server.url("/s.aci"))
        assert find(store, "url", server.url("/s.aci")).id == found.id
        assert len(server.asked) == 1


def test_one_kernel_serves_both(store: Store, tmp_path: Path) -> None:
    text = document(**{"kvm/kernel-tcg": None})
    found = find(store, "path", str(write_aci(tmp_path / "s.aci", *FILES, document=text)))
    assert boot_of(found).kernel_for("tcg").read_bytes() == b"kvm kernel"


def test_the_default_needs_no_signature(store: Store, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "config" / "stage1-images"
    folder.mkdir(parents=True)
    write_aci(folder / "stage1-kvm.aci", *FILES, document=document())
    image = find(store, "default", "", secure=True)
    assert find(store, "from-dir", "stage1-kvm.aci", secure=True).id == image.id
    assert find(store, "path", str(folder / "stage1-kvm.aci"), secure=True).id == image.id
    other = write_aci(tmp_path / "other.aci", *FILES, document=document())
    with pytest.raises(SignatureError):
        find(store, "path", str(other), secure=True)


def test_no_default(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr(stage1, "default_paths", lambda _: (Path("/nowhere/a"), Path("/nowhere/b")))
    with pytest.raises(ImageNotFoundError, match="neither /nowhere/a nor /nowhere/b exists"):
        find(store, "default", "")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"engine": None}, "lacks the annotation kvmrkt.io/stage1/engine"),
        ({"kvm/kernel": None}, "lacks the annotation kvmrkt.io/stage1/kvm/kernel"),
        ({"kvm/initrd": None}, "lacks the annotation kvmrkt.io/stage1/kvm/initrd"),
        ({"engine": "xen"}, 'unknown engine "xen"'),
        ({"kvm/initrd": "initrd"}, "no absolute path"),
        ({"kvm/initrd": "/../initrd"}, "no absolute path"),
    ],
)
def test_a_manifest_that_is_none_of_stage1(
    store: Store, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    path = write_aci(tmp_path / "s.aci", *FILES, document=document(**changes))
    with pytest.raises(ManifestError, match=text):
        find(store, "path", str(path))


@pytest.mark.parametrize("version", ["7", "six", ""])
def test_the_interface_version(store: Store, tmp_path: Path, version: str) -> None:
    text = document()
    for item in text["annotations"]:
        if item["name"].endswith("interface-version"):
            item["value"] = version
    path = write_aci(tmp_path / "s.aci", *FILES, document=text)
    if version:
        with pytest.raises(ManifestError, match="interface version"):
            find(store, "path", str(path))
    else:
        assert boot_of(
            find(store, "path", str(path))
        ).initrd.exists()  # absent means 1, as with rkt


@pytest.mark.parametrize(
    ("initrd", "text"),
    [
        ((), "lacks the files /initrd"),
        ((link("rootfs/initrd", "/etc/passwd"),), "not a regular file"),
        ((link("rootfs/initrd", "rootfs/kernel/kvm", tarfile.LNKTYPE),), "not a regular file"),
        ((entry("rootfs/initrd"),), "not a regular file"),
    ],
)
def test_boot_files_that_are_not_there(
    store: Store, tmp_path: Path, initrd: Any, text: str
) -> None:
    path = write_aci(tmp_path / "s.aci", *FILES[:3], *initrd, document=document())
    with pytest.raises(ArchiveError, match=text):
        find(store, "path", str(path))
    assert list((store.data.cas / "stage1").iterdir()) == []


def test_a_prepared_pods_stage1_outlives_its_image(store: Store, tmp_path: Path) -> None:
    found = find(store, "path", str(write_aci(tmp_path / "s.aci", *FILES, document=document())))
    kept = store.get(found.id).manifest_bytes()
    store.remove(found.id)
    assert boot_of(stage1_of_pod(store, found.id, kept)).initrd.exists()
    shutil.rmtree(found.folder)
    with pytest.raises(ImageNotFoundError):
        stage1_of_pod(store, found.id, kept)


def test_a_prepared_pods_stage1_is_extracted_again_if_need_be(store: Store, tmp_path: Path) -> None:
    found = find(store, "path", str(write_aci(tmp_path / "s.aci", *FILES, document=document())))
    shutil.rmtree(found.folder)
    kept = store.get(found.id).manifest_bytes()
    assert boot_of(stage1_of_pod(store, found.id, kept)).initrd.exists()
