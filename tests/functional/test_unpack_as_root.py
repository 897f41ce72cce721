"""What only root can unpack: owners, device nodes, set-ID bits, capabilities."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from raw_tar import folder, image, link, pax, raw

from kvmrkt.images.unpacking.unpack import unpack

pytestmark = pytest.mark.functional


def test_root_keeps_owners_devices_set_id_bits_and_all_attributes(tmp_path: Path) -> None:
    capability = b"\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    content = image(
        raw(b"rootfs/null", kind=b"3", major=b"1", minor=b"3", mode=b"0000666"),
        raw(b"rootfs/disk", kind=b"4", major=b"10", minor=b"1"),
        pax((b"SCHILY.xattr.security.capability", capability)),
        raw(b"rootfs/ping", b"x", mode=b"0006755", uid=b"0000007", gid=b"0000011"),
        pax((b"uid", b"3000000")),
        link(b"rootfs/l", b"x"),
        pax((b"LIBARCHIVE.xattr.user.a%20b", b"AP8")),
        folder(b"rootfs/d"),
    )
    unpack(io.BytesIO(content), tmp_path)
    rootfs = tmp_path / "rootfs"
    assert stat.S_ISCHR((rootfs / "null").lstat().st_mode)
    assert stat.filemode((rootfs / "null").lstat().st_mode) == "crw-rw-rw-"
    assert (rootfs / "disk").lstat().st_rdev == os.makedev(8, 1)
    state = (rootfs / "ping").stat()
    assert (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (7, 9, 0o6755)
    assert os.getxattr(rootfs / "ping", "security.capability") == capability
    assert (rootfs / "l").lstat().st_uid == 3_000_000
    assert os.getxattr(rootfs / "d", "user.a b") == b"\0\xff"
