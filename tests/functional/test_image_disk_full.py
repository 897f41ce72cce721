"""A full disk: a clear error, and the store as it was before."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_pods import ROOT

sys.path.insert(0, str(ROOT / "tests" / "unit"))

from aci_files import entry, manifest, write_aci
from web_server import Answer, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.functional

CHANCE = random.Random(1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A data directory on a file system of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", folder], check=True)
    yield folder / "data"
    subprocess.run(["umount", folder], check=True)


def fetch(data: Path, reference: object) -> subprocess.CompletedProcess[str]:
    argv = [
        str(ROOT / ".venv" / "bin" / "kvmrkt"), f"--dir={data}", "--insecure-options=image,http",
        "fetch", str(reference),
    ]  # fmt: skip
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def files(data: Path) -> dict[Path, int]:
    """Every file of the store but its locks, with its size."""
    return {
        path: path.stat().st_size
        for path in data.rglob("*")
        if path.is_file() and not path.parent.name.endswith("locks")
    }


@pytest.mark.parametrize("mebibytes", [4, 12], ids=["no room for the tree", "not for the archive"])
@pytest.mark.parametrize("way", ["file", "web"])
def test_a_full_disk_leaves_the_store_as_it_was(
    small_disk: Path, tmp_path: Path, mebibytes: int, way: str
) -> None:
    little = write_aci(tmp_path / "little.aci", entry("rootfs/a", b"x"))
    content = CHANCE.randbytes(mebibytes << 20)
    document = manifest(name="example.com/large")
    large = write_aci(tmp_path / "large.aci", entry("rootfs/a", content), document=document)
    assert fetch(small_disk, little).returncode == 0
    before = files(small_disk)
    with serving(tls=False) as server:
        server.answers["/large.aci"] = Answer(large.read_bytes())
        done = fetch(small_disk, large if way == "file" else server.url("/large.aci"))
    assert done.returncode == 254
    assert "No space left on device" in done.stderr
    assert "hint: free some space, or use another --dir" in done.stderr
    assert files(small_disk) == before
    assert fetch(small_disk, little).returncode == 0
