"""The tree of a docker image, entry by entry, against what skopeo and umoci unpack of it."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from registry import Fetcher, run, running_registry

from aci_files import entry, link  # isort: skip
from docker_files import docker_image, write_layout  # isort: skip

pytestmark = pytest.mark.functional

LONG = "long-" + "n" * 150
DEEP = "/".join(["deep"] + ["folder-" + "d" * 60] * 6)
NOT_UTF8 = os.fsdecode(b"caf\xe9-\xff")
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
"""cap_net_raw, permitted and effective, as setcap stores it."""
DEV_LINKS = {"dev/fd", "dev/stderr", "dev/stdin", "dev/stdout"}

Member = tuple[tarfile.TarInfo, bytes]


def xattrs(**values: bytes) -> dict[str, str]:
    """PAX records of extended attributes; __ stands for a dot in a name."""
    return {
        f"SCHILY.xattr.{name.replace('__', '.')}": os.fsdecode(value)
        for name, value in values.items()
    }


def whiteout(name: str) -> Member:
    folder, slash, last = name.rpartition("/")
    return entry(f"{folder}{slash}.wh.{last}", b"", mtime=5)


def opaque(folder: str) -> Member:
    return entry(f"{folder}/.wh..wh..opq", b"", mtime=5)


def device(name: str, kind: bytes, major: int, minor: int, **more: Any) -> Member:
    return entry(name, b"", type=kind, devmajor=major, devminor=minor, **more)


def layer(*members: Member, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format, errors="surrogateescape") as target:
        for info, content in members:
            target.addfile(info, io.BytesIO(content))
    return out.getvalue()


def folders(path: str) -> list[Member]:
    parts = path.split("/")
    return [entry("/".join(parts[: count + 1])) for count in range(len(parts))]


BASE = layer(
    entry("etc", mtime=1_111_111_111),
    entry("etc/gone", b"gone"),
    entry("etc/kept", b"kept", mtime=1_234_567_890.987654321),
    entry("etc/changed", b"old", uid=7, gid=8, mode=0o600),
    entry("usr", mtime=3),
    entry("usr/bin"),
    entry("usr/bin/tool", b"#!tool", mode=0o755),
    entry("usr/bin/su", b"su", mode=0o4755, uid=0),
    entry("usr/bin/wall", b"wall", mode=0o2755, gid=5),
    entry("usr/bin/ping", b"ping", pax_headers=xattrs(security__capability=CAPABILITY)),
    entry("tmp", mode=0o1777),
    entry("home", uid=1000, gid=1000, mode=0o700, pax_headers=xattrs(user__folder=b"a folder")),
    entry("home/note", b"note", uid=1000, gid=3_000_000,
          pax_headers=xattrs(user__comment=b"caf\xc3\xa9", user__binary=b"\x01\xff\xfe")),
    entry("home/empty", b"", uid=2**31, mode=0o000),
    entry("pair"),
    entry("pair/a", b"one content"),
    link("pair/b", "pair/a", tarfile.LNKTYPE),
    link("pair/c", "pair/a", tarfile.LNKTYPE),
    entry("opaque", mtime=9),
    entry("opaque/hidden", b"hidden"),
    entry("opaque/inner"),
    entry("opaque/inner/hidden", b"hidden"),
    entry("removed"),
    entry("removed/one", b"one"),
    entry("removed/two", b"two"),
    entry("whole"),
    entry("whole/of", b"it"),
    entry("swap-folder", mtime=11),
    entry("swap-folder/file", b"file"),
    entry("swap-file", b"file"),
    link("swap-link", "usr"),
    link("broken", "nowhere/at/all"),
    link("absolute", "/usr/bin/tool"),
    entry("dev", mtime=13),
    device("dev/null", tarfile.CHRTYPE, 1, 3, mode=0o666),
    device("dev/loop", tarfile.BLKTYPE, 7, 300, mode=0o640, gid=6),
    device("dev/tty", tarfile.CHRTYPE, 5, 0, mode=0o620),
    link("followed", "usr"),
    link("up-and-down", "../etc"),
    entry("late/file", b"before its folder", mtime=21),
    entry("late", mtime=23, mode=0o700),
    entry("twice", b"first", mode=0o600),
    entry("twice", b"second", mode=0o640),
    link("hard-symlink", "broken", tarfile.LNKTYPE),
    link("hard-device", "dev/null", tarfile.LNKTYPE),
    entry("run"),
    entry("run/pipe", b"", type=tarfile.FIFOTYPE, mode=0o622),
    entry("big", os.urandom(1_500_000)),
    entry("./", mode=0o711, mtime=77),  # last: umoci keeps no folder's time when it makes "late"
)  # fmt: skip

CHANGES = layer(
    entry("etc", mode=0o750, mtime=2_000_000_000),
    whiteout("etc/gone"),
    entry("etc/changed", b"new content", uid=9, mode=0o640),
    whiteout("removed/one"),
    whiteout("whole"),
    opaque("opaque"),
    entry("opaque/shown", b"shown"),
    entry("swap-folder", b"a file now"),
    entry("swap-file", mtime=15),
    entry("swap-file/file", b"in a folder now"),
    entry("swap-link"),
    entry("swap-link/file", b"a folder now"),
    link("home/tool", "usr/bin/tool", tarfile.LNKTYPE),
    entry("pair/a", b"another content"),
    entry("home/note", b"note without attributes", uid=1000),
    device("dev/tty", tarfile.CHRTYPE, 5, 1, mode=0o600),
    entry("followed/inside", b"through a link"),
    entry("up-and-down/inside", b"through a link that leaves"),
    link("hard-through-link", "followed/bin/su", tarfile.LNKTYPE),
    link("hard-absolute", "/etc/kept", tarfile.LNKTYPE),
    link("./hard-dotted", "./etc/kept", tarfile.LNKTYPE),
    whiteout("never-there"),
    whiteout("followed/bin/wall"),
)

NAMES = layer(
    entry(LONG, b"long name"),
    *folders(DEEP),
    entry(f"{DEEP}/file", b"deep"),
    link("link-" + "l" * 120, f"{DEEP}/file"),
    link("hard-" + "l" * 120, f"{DEEP}/file", tarfile.LNKTYPE),
    entry("unicode-äöü-日本語", b"unicode"),
    entry(NOT_UTF8, b"no utf-8"),
    link("to-" + NOT_UTF8, NOT_UTF8),
    entry("line\nbreak", b"newline"),
    entry("space name ", b"space"),
    entry(".hidden", b"dot"),
    tar_format=tarfile.GNU_FORMAT,
)

LAST = layer(
    whiteout("usr/bin/tool"),
    whiteout("pair/b"),
    entry("whole", mode=0o711),
    entry("whole/again", b"again"),
    entry("again"),
    opaque("again"),
    entry("again/file", b"file"),
    entry("unicode-äöü-日本語-2", b"PAX", pax_headers=xattrs(user__name="ü".encode())),
    entry(NOT_UTF8 + "-2", b"PAX"),
    entry("lib"),
    entry("lib/one", b"1"),
    link("lib/two", "lib/one", tarfile.LNKTYPE),
)

LAYERS = [BASE, CHANGES, NAMES, LAST]


def state(path: Path) -> dict[str, Any]:
    """Everything about one entry that must be equal; times to the second, as squashfs has them."""
    found = path.lstat()
    facts: dict[str, Any] = {
        "mode": stat.filemode(found.st_mode),
        "owner": (found.st_uid, found.st_gid),
        "time": int(found.st_mtime),
        "xattrs": {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        },
    }
    if stat.S_ISREG(found.st_mode):
        facts["content"] = hashlib.sha256(path.read_bytes()).hexdigest()
    if stat.S_ISLNK(found.st_mode):
        facts["target"] = os.fsencode(path.readlink())
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        facts["device"] = (os.major(found.st_rdev), os.minor(found.st_rdev))
    return facts


def tree(top: Path) -> dict[str, dict[str, Any]]:
    """Every entry below `top`, and `top` itself as the empty name."""
    names = {""}
    links = defaultdict(set)
    for folder, inner, files in os.walk(top):
        names |= {os.path.relpath(os.path.join(folder, name), top) for name in (*inner, *files)}
    for name in names:
        found = (top / name).lstat()
        if not stat.S_ISDIR(found.st_mode):
            links[found.st_ino].add(name)
    return {
        name: state(top / name) | {"links": sorted(links.get((top / name).lstat().st_ino, ()))}
        for name in names
    }


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What kvmrkt makes of the image, and what skopeo and umoci make of it."""
    folder = tmp_path_factory.mktemp("tree")
    write_layout(folder / "layout", docker_image(LAYERS, compression="none"))
    with running_registry(folder) as registry:
        registry.push(f"oci:{folder}/layout:v1", "app:v1", "--format=v2s2")
        kvmrkt = Fetcher(folder, insecure="image,http")
        kvmrkt.fetch(f"docker://{registry.host}/app:v1")
        registry.pull("app:v1", f"oci:{folder}/pulled:v1")
    run("umoci", "unpack", "--image", f"{folder}/pulled:v1", folder / "bundle")
    run("unsquashfs", "-quiet", "-no-progress", "-dest", folder / "ours", kvmrkt.tree())
    return tree(folder / "ours" / "rootfs"), tree(folder / "bundle" / "rootfs")


