"""The assembly of stage1-kvm.aci: its manifest, its parts, and that it can be made again."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _assemble(folder: Path, output: Path) -> subprocess.CompletedProcess[str]:
    program = ROOT / "stage1-kvm" / "build.py"
    argv = [sys.executable, program, folder, folder / "initrd", folder / "ssh", output]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder with stand-ins for kernels, initrd and SSH server."""
    for variant in ("kvm", "tcg"):
        (tmp_path / variant).mkdir()
        (tmp_path / variant / "vmlinux").write_bytes(f"kernel {variant}".encode())
    (tmp_path / "initrd").write_bytes(b"initrd")
    (tmp_path / "ssh").write_bytes(b"ssh")
    return tmp_path


@pytest.fixture
def image(parts: Path) -> Path:
    """An image assembled from the stand-ins."""
    output = parts / "stage1.aci"
    assert _assemble(parts, output).returncode == 0
    return output


def test_every_path_the_manifest_names_is_in_the_image(image: Path) -> None:
    with tarfile.open(image) as archive:
        assert archive.getnames()[0] == "manifest"
        content = archive.extractfile("manifest")
        assert content is not None
        manifest = json.load(content)
        annotations = {a["name"]: a["value"] for a in manifest["annotations"]}
        paths = [value for value in annotations.values() if value.startswith("/")]
        assert len(paths) == 8
        for path in paths:
            assert archive.getmember(f"rootfs{path}").isreg()
    assert annotations["coreos.com/rkt/stage1/interface-version"] == "6"
    assert annotations["kvmrkt.io/stage1/engine"] == "kvm"


def test_boot_parameters_carry_no_reasons(image: Path) -> None:
    with tarfile.open(image) as archive:
        content = archive.extractfile("manifest")
        assert content is not None
        annotations = {a["name"]: a["value"] for a in json.load(content)["annotations"]}
    words = annotations["kvmrkt.io/stage1/kvm/kernel-parameters"].split()
    assert "panic=-1" in words
    assert not [word for word in words if word.startswith("#") or "ms" in word]


def test_the_same_input_gives_the_same_bytes(parts: Path, image: Path) -> None:
    again = parts / "again.aci"
    (parts / "initrd").touch()
    assert _assemble(parts, again).returncode == 0
    first, second = (hashlib.sha512(p.read_bytes()).hexdigest() for p in (image, again))
    assert first == second


def test_a_missing_part_is_named_and_nothing_is_written(parts: Path) -> None:
    (parts / "tcg" / "vmlinux").unlink()
    done = _assemble(parts, parts / "none.aci")
    assert done.returncode == 1
    assert "tcg/vmlinux" in done.stderr
    assert not (parts / "none.aci").exists()


@pytest.mark.parametrize("entrypoint", ["init", "enter", "gc", "stop"])
def test_entrypoints_say_who_runs_the_pod(entrypoint: str) -> None:
    path = ROOT / "stage1-kvm" / "entrypoints" / entrypoint
    done = subprocess.run([path], capture_output=True, text=True, check=False)
    assert done.returncode == 254
    assert "driven by kvmrkt" in done.stderr
