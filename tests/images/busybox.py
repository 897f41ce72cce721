"""busybox.aci: Debian's static busybox with a link for every applet."""

from __future__ import annotations

import subprocess
from pathlib import Path

import aci

NAME = "busybox"
BUSYBOX = Path("/bin/busybox")
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_GROUP = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"


def inputs() -> list[str]:
    """What the image depends on beside this code."""
    return [_package_version()]


def build(output: Path) -> None:
    """Write the image; needs the package busybox-static."""
    app = {"exec": ["/bin/sh"], "user": "0", "group": "0", "workingDirectory": "/"}
    manifest = aci.manifest("kvmrkt.io/busybox", _upstream(_package_version()), app)
    listed = subprocess.run([BUSYBOX, "--list-full"], capture_output=True, text=True, check=True)
    applets = sorted(f"/{path}" for path in listed.stdout.split())
    with aci.AciWriter(output, manifest, compress=False) as image:
        image.folder("/")
        folders = {str(Path(path).parent) for path in applets} | {"/bin", "/usr"}
        for folder in sorted(folders - {"/"} | {"/etc", "/proc", "/sys", "/dev"}):
            image.folder(folder)
        image.folder("/root", 0o700)
        image.folder("/tmp", 0o1777)
        image.file("/etc/passwd", _PASSWD.encode())
        image.file("/etc/group", _GROUP.encode())
        image.file("/bin/busybox", BUSYBOX.read_bytes(), 0o755)
        for path in applets:
            if path != "/bin/busybox":
                image.link(path, "/bin/busybox")


def _package_version() -> str:
    query = ["dpkg-query", "--show", "--showformat=${Version}", "busybox-static"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout


def _upstream(version: str) -> str:
    return version.partition(":")[2].partition("-")[0] or version
