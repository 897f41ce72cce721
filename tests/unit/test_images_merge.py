"""Layers over one another: what is seen, what is removed, what is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from aci_files import entry, link

from kvmrkt.errors import ArchiveError
from kvmrkt.images.merge import Layer, merged
from kvmrkt.images.tar import Limits


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as target:
        for info, content in members:
            target.addfile(info, io.BytesIO(content))
    return out.getvalue()


def merge(
    tmp_path: Path, *layers: Any, docker: bool = True, limits: Limits | None = None
) -> dict[str, Any]:
    """Path below rootfs -> content, link target (hard links with =), or None for a folder."""
    paths = []
    for number, members in enumerate(layers):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(tar(*members))
        paths.append(Layer(path, docker=docker))
    pieces: list[bytes] = []
    with merged(paths, limits or Limits()) as tree:
        tree.write(b"{}", pieces.append)
    found: dict[str, Any] = {}
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as result:
        names = result.getnames()
        assert len(set(names)) == len(names)
        for info in result:
            if not info.name.startswith("rootfs/"):
                continue
            if info.isfile():
                content = result.extractfile(info)
                assert content is not None
                found[info.name[7:]] = content.read()
            elif info.islnk():
                found[info.name[7:]] = "=" + info.linkname
            else:
                found[info.name[7:]] = info.linkname if info.issym() else None
    return found


def test_a_later_layer_wins(tmp_path: Path) -> None:
    lower = [entry("a", b"1"), entry("d"), entry("d/x", b"1"), entry("d/y", b"1")]
    assert merge(tmp_path, lower, [entry("a", b"2"), entry("d"), entry("d/x", b"2")]) == {
        "a": b"2", "d": None, "d/x": b"2", "d/y": b"1",
    }  # fmt: skip


def test_a_whiteout_removes_what_lies_below(tmp_path: Path) -> None:
    lower = [entry("a", b"1"), entry("d"), entry("d/x", b"1"), entry("keep", b"1")]
    upper = [entry(".wh.a", b""), entry(".wh.d", b""), entry(".wh.never-was", b"")]
    assert merge(tmp_path, lower, upper) == {"keep": b"1"}


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_a_whiteout_spares_its_own_layer_in_any_order(
    tmp_path: Path, *, whiteout_first: bool
) -> None:
    lower = [entry("d"), entry("d/old", b"1"), entry("d/sub"), entry("d/sub/old", b"1")]
    own = [entry("d/new", b"2"), entry("d/sub"), entry("d/sub/new", b"2")]
    opaque = [entry("d/.wh..wh..opq", b"")]
    upper = [entry("d"), *(opaque + own if whiteout_first else own + opaque)]
    assert merge(tmp_path, lower, upper) == {
        "d": None, "d/new": b"2", "d/sub": None, "d/sub/new": b"2",
    }  # fmt: skip


def test_a_file_replaces_a_folder_and_a_folder_a_file(tmp_path: Path) -> None:
    lower = [entry("a"), entry("a/x", b"1"), entry("b", b"1"), link("c", "/etc")]
    upper = [entry("a", b"2"), entry("b"), entry("b/y", b"2"), entry("c"), entry("c/z", b"2")]
    assert merge(tmp_path, lower, upper) == {
        "a": b"2", "b": None, "b/y": b"2", "c": None, "c/z": b"2",
    }  # fmt: skip


def test_a_hard_link_keeps_its_file_when_the_first_name_goes(tmp_path: Path) -> None:
    lower = [entry("a", b"1"), link("b", "a", tarfile.LNKTYPE), link("c", "./a", tarfile.LNKTYPE)]
    assert merge(tmp_path, lower, [entry(".wh.a", b"")]) == {"b": b"1", "c": "=rootfs/b"}


def test_a_hard_link_may_point_into_a_lower_layer(tmp_path: Path) -> None:
    upper = [link("d/b", "/a", tarfile.LNKTYPE)]
    assert merge(tmp_path, [entry("a", b"1"), entry("d")], upper) == {
        "a": b"1", "d": None, "d/b": "=rootfs/a",
    }  # fmt: skip


def test_a_path_through_a_link_is_followed_beneath_the_root(tmp_path: Path) -> None:
    lower = [entry("usr"), entry("usr/lib"), link("lib", "usr/lib"), link("up", "../../../usr")]
    upper = [entry("lib/a", b"2"), entry("up/lib/b", b"2")]
    found = merge(tmp_path, lower, upper)
    assert found["usr/lib/a"] == found["usr/lib/b"] == b"2"
    assert found["lib"] == "usr/lib"


def test_in_app_container_images_a_link_in_the_way_is_replaced(tmp_path: Path) -> None:
    lower = [entry("rootfs"), link("rootfs/lib", "/usr/lib"), entry("rootfs/.wh.x", b"")]
    upper = [entry("rootfs"), entry("rootfs/lib/a", b"2")]
    assert merge(tmp_path, lower, upper, docker=False) == {
        ".wh.x": b"", "lib": None, "lib/a": b"2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lower", "upper", "text"),
    [
        ([], [entry("a/.wh...", b"")], "a whiteout names"),
        ([], [entry(".wh.", b"")], "a whiteout names"),
        ([], [link("a", "b", tarfile.LNKTYPE)], "is no file"),
        ([entry("d")], [link("a", "d", tarfile.LNKTYPE)], "is no file"),
        ([entry("a", b"")], [entry("a/b", b"")], "is no folder"),
        ([link("a", "b"), link("b", "a")], [entry("a/x", b"")], "too many symbolic links"),
        ([], [entry("../a", b"")], "has a .. in its path"),
        ([entry("./", b"")], [], "no folder"),
        ([entry("dev")], [link("dev", "/tmp")], "/dev is not a folder"),
    ],
)
def test_hostile_layers(tmp_path: Path, lower: Any, upper: Any, text: str) -> None:
    with pytest.raises(ArchiveError, match=text):
        merge(tmp_path, lower, upper)


def test_the_limit_of_entries_is_for_all_layers(tmp_path: Path) -> None:
    layers = [[entry(f"{number}-{name}", b"") for name in range(6)] for number in range(2)]
    assert len(merge(tmp_path, *layers, limits=Limits(entries=12))) == 12
    with pytest.raises(ArchiveError, match="more than 11 entries"):
        merge(tmp_path, *layers, limits=Limits(entries=11))


def test_paths_grown_through_links_are_bounded(tmp_path: Path) -> None:
    deep = "/".join(["d" * 100] * 20)
    folders = ["/".join(["d" * 100] * depth) for depth in range(1, 21)]
    lower = [*(entry(name) for name in folders), link("down", deep)]
    with pytest.raises(ArchiveError, match="a path has"):
        merge(tmp_path, lower, [entry(f"down/{deep}/x", b"")], limits=Limits(path_bytes=3000))


def test_many_whiteouts_of_one_folder_are_one_walk(tmp_path: Path) -> None:
    lower = [entry("d"), *(entry(f"d/{number}", b"") for number in range(2000))]
    upper = [entry("d/new", b""), *(entry(f"d/.wh.{number}", b"") for number in range(2000))]
    assert merge(tmp_path, lower, upper) == {"d": None, "d/new": b""}


def test_everything_about_an_entry_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    xattr = {"SCHILY.xattr.user.note": "hello"}
    path.write_bytes(
        tar(
            entry("a" * 120, b"x", mode=0o4755, uid=3_000_000, gid=5, pax_headers=xattr),
            entry("null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            entry("new", b"", mtime=-3.5),
        )
    )
    pieces: list[bytes] = []
    with merged([Layer(path, docker=True)], Limits()) as tree:
        tree.write(b"{}", pieces.append)
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as result:
        first = result.getmember("rootfs/" + "a" * 120)
        assert (first.mode, first.uid, first.gid, first.mtime) == (0o4755, 3_000_000, 5, 1_000_000)
        assert first.pax_headers["SCHILY.xattr.user.note"] == "hello"
        null = result.getmember("rootfs/null")
        assert (null.type, null.devmajor, null.devminor) == (tarfile.CHRTYPE, 1, 3)
        assert result.getmember("rootfs/new").mtime == 0
