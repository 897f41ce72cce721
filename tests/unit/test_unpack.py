"""Images unpacked into a folder: `image export`, `extract` and `render`, and what is below them."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from aci_files import MTIME_SECONDS, archive, entry, link, manifest, write_aci
from raw_tar import bare, folder, image, pax, raw
from raw_tar import link as raw_link

from kvmrkt.cli import main
from kvmrkt.errors import ArchiveError, HostError, ImageError
from kvmrkt.images.tar import Limits
from kvmrkt.images.unpacking import beneath, replace
from kvmrkt.images.unpacking.beneath import Beneath
from kvmrkt.images.unpacking.unpack import unpack


@pytest.fixture
def kvmrkt(tmp_path: Path, capfd: Any) -> Any:
    """Run a command line on a data directory of its own: (status, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        flags = [f"--dir={tmp_path}/data", "--insecure-options=image"]
        status = main.run([*flags, *map(str, words)])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


def unpacked(tmp_path: Path, content: bytes, **options: Any) -> Path:
    (target := tmp_path / "target").mkdir()
    unpack(io.BytesIO(content), target, **options)
    return target


def facts(path: Path) -> tuple[str, int]:
    state = path.lstat()
    return stat.filemode(state.st_mode), int(state.st_mtime)


def beside(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


MEMBERS = (
    entry("rootfs/closed", mode=0o500),
    entry("rootfs/closed/app", b"x" * 3_000_000, mode=0o751),
    entry("rootfs/closed/deeper", mode=0o000),
    entry("rootfs/closed/deeper/empty", b"", mode=0o000),
    link("rootfs/hard", "rootfs/closed/app", tarfile.LNKTYPE),
    link("rootfs/soft", "/etc/passwd"),
    link("rootfs/soft2", "rootfs/soft", tarfile.LNKTYPE),
    entry("rootfs/pipe", b"", type=tarfile.FIFOTYPE, mode=0o640),
    entry("rootfs/noted", b"n", pax_headers={"SCHILY.xattr.user.note": "hellö"}),
    entry("rootfs/implied/folder/file", b"i"),
)


def test_everything_an_archive_says_is_there(tmp_path: Path) -> None:
    target = unpacked(tmp_path, archive(*MEMBERS), newest_seconds=77)
    rootfs = target / "rootfs"
    assert sorted(os.listdir(target)) == ["manifest", "rootfs"]
    assert facts(rootfs) == ("drwxr-xr-x", MTIME_SECONDS)
    assert facts(rootfs / "closed") == ("dr-x------", MTIME_SECONDS)
    assert facts(rootfs / "closed/app") == ("-rwxr-x--x", MTIME_SECONDS)
    assert facts(rootfs / "closed/deeper") == ("d---------", MTIME_SECONDS)
    assert facts(rootfs / "soft") == ("lrwxrwxrwx", MTIME_SECONDS)
    assert facts(rootfs / "pipe") == ("prw-r-----", MTIME_SECONDS)
    assert facts(rootfs / "implied/folder") == ("drwxr-xr-x", 77)
    assert (rootfs / "hard").samefile(rootfs / "closed/app")
    assert (rootfs / "hard").stat().st_size == 3_000_000
    assert os.readlink(rootfs / "soft2") == "/etc/passwd"
    assert os.getxattr(rootfs / "noted", "user.note") == "hellö".encode()


def test_the_root_filesystem_alone(tmp_path: Path) -> None:
    target = unpacked(tmp_path, archive(*MEMBERS), rootfs_only=True)
    assert facts(target) == ("drwxr-xr-x", MTIME_SECONDS)
    assert "manifest" not in os.listdir(target)
    assert (target / "hard").samefile(target / "closed/app")


def test_others_own_all_and_lose_what_is_for_root(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    content = image(
        pax((b"SCHILY.xattr.security.capability", b"\0" * 20), (b"SCHILY.xattr.user.a", b"b")),
        raw(b"rootfs/a", b"x", mode=b"0006755", uid=b"0000007"),
    )
    path = unpacked(tmp_path, content) / "rootfs/a"
    assert facts(path)[0] == "-rwxr-xr-x"
    assert path.stat().st_uid == os.getuid()
    assert os.listxattr(path) == ["user.a"]


def test_a_device_node_is_for_root(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="cannot make the device node") as caught:
        unpacked(tmp_path, image(raw(b"rootfs/a", kind=b"3")))
    assert caught.value.hint == "run as root"


ESCAPES = {
    "through a link": (raw_link(b"rootfs/l", b"/"), raw(b"rootfs/l/escaped", b"x")),
    "through a link up": (raw_link(b"rootfs/l", b"../.."), raw(b"rootfs/l/escaped", b"x")),
    "a folder through a link": (raw_link(b"rootfs/l", b"../.."), folder(b"rootfs/l/escaped")),
    "a link through a link": (raw_link(b"rootfs/l", b".."), raw_link(b"rootfs/l/escaped", b"/")),
    "a file onto a link": (raw_link(b"rootfs/l", b"../../escaped"), raw(b"rootfs/l", b"x")),
    "a folder onto a link": (raw_link(b"rootfs/l", b"../.."), folder(b"rootfs/l", mode=b"0000777")),
    "rootfs through a link": (raw_link(b"rootfs", b".."), raw(b"rootfs/escaped", b"x")),
    "a hard link out": (raw_link(b"rootfs/l", b"/etc/passwd", b"1"),),
    "a hard link up": (raw_link(b"rootfs/l", b"../outside", b"1"),),
    "a hard link through a link": (
        raw_link(b"rootfs/l", b"../.."),
        raw_link(b"rootfs/h", b"rootfs/l/outside", b"1"),
    ),
    "below a file": (raw(b"rootfs/f", b"x"), raw(b"rootfs/f/escaped")),
    "twice": (raw(b"rootfs/f", b"x"), raw(b"rootfs/f", b"y")),
    "a file onto a pipe": (raw(b"rootfs/f", kind=b"6"), raw(b"rootfs/f", b"y")),
}


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_leaves_the_folder_even_unchecked(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"before")
    with pytest.raises(ImageError):
        unpacked(tmp_path, bare(*ESCAPES[name]))
    assert sorted(os.listdir(tmp_path)) == ["outside", "target"]
    assert (tmp_path / "outside").read_bytes() == b"before"
    assert (tmp_path / "outside").stat().st_nlink == 1
    assert not Path("/escaped").exists()


@pytest.mark.parametrize("cut", [100, 700, 1600, 2200])
def test_a_truncated_archive_is_refused(cut: int, tmp_path: Path) -> None:
    content = bare(folder(b"rootfs"), raw(b"rootfs/a", b"x" * 900))
    with pytest.raises(ArchiveError):
        unpacked(tmp_path, content[:cut])


@pytest.mark.parametrize(
    ("limits", "text"),
    [(Limits(entries=1), "more than 1 entries"), (Limits(expanded_bytes=2000), "larger than 2000")],
)
def test_limits_hold(limits: Limits, text: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=text):
        unpacked(tmp_path, bare(folder(b"rootfs"), raw(b"rootfs/a", b"x" * 900)), limits=limits)


def test_a_kernel_without_openat2_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(beneath, "_SYS_OPENAT2", 100_000)
    with pytest.raises(HostError, match="lacks openat2"):
        unpacked(tmp_path, bare(folder(b"rootfs")))


def test_opening_beneath_a_folder_goes_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "top/inner").mkdir(parents=True)
    (tmp_path / "top/link").symlink_to("inner")
    with Beneath(tmp_path / "top") as top:
        os.close(top.open_folder(b"inner"))
        for name, number in (
            (b"link", errno.ELOOP),
            (b"..", errno.EXDEV),
            (b"/", errno.EXDEV),
            (b"missing", errno.ENOENT),
        ):
            with pytest.raises(OSError) as caught:
                top.open_folder(name)
            assert caught.value.errno == number


@pytest.fixture
def app(kvmrkt: Any, tmp_path: Path) -> str:
    """An image in the store, stored compressed; its ID."""
    path = tmp_path / "app.aci"
    path.write_bytes(gzip.compress(archive(*MEMBERS)))
    status, out, err = kvmrkt("fetch", "--full", path)
    assert status == 0, err
    return str(out).strip()


def test_export_gives_the_image_uncompressed(kvmrkt: Any, app: str, tmp_path: Path) -> None:
    out = tmp_path / "out/app.aci"
    out.parent.mkdir()
    assert kvmrkt("image", "export", app, out) == (0, "", "")
    assert hashlib.sha512(out.read_bytes()).hexdigest().startswith(app.removeprefix("sha512-"))
    assert beside(out) == ["app.aci"]
    status, _, err = kvmrkt("image", "export", app, out)
    assert (status, err) == (254, "export: output ACI file exists (try --overwrite)\n")
    out.write_bytes(b"old")
    assert kvmrkt("image", "export", "--overwrite", app, out)[0] == 0
    assert out.read_bytes() == archive(*MEMBERS)
    assert beside(out) == ["app.aci"]
    assert stat.S_IMODE(out.stat().st_mode) & 0o133 == 0


def test_export_to_what_is_no_file_is_written_there(kvmrkt: Any, app: str, tmp_path: Path) -> None:
    assert kvmrkt("image", "export", "--overwrite", app, "/dev/null")[0] == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    link_to = tmp_path / "link.aci"
    link_to.symlink_to("real.aci")
    (tmp_path / "real.aci").write_bytes(b"old")
    assert kvmrkt("image", "export", "--overwrite", app, link_to)[0] == 0
    assert link_to.is_symlink()
    assert (tmp_path / "real.aci").read_bytes() == archive(*MEMBERS)


def test_export_where_nothing_can_be_written_fails_clearly(kvmrkt: Any, app: str) -> None:
    status, _, err = kvmrkt("image", "export", app, "/nowhere/x.aci")
    assert status == 254
    assert "export: cannot write /nowhere/x.aci: " in err
    assert "No such file or directory" in err


@pytest.mark.parametrize("command", ["extract", "render"])
def test_an_image_is_unpacked(command: str, kvmrkt: Any, app: str, tmp_path: Path) -> None:
    out = tmp_path / "out/deeper/folder"
    assert kvmrkt("image", command, app, out) == (0, "", "")
    assert sorted(os.listdir(out)) == ["manifest", "rootfs"]
    assert (out / "rootfs/hard").stat().st_size == 3_000_000
    assert stat.S_IMODE(out.stat().st_mode) == 0o755
    assert beside(out) == ["folder"]
    status, _, err = kvmrkt("image", command, app, out)
    assert (status, err) == (254, f"{command}: output directory exists (try --overwrite)\n")
    (out / "old").write_bytes(b"")
    assert kvmrkt("image", command, "--overwrite", "--rootfs-only", app, out) == (0, "", "")
    assert "old" not in os.listdir(out)
    assert facts(out / "closed") == ("dr-x------", MTIME_SECONDS)
    assert beside(out) == ["folder"]


@pytest.mark.parametrize("command", ["extract", "render"])
@pytest.mark.parametrize("target", ["/", "//", "/.", "/../"])
def test_the_hosts_root_is_refused(command: str, target: str, kvmrkt: Any, app: str) -> None:
    status, _, err = kvmrkt("image", command, "--overwrite", app, target)
    assert status == 254
    assert err == f"{command}: this would delete your root filesystem. Refusing.\n"


def test_a_link_to_the_hosts_root_is_refused(kvmrkt: Any, app: str, tmp_path: Path) -> None:
    (tmp_path / "root").symlink_to("/")
    status, _, err = kvmrkt("image", "extract", "--overwrite", app, tmp_path / "root")
    assert (status, "Refusing" in err) == (254, True)


def test_a_folder_that_holds_the_store_is_refused(kvmrkt: Any, app: str, tmp_path: Path) -> None:
    status, _, err = kvmrkt("image", "extract", "--overwrite", app, tmp_path)
    assert status == 254
    assert f"this would delete the data directory {tmp_path}/data. Refusing." in err


def test_a_file_or_link_in_the_way_is_replaced_itself(
    kvmrkt: Any, app: str, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/kept").write_bytes(b"")
    (tmp_path / "link").symlink_to("other")
    (tmp_path / "file").write_bytes(b"x")
    for name in ("link", "file"):
        assert kvmrkt("image", "extract", "--overwrite", app, tmp_path / name)[0] == 0
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name / "rootfs").is_dir()
    assert os.listdir(tmp_path / "other") == ["kept"]


@pytest.mark.parametrize("command", ["export", "extract"])
def test_a_damaged_image_leaves_the_target_as_it_was(
    command: str, kvmrkt: Any, tmp_path: Path
) -> None:
    path = write_aci(tmp_path / "a.aci", *MEMBERS)
    image_id = kvmrkt("fetch", "--full", path)[1].strip()
    (blob,) = (tmp_path / "data/cas/blob").rglob("sha512-*")
    content = bytearray(blob.read_bytes())
    content[content.index(b"x" * 512) + 100] = ord("y")
    blob.write_bytes(content)
    out = tmp_path / "out"
    status, _, err = kvmrkt("image", command, image_id, out)
    assert status == 254
    assert "is damaged in the store" in err
    assert beside(out) == ["a.aci", "data"]
    out.mkdir()
    (out / "kept").write_bytes(b"")
    if command == "extract":
        assert kvmrkt("image", command, "--overwrite", image_id, out)[0] == 254
        assert os.listdir(out) == ["kept"]
        assert beside(out) == ["a.aci", "data", "out"]


def test_when_the_last_step_fails_the_old_folder_is_back(tmp_path: Path, monkeypatch: Any) -> None:
    (old := tmp_path / "out").mkdir()
    (old / "kept").write_bytes(b"")
    real = Path.rename

    def failing(path: Path, to: Path) -> Path:
        if path.name == "new":
            raise OSError(errno.EIO, "input/output error")
        return real(path, to)

    monkeypatch.setattr(Path, "rename", failing)
    place = replace.new_folder(old, overwrite=True)
    with pytest.raises(ImageError, match="cannot put the new folder at"), place:
        pass
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(old) == ["kept"]


def test_render_applies_dependencies_and_whitelists(kvmrkt: Any, tmp_path: Path) -> None:
    base = write_aci(
        tmp_path / "base.aci",
        entry("rootfs/who", b"base"),
        entry("rootfs/only", b"base"),
        entry("rootfs/dropped", b"base"),
        document=manifest(name="base"),
    )
    top = write_aci(
        tmp_path / "top.aci",
        entry("rootfs/who", b"top"),
        document=manifest(
            name="top",
            dependencies=[{"imageName": "base"}],
            pathWhitelist=["/who", "/only"],
        ),
    )
    assert kvmrkt("fetch", base, top)[0] == 0
    assert kvmrkt("image", "render", "top", tmp_path / "rendered") == (0, "", "")
    assert sorted(os.listdir(tmp_path / "rendered/rootfs")) == ["only", "who"]
    assert (tmp_path / "rendered/rootfs/who").read_bytes() == b"top"
    assert b'"top"' in (tmp_path / "rendered/manifest").read_bytes()
    assert kvmrkt("image", "extract", "top", tmp_path / "extracted") == (0, "", "")
    assert os.listdir(tmp_path / "extracted/rootfs") == ["who"]


def test_what_is_rendered_is_what_a_pod_sees(kvmrkt: Any, app: str, tmp_path: Path) -> None:
    assert kvmrkt("image", "render", app, tmp_path / "rendered")[0] == 0
    (tree,) = (tmp_path / "data/cas/tree").glob("*.squashfs")
    subprocess.run(
        ["unsquashfs", "-no-progress", "-quiet", "-dest", tmp_path / "pod", tree],
        check=True,
        capture_output=True,
    )
    assert described(tmp_path / "rendered") == described(tmp_path / "pod")


def described(top: Path) -> dict[str, Any]:
    return {
        os.fspath(path.relative_to(top)): (*numbers(path.lstat()), attributes(path), content(path))
        for path in sorted(top.rglob("*"))
    }


def numbers(state: os.stat_result) -> tuple[Any, ...]:
    links = 0 if stat.S_ISDIR(state.st_mode) else state.st_nlink
    mode = stat.filemode(state.st_mode)
    return mode, state.st_uid, state.st_gid, int(state.st_mtime), state.st_rdev, links


def attributes(path: Path) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def content(path: Path) -> bytes:
    if path.is_symlink():
        return os.fsencode(os.readlink(path))
    return path.read_bytes() if path.is_file() else b""


@pytest.mark.parametrize("command", ["export", "extract", "render"])
def test_unknown_images_and_missing_words_fail_clearly(
    command: str, kvmrkt: Any, tmp_path: Path
) -> None:
    status, _, err = kvmrkt("image", command, "example.com/none", tmp_path / "x")
    assert status == 254
    assert "no image IDs found" in err
    status, _, err = kvmrkt("image", command, "example.com/none")
    assert status == 254
    assert "Missing argument" in err
    assert not (tmp_path / "x").exists()
