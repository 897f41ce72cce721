"""An app's file system after its run, read inside a machine and run again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from real_pods import BUSYBOX, DEADLINE_SECONDS, ROOT, Kvmrkt, lines, processes_naming

sys.path.insert(0, str(ROOT / "tests" / "unit"))
from aci_files import entry, link, manifest, write_aci
from fault_points import OF_AN_EXPORT, wait_until_stopped

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.functional

LONG = "long-" + "n" * 150
SCRIPT = f"""
set -e
cd /
echo new > made; chown 1000:7 made; chmod 4750 made
mkdir -p data/sub; ln made data/again
ln -s /nowhere/at/all dangling
mkfifo pipe; mknod node c 1 3
echo long > {LONG}
truncate -s 3M sparse; echo end >> sparse
rm image/deleted
rm -r image/folder; mkdir image/folder; echo mine > image/folder/own
mv image/moved image/elsewhere
echo more >> image/changed
echo in volume > /volume/file
ln -s /socket /dev/log
syslogd -n -O /dev/null &
while [ ! -S /socket ]; do kill -0 $!; sleep 0.1; done
kill $!
"""


class Exported(NamedTuple):
    """A pod's run, exported."""

    kvmrkt: Kvmrkt
    uuid: str
    scratch: Path
    before: str
    output: Path
    members: dict[str, tarfile.TarInfo]
    contents: dict[str, bytes]