def test_no_entry_is_missing_and_only_the_links_in_dev_are_added(
    trees: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    ours, theirs = trees
    assert set(ours) - set(theirs) == DEV_LINKS
    assert set(theirs) - set(ours) == set()


@pytest.mark.parametrize(
    "fact", ["mode", "owner", "time", "xattrs", "content", "target", "device", "links"]
)
def test_every_entry_is_equal(trees: tuple[dict[str, Any], dict[str, Any]], fact: str) -> None:
    ours, theirs = trees
    assert {name: ours[name].get(fact) for name in theirs} == {
        name: entry.get(fact) for name, entry in theirs.items()
    }


def test_the_image_has_everything_that_is_to_be_compared(
    trees: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    _, theirs = trees
    assert theirs["usr/bin/su"]["mode"] == "-rwsr-xr-x"
    assert theirs["tmp"]["mode"] == "drwxrwxrwt"
    assert theirs["usr/bin/ping"]["xattrs"]["security.capability"] == CAPABILITY
    assert theirs["home"]["xattrs"] == {"user.folder": b"a folder"}
    assert theirs["home/note"]["xattrs"] == {}
    assert theirs["dev/loop"]["device"] == (7, 300)
    assert theirs["run/pipe"]["mode"][0] == "p"
    assert theirs["home/tool"]["links"] == ["home/tool"]
    assert theirs["pair/c"]["links"] == ["pair/c"]
    assert len(theirs[f"{DEEP}/file"]["links"]) == 2
    assert NOT_UTF8 in theirs
    assert max(map(len, theirs)) > 255
    assert theirs["etc/kept"]["time"] == 1_234_567_890
    assert not {"opaque/hidden", "whole/of", "removed/one", "etc/gone"} & set(theirs)
