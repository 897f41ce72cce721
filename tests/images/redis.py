"""redis.aci: a small Debian root filesystem with redis-server and redis-cli."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import aci

NAME = "redis"
SUITE = "bookworm"
_INCLUDE = "redis-server,redis-tools"
_NEWEST_FILE = "1750000000"
"""Files that the installation makes get this time: with the same packages the same image."""

_LEAVE_OUT = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/var/cache/", "/dev/")
_APP = {
    "exec": [
        "/usr/bin/redis-server",
        "--bind", "127.0.0.1",
        "--port", "6379",
        "--dir", "/var/lib/redis",
        "--appendonly", "yes",
        "--daemonize", "no",
    ],
    "user": "redis",
    "group": "redis",
    "workingDirectory": "/var/lib/redis",
    "ports": [
        {"name": "redis", "protocol": "tcp", "port": 6379, "count": 1, "socketActivated": False}
    ],
    "mountPoints": [{"name": "data", "path": "/var/lib/redis", "readOnly": False}],
}  # fmt: skip


def inputs() -> list[str]:
    """What the image depends on beside this code; packages as of the day it is first built."""
    return [SUITE, _INCLUDE]


def build(output: Path) -> None:
    """Write the image; needs root, mmdebstrap and the package registry. Takes half a minute."""
    root = output.with_name(".redis-root.tar")
    make = ["mmdebstrap", "--quiet", "--variant=essential", f"--include={_INCLUDE}", SUITE]
    try:
        subprocess.run(
            [*make, str(root)],
            check=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "SOURCE_DATE_EPOCH": _NEWEST_FILE},
        )
        with tarfile.open(root) as archive:
            manifest = aci.manifest("kvmrkt.io/redis", _redis_version(archive), _APP)
        with (
            tarfile.open(root) as archive,
            aci.AciWriter(output, manifest, compress=True) as image,
        ):
            image.tree(archive, without=_LEAVE_OUT)
    finally:
        root.unlink(missing_ok=True)


def _redis_version(archive: tarfile.TarFile) -> str:
    status = archive.extractfile("./var/lib/dpkg/status")
    assert status is not None
    paragraph = status.read().decode().partition("Package: redis-server\n")[2]
    version = paragraph.partition("\nVersion: ")[2].partition("\n")[0]
    return version.rpartition(":")[2].partition("-")[0]
