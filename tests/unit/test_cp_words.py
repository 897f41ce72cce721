"""Which side of `cp` is a pod's, what `port-forward` forwards, and a guest's hostile archive."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from kvmrkt.cli.cp import PodPath, parse_pod_path
from kvmrkt.cli.port_forward import parse_forward
from kvmrkt.errors import HostError, ImageError, UsageError
from kvmrkt.images.unpacking.unpack import unpack
from kvmrkt.inside.copy import _merge, _place

if TYPE_CHECKING:
    from pathlib import Path

    from simulated_host import SimulatedHost


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abc:/etc", PodPath("abc", "", "/etc")),
        ("abc:etc/x", PodPath("abc", "", "/etc/x")),
        ("abc:web:/etc", PodPath("abc", "web", "/etc")),
        ("abc:web:etc:x", PodPath("abc", "web", "/etc:x")),
        ("abc:/with:colon", PodPath("abc", "", "/with:colon")),
        ("/abc:/etc", None),
        ("./abc:/etc", None),
        ("file", None),
        (".", None),
    ],
)
def test_a_pods_side_is_told_by_its_colon(text: str, expected: PodPath | None) -> None:
    assert parse_pod_path(text) == expected


@pytest.mark.parametrize("text", ["abc:", "abc:web:"])
def test_a_pods_side_has_a_path(text: str) -> None:
    with pytest.raises(UsageError, match="names no path"):
        parse_pod_path(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", ("127.0.0.1", 80, 80)),
        ("8080:80", ("127.0.0.1", 8080, 80)),
        ("0:80", ("127.0.0.1", 0, 80)),
        ("0.0.0.0:8080:80", ("0.0.0.0", 8080, 80)),
        ("[::1]:8080:80", ("::1", 8080, 80)),
    ],
)
def test_ports_are_read(text: str, expected: tuple[str, int, int]) -> None:
    assert parse_forward(text) == expected


@pytest.mark.parametrize("text", ["", "x", "80:", ":80", "0", "65536", "1:0", "h:1:2", "1:2:3:4"])
def test_faulty_ports_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot forward"):
        parse_forward(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cp", "a"), "give a source and a goal"),
        (("cp", "a", "b"), "one of source and goal must be in a pod"),
        (("cp", "a:/x", "b:/y"), "one of source and goal must be in a pod"),
        (("cp", "abcd:/x", "b"), 'no matches found for "abcd"'),
        (("port-forward", "abcd"), "give the UUID of a pod and a port of it"),
        (("port-forward", "abcd", "80"), 'no matches found for "abcd"'),
    ],
)
def test_faulty_words_are_refused(host: SimulatedHost, words: tuple[str, ...], said: str) -> None:
    done = host(*words)
    assert done.status == 254
    assert said in done.errors


def archive(*entries: tarfile.TarInfo) -> io.BytesIO:
    """An archive of these entries, without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as file:
        for entry in entries:
            file.addfile(entry)
    out.seek(0)
    return out


def an_entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """One entry that is set-ID for all it can."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, link, 0o6777
    return entry


def test_plain_files_have_no_set_id_bits(tmp_path: Path) -> None:
    folder = an_entry("x", tarfile.DIRTYPE)
    unpack(archive(folder, an_entry("x/su")), tmp_path, plain=True)
    assert (tmp_path / "x" / "su").stat().st_mode & 0o7777 == 0o777
    assert (tmp_path / "x").stat().st_mode & 0o7777 == 0o777


@pytest.mark.parametrize(
    "entries",
    [
        [an_entry("x", tarfile.CHRTYPE)],
        [an_entry("x", tarfile.BLKTYPE)],
        [an_entry("../x")],
        [an_entry("x", tarfile.SYMTYPE, "/tmp"), an_entry("x/y")],
        [an_entry("x", tarfile.LNKTYPE, "/etc/passwd")],
        [an_entry("x", tarfile.LNKTYPE, "../../etc/passwd")],
    ],
)
def test_a_hostile_archive_from_a_guest_is_refused(
    tmp_path: Path, entries: list[tarfile.TarInfo]
) -> None:
    folder = tmp_path / "fresh"
    folder.mkdir()
    with pytest.raises(ImageError):
        unpack(archive(*entries), folder, plain=True)
    assert [path.name for path in tmp_path.iterdir()] == ["fresh"]


def test_a_tree_is_merged_without_following_links(tmp_path: Path) -> None:
    outside, goal, fresh = tmp_path / "outside", tmp_path / "goal", tmp_path / "fresh"
    for folder in (outside, goal, goal / "same", fresh, fresh / "same", fresh / "way"):
        folder.mkdir()
    (goal / "same" / "kept").write_text("kept")
    (fresh / "same" / "new").write_text("new")
    (fresh / "way" / "in").write_text("in")
    (goal / "way").symlink_to(outside)
    with pytest.raises(HostError, match="cannot replace"):
        _merge(fresh, goal)
    assert sorted(path.name for path in (goal / "same").iterdir()) == ["kept", "new"]
    assert list(outside.iterdir()) == []


def test_a_source_without_a_name_needs_its_content_named(tmp_path: Path) -> None:
    assert _place(str(tmp_path), "/a/b/") == tmp_path / "b"
    assert _place(str(tmp_path), "/a/.") == tmp_path
    assert _place(str(tmp_path / "new"), "/a/..") == tmp_path / "new"
    with pytest.raises(UsageError, match="no name of its own"):
        _place(str(tmp_path), "..")
