"""The scratch disk: formatted once, copied sparsely."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from kvmrkt.errors import StoreError
from kvmrkt.stage1.kvm.scratch import make_scratch

if TYPE_CHECKING:
    from pathlib import Path

SIZE_BYTES = 1 << 30


def test_a_scratch_disk_is_as_large_as_asked_for_and_takes_next_to_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    make_scratch(tmp_path / "cas", disk, SIZE_BYTES)
    assert disk.stat().st_size == SIZE_BYTES
    assert disk.stat().st_blocks * 512 < 1 << 20
    assert disk.stat().st_mode & 0o077 == 0


def test_a_copy_is_its_template_to_the_last_byte(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    make_scratch(tmp_path / "cas", disk, SIZE_BYTES)
    (template,) = (tmp_path / "cas" / "scratch").iterdir()
    subprocess.run(["cmp", template, disk], check=True)


def test_the_guest_finds_no_inode_table_to_write_zeros_to(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    make_scratch(tmp_path / "cas", disk, SIZE_BYTES)
    said = subprocess.run(
        ["/sbin/dumpe2fs", disk], capture_output=True, text=True, check=True
    ).stdout
    groups = [line for line in said.splitlines() if ": (Blocks " in line]
    assert groups
    assert all("ITABLE_ZEROED" in line for line in groups)


def test_a_disk_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "missing" / "disk"
    with pytest.raises(StoreError, match="cannot make the scratch disk"):
        make_scratch(tmp_path / "cas", target, SIZE_BYTES)
    assert not target.exists()
