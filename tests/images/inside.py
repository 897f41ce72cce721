"""inside.aci: a static program that looks at its surroundings, with busybox and faulty programs."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from pathlib import Path

import aci
import busybox

NAME = "inside"
SOURCE = Path(__file__).parent / "inside"
_FLAGS = ("-std=gnu17", "-O1", "-static", "-s", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror")
_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
reader:x:1000:1001:a reader:/home/reader:/bin/inside
nobody:x:65534:65534:nobody:/:/bin/false
"""
_GROUP = "root:x:0:\ntty:x:5:\nreaders:x:1001:\nwriters:x:1002:\nnogroup:x:65534:\n"
_AARCH64 = 183


def inputs() -> list[str]:
    """What the image depends on beside this code."""
    version = subprocess.run(
        ["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True
    )
    sources = sorted(SOURCE.iterdir())
    return [version.stdout, *busybox.inputs(), *(path.read_text() for path in sources)]


def build(output: Path) -> None:
    """Write the image; needs gcc, libc6-dev and busybox-static."""
    app = {
        "exec": ["/bin/inside", "report"],
        "user": "0",
        "group": "0",
        "workingDirectory": "/",
        "mountPoints": [{"name": "data", "path": "/data"}],
    }
    with aci.AciWriter(output, aci.manifest("kvmrkt.io/inside", "1", app), compress=False) as image:
        for folder in ("/", "/bin", "/etc", "/bad", "/bad/folder", "/home", "/data"):
            image.folder(folder)
        image.folder("/tmp", 0o1777)
        image.folder("/root", 0o700)
        image.folder("/home/reader", uid=1000, gid=1001)
        image.folder("/owned", uid=1234, gid=5678)
        image.file("/etc/passwd", _PASSWD.encode())
        image.file("/etc/group", _GROUP.encode())
        image.file("/bin/busybox", busybox.BUSYBOX.read_bytes(), 0o755)
        image.link("/bin/sh", "busybox")
        program = _program()
        image.file("/bin/inside", program, 0o755)
        image.file("/bin/inside-copy", program, 0o755)
        image.file("/bin/inside-setuid", program, 0o4755)
        image.file("/bin/inside-of-root", program, 0o700)
        _faulty(image, program)


def _faulty(image: aci.AciWriter, program: bytes) -> None:
    image.file("/bad/mode", program, 0o644)
    image.file("/bad/text", b"neither a program nor a script\n", 0o755)
    image.file("/bad/script", b"#!/no/such/interpreter -x\n", 0o755)
    image.file("/bad/processor", program[:18] + struct.pack("<H", _AARCH64) + program[20:], 0o755)
    image.file("/bad/loader", _compiled("int main(void) { return 0; }", "-O1", "-s"), 0o755)
    image.link("/bad/dangling", "/no/such/target")


def _program() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "inside"
        sources = sorted(str(path) for path in SOURCE.glob("*.c"))
        subprocess.run(["gcc", *_FLAGS, "-o", str(made), *sources], check=True)
        return made.read_bytes()


def _compiled(text: str, *flags: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "program"
        command = ["gcc", *flags, "-x", "c", "-o", str(made), "-"]
        subprocess.run(command, input=text, text=True, check=True)
        return made.read_bytes()
