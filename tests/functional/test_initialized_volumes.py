"""The volumes of docker images begin with what the image has at their paths."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_pods import ROOT, Kvmrkt, lines

sys.path.insert(0, str(ROOT / "tests" / "unit"))
from aci_files import entry, link, manifest, write_aci

if TYPE_CHECKING:
    from subprocess import CompletedProcess

pytestmark = pytest.mark.functional

APPLETS = ("sh", "cat", "stat", "ls", "readlink", "touch", "rm", "grep", "cut")
POINTS = {
    "data": "/data",
    "linked": "/link/inner",
    "missing": "/no/such",
    "kernel": "/proc/sys",
}


def an_image(folder: Path, *, from_docker: bool = True) -> Path:
    """An image with content at its mount points."""
    app = {
        "exec": ["/bin/sh"], "user": "0", "group": "0",
        "mountPoints": [{"name": name, "path": path} for name, path in POINTS.items()],
    }  # fmt: skip
    annotations = [{"name": "appc.io/docker/repository", "value": "library/some"}]
    document = manifest(app=app, annotations=annotations if from_docker else [])
    members = [
        entry("rootfs/bin"),
        entry("rootfs/bin/busybox", Path("/bin/busybox").read_bytes()),
        *(link(f"rootfs/bin/{name}", "/bin/busybox") for name in APPLETS),
        entry("rootfs/data", uid=70, gid=71, mode=0o1770),
        entry("rootfs/data/file", b"from the image\n", uid=5, gid=6, mode=0o4711),
        link("rootfs/data/same", "rootfs/data/file", tarfile.LNKTYPE),
        link("rootfs/data/out", "../../../../bin"),
        entry("rootfs/data/null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("rootfs/data/pipe", b"", type=tarfile.FIFOTYPE),
        entry("rootfs/data/deep", mode=0o700),
        entry("rootfs/data/deep/er", b"far below\n"),
        entry("rootfs/real"),
        entry("rootfs/real/inner", mode=0o711),
        entry("rootfs/real/inner/here", b"through a link\n"),
        link("rootfs/link", "/real"),
    ]
    return write_aci(folder / "image.aci", *members, document=document)


def run(kvmrkt: Kvmrkt, image: Path, script: str) -> CompletedProcess[str]:
    done = kvmrkt.run(image, "--exec=/bin/sh", "--", "-c", script)
    assert done.returncode == 0, done.stderr
    return done


def test_a_docker_volume_begins_with_the_content_of_the_image(
    kvmrkt: Kvmrkt, tmp_path: Path
) -> None:
    done = run(
        kvmrkt, an_image(tmp_path),
        """
        stat -c '%u %g %a' /data
        stat -c '%u %g %a %h %s' /data/file /data/same
        cat /data/file /data/deep/er
        readlink /data/out
        stat -c '%F %t %T' /data/null; stat -c %F /data/pipe
        stat -c '%a %Y' /data/deep /data/deep/er
        cat /real/inner/here; stat -c %a /real/inner
        stat -c '%u %a' /no/such; ls /no/such /proc/sys
        grep -c -e ' /data ' -e ' /real/inner ' -e ' /no/such ' /proc/mounts
        touch /data/new
        """,
    )  # fmt: skip
    assert lines(done) == [
        "70 71 1770",
        "5 6 4711 2 15", "5 6 4711 2 15",
        "from the image", "far below",
        "../../../../bin",
        "character special file 1 3", "fifo",
        "700 1000000", "755 1000000",
        "through a link", "711",
        "0 755", "/no/such:", "", "/proc/sys:",
        "3",
    ]  # fmt: skip
    for name in POINTS:
        assert (
            "Docker converted image, initializing implicit volume with data contained at the"
            f' mount point "{name}".'
        ) in done.stderr


def test_a_volume_of_another_image_begins_empty(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    done = run(kvmrkt, an_image(tmp_path, from_docker=False), "ls /data; stat -c '%u %a' /data")
    assert lines(done) == ["0 755"]
    assert "initializing" not in done.stderr