@pytest.fixture(scope="module")
def exported(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """One run that does a bit of everything, and its export."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "data").mkdir()
    (folder / "data" / "cas").symlink_to(store)
    kvmrkt = Kvmrkt(folder / "data")
    image = write_aci(folder / "image.aci", *_image(), document=_document())
    uuid_file = folder / "uuid"
    done = kvmrkt.run(
        f"--uuid-file-save={uuid_file}", "--volume=volume,kind=empty",
        image, "--mount=volume=volume,target=/volume", "--exec=/bin/sh", "--", "-c", SCRIPT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    uuid = uuid_file.read_text()
    (scratch,) = (folder / "data" / "pods").glob(f"*/{uuid}/scratch.img")
    before = digest(scratch)
    output = folder / "out.aci"
    written = kvmrkt("export", uuid, output)
    assert written.returncode == 0, written.stderr
    members, contents = {}, {}
    with tarfile.open(output) as archive:
        for member in archive:
            members[member.name] = member
            if member.isreg() and (file := archive.extractfile(member)):
                contents[member.name] = file.read()
    yield Exported(kvmrkt, uuid, scratch, before, output, members, contents)
    assert processes_naming(str(folder)) == []


def _document() -> dict[str, object]:
    return manifest(
        name="example.com/exported", app={"exec": ["/bin/sh"], "user": "0", "group": "0"}
    )


def _image() -> list[tuple[tarfile.TarInfo, bytes]]:
    busybox = Path("/bin/busybox").read_bytes()
    applets = "sh mkdir ln mkfifo mknod truncate rm mv syslogd sleep cat chown chmod ls stat"
    attributes = {"SCHILY.xattr.user.note": "kept", "SCHILY.xattr.user.other": "a\nb"}
    capability = bytes.fromhex("0100000200040000000000000000000000000000").decode("latin-1")
    return [
        entry("rootfs/bin"),
        entry("rootfs/bin/busybox", busybox),
        *(link(f"rootfs/bin/{name}", "/bin/busybox") for name in applets.split()),
        entry("rootfs/image", uid=12, gid=34, mode=0o1775),
        entry("rootfs/image/deleted", b"gone"),
        entry("rootfs/image/folder"),
        entry("rootfs/image/folder/below", b"hidden"),
        entry("rootfs/image/moved", b"moved"),
        entry("rootfs/image/changed", b"first\n", pax_headers=attributes),
        entry(
            "rootfs/image/capable",
            b"x",
            pax_headers={"SCHILY.xattr.security.capability": capability},
        ),
        entry("rootfs/image/one", b"linked"),
        link("rootfs/image/two", "rootfs/image/one", tarfile.LNKTYPE),
    ]


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_what_the_app_made_is_there_as_it_was(exported: Exported) -> None:
    members, contents = exported.members, exported.contents
    first, second = members["rootfs/data/again"], members["rootfs/made"]
    assert (first.uid, first.gid, first.mode) == (1000, 7, 0o4750)
    assert (second.type, second.linkname) == (tarfile.LNKTYPE, "rootfs/data/again")
    assert contents["rootfs/data/again"] == b"new\n"
    assert members["rootfs/dangling"].linkname == "/nowhere/at/all"
    assert members["rootfs/pipe"].isfifo()
    node = members["rootfs/node"]
    assert (node.ischr(), node.devmajor, node.devminor) == (True, 1, 3)
    assert contents[f"rootfs/{LONG}"] == b"long\n"
    assert contents["rootfs/sparse"] == bytes(3 << 20) + b"end\n"


def test_what_the_app_deleted_is_gone(exported: Exported) -> None:
    below = {name for name in exported.members if name.startswith("rootfs/image/")}
    assert below == {
        f"rootfs/image/{name}"
        for name in ("folder", "folder/own", "elsewhere", "changed", "capable", "one", "two")
    }
    assert exported.contents["rootfs/image/elsewhere"] == b"moved"


def test_what_the_image_had_keeps_its_owner_attributes_and_links(exported: Exported) -> None:
    members = exported.members
    folder = members["rootfs/image"]
    assert (folder.uid, folder.gid, folder.mode) == (12, 34, 0o1775)
    changed = members["rootfs/image/changed"].pax_headers
    assert changed["SCHILY.xattr.user.note"] == "kept"
    assert changed["SCHILY.xattr.user.other"] == "a\nb"
    assert exported.contents["rootfs/image/changed"] == b"first\nmore\n"
    assert "SCHILY.xattr.security.capability" in members["rootfs/image/capable"].pax_headers
    assert members["rootfs/image/two"].linkname == "rootfs/image/one"


def test_volumes_and_sockets_are_not_part_of_it(exported: Exported) -> None:
    assert exported.members["rootfs/volume"].isdir()
    names = set(exported.members)
    assert not {name for name in names if name.startswith(("rootfs/volume/", "rootfs/proc/"))}
    assert "rootfs/socket" not in names


def test_the_pods_disk_is_not_touched(exported: Exported) -> None:
    assert digest(exported.scratch) == exported.before


def test_a_second_export_is_the_same_to_the_byte(exported: Exported) -> None:
    first = digest(exported.output)
    done = exported.kvmrkt("export", "--overwrite", exported.uuid, exported.output)
    assert done.returncode == 0, done.stderr
    assert digest(exported.output) == first


def test_the_image_runs_again(exported: Exported) -> None:
    done = exported.kvmrkt.run(
        exported.output, "--exec=/bin/sh", "--", "-c",
        "cat /made /image/folder/own; stat -c '%u %g %a %h' /made; ls /image",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert lines(done)[:3] == ["new", "mine", "1000 7 4750 2"]
    assert lines(done)[3:] == ["capable", "changed", "elsewhere", "folder", "one", "two"]


def test_an_export_that_is_killed_leaves_neither_file_nor_machine(exported: Exported) -> None:
    (point,) = OF_AN_EXPORT
    folder = exported.kvmrkt.dir.parent / "killed"
    folder.mkdir()
    process = subprocess.Popen(
        exported.kvmrkt.argv("export", exported.uuid, folder / "out.aci"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "KVMRKT_FAULT": f"{point}:stop"},
    )  # fmt: skip
    wait_until_stopped(process, point)
    assert len(processes_naming(f"kvmrkt-export-{exported.uuid}")) == 1
    process.kill()
    process.communicate()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while processes_naming(f"kvmrkt-export-{exported.uuid}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert list(folder.iterdir()) == []
    assert "state=exited" in exported.kvmrkt("status", exported.uuid).stdout


def test_an_app_that_was_never_started_is_refused(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    uuid_file = tmp_path / "uuid"
    kvmrkt.run(f"--uuid-file-save={uuid_file}", BUSYBOX, "--name=first", "--exec=/bin/false")
    (pod,) = kvmrkt.pods()
    os.truncate(pod / "scratch.img", 0)
    done = kvmrkt("export", uuid_file.read_text(), tmp_path / "out.aci")
    assert done.returncode == 254
    assert 'cannot read the file system of app "first"' in done.stderr
    assert "cannot mount disk scratch" in done.stderr
    assert sorted(path.name for path in tmp_path.glob("*out*")) == []
