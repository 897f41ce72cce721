"""Archives that are no App Container image, are damaged, or are hostile: refused, nothing kept."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path

import pytest
import zstandard
from aci_files import archive, entry, link, manifest, write_aci
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmrkt.errors import ArchiveError, ImageError, ManifestError
from kvmrkt.images.store import Store
from kvmrkt.images.tar import Limits
from kvmrkt.paths import DataDir

GOOD = archive(entry("rootfs/a", b"x" * 5000), entry("rootfs/d"), link("rootfs/l", "/etc/passwd"))
BOMB_LIMITS = Limits(entries=20, expanded_bytes=1 << 20)
COMPRESSORS = {
    "tar": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def kept(data: DataDir) -> list[Path]:
    """Everything in the store but its index, its locks, and the trees of images that are gone."""
    return [
        path
        for path in data.cas.rglob("*")
        if path.is_file()
        and path.suffix not in (".sqlite3", ".squashfs")
        and "locks" not in path.parent.name
    ]


def refused(tmp_path: Path, content: bytes, limits: Limits | None = None) -> ImageError:
    data = DataDir(tmp_path / "data")
    path = tmp_path / "bad.aci"
    path.write_bytes(content)
    with Store(data, limits=limits) as store:
        with pytest.raises((ArchiveError, ManifestError)) as caught:
            store.import_aci(path)
        assert store.images() == []
    assert kept(data) == []
    assert str(path) in caught.value.message
    return caught.value


HOSTILE = {
    "absolute path": (archive(entry("/rootfs/a", b"")), "has an absolute path"),
    "dot dot": (archive(entry("rootfs/../a", b"")), "has a .. in its path"),
    "dot dot at the end": (archive(entry("rootfs/a/..")), "has a .. in its path"),
    "outside rootfs": (archive(entry("other", b"")), "is neither manifest nor below rootfs"),
    "rootfs as prefix": (archive(entry("rootfs2/a", b"")), "is neither manifest nor below rootfs"),
    "duplicate": (archive(entry("rootfs/a", b"1"), entry("rootfs/a", b"2")), "is there twice"),
    "duplicate folder": (archive(entry("rootfs/a"), entry("./rootfs/a/")), "is there twice"),
    "second manifest": (archive(entry("./manifest", b"{}")), "is there twice"),
    "folder turns into link": (
        archive(entry("rootfs/a/b", b""), link("rootfs/a", "/etc")),
        "is there twice",
    ),
    "below a link": (
        archive(link("rootfs/a", "/etc"), entry("rootfs/a/passwd", b"")),
        "lies below 'rootfs/a', no folder",
    ),
    "below a file": (
        archive(entry("rootfs/a", b""), entry("rootfs/a/b/c", b"")),
        "lies below 'rootfs/a', no folder",
    ),
    "hard link outside": (
        archive(link("rootfs/a", "/etc/passwd", tarfile.LNKTYPE)),
        "not an earlier entry",
    ),
    "hard link to the manifest": (
        archive(link("rootfs/a", "manifest", tarfile.LNKTYPE)),
        "not an earlier entry",
    ),
    "hard link to itself": (
        archive(link("rootfs/a", "rootfs/a", tarfile.LNKTYPE)),
        "not an earlier entry",
    ),
    "hard link to a later entry": (
        archive(link("rootfs/a", "rootfs/b", tarfile.LNKTYPE), entry("rootfs/b", b"")),
        "not an earlier entry",
    ),
    "hard link to a folder": (
        archive(entry("rootfs/a"), link("rootfs/b", "rootfs/a", tarfile.LNKTYPE)),
        "points to a folder",
    ),
    "manifest is a link": (
        archive(document=b"", rootfs=True).replace(b"manifest\0", b"manifes2\0"),
        "damaged (wrong checksum)",
    ),
    "unknown kind": (archive(entry("rootfs/a", b"", type=b"V")), "unknown kind"),
    "sparse": (archive(entry("rootfs/a", b"", type=b"S")), "stored as sparse"),
    "sparse in PAX": (
        archive(entry("rootfs/a", b"", pax_headers={"GNU.sparse.major": "1"})),
        "stored as sparse",
    ),
    "long name": (archive(entry("rootfs/" + "a" * 256, b"")), "more than 255 bytes"),
    "long path": (archive(entry("rootfs" + "/a" * 2100, b"")), "path has 4206 bytes"),
    "NUL in a name": (
        archive(entry("rootfs/a", b"", pax_headers={"path": "rootfs/a\0b"})),
        "no usable name",
    ),
    "too many entries": (
        archive(*[entry(f"rootfs/{number}") for number in range(20)]),
        "more than 20 entries",
    ),
    "bomb": (
        gzip.compress(archive(entry("rootfs/a", bytes(2 << 20)))),
        "larger than 1048576 bytes",
    ),
    "big manifest": (archive(document=b" " * ((1 << 20) + 1)), "bytes"),
    "no rootfs": (archive(rootfs=False), "no rootfs folder"),
    "only implied rootfs": (archive(entry("rootfs/a", b""), rootfs=False), "no rootfs folder"),
    "data after the end": (GOOD + b"x" * 512, "data after the end"),
    "second archive after the end": (GOOD + GOOD, "data after the end"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(name: str, tmp_path: Path) -> None:
    content, text = HOSTILE[name]
    limits = BOMB_LIMITS if name in ("bomb", "too many entries") else None
    assert text in ": ".join(refused(tmp_path, content, limits).causes())


NO_IMAGES = {
    "empty": (b"", "the file is empty"),
    "script": (b"#!/bin/sh\nexit 0\n", "no tar archive"),
    "noise": (os.urandom(4096), "no tar archive"),
    "compressed text": (gzip.compress(b"hello" * 1000), "no tar archive"),
    "zeros": (bytes(10240), "no image manifest"),
    "gzip magic": (b"\x1f\x8b", "gzip data is truncated"),
    "bzip2 magic": (b"BZh9" + b"x" * 600, "bzip2 data is damaged"),
    "xz magic": (b"\xfd7zXZ\0" + b"x" * 600, "xz data is damaged"),
    "zstd magic": (b"\x28\xb5\x2f\xfd" + b"\xff" * 600, "zstd data is damaged"),
    "noise after gzip": (gzip.compress(GOOD) + b"trailing", "gzip data is damaged"),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_files_that_are_no_image(name: str, tmp_path: Path) -> None:
    content, text = NO_IMAGES[name]
    assert text in ": ".join(refused(tmp_path, content).causes())


def test_the_path_of_the_faulty_field_is_in_the_message(tmp_path: Path) -> None:
    document = manifest()
    document["app"]["mountPoints"] = [{"name": "data", "path": "data"}]
    error = refused(tmp_path, archive(document=document))
    assert "app.mountPoints[0].path: 'data' is not an absolute path" in ": ".join(error.causes())


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_every_compression_gives_the_same_image(compression: str, tmp_path: Path) -> None:
    import hashlib

    with Store(DataDir(tmp_path / "data")) as store:
        packed = COMPRESSORS[compression](GOOD)
        image = store.import_aci(io.BytesIO(packed))
        assert image.id == "sha512-" + hashlib.sha512(GOOD).hexdigest()
        assert image.blob_path.read_bytes() == packed
        assert image.size_bytes == len(packed)
        with image.open_tar() as tar:
            assert tar.read() == GOOD


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_truncated_anywhere_is_refused(compression: str, tmp_path: Path) -> None:
    content = COMPRESSORS[compression](GOOD)
    end = len(content) if compression != "tar" else GOOD.rindex(b"ustar") + 255
    with Store(DataDir(tmp_path / "data")) as store:
        for cut in range(1, end, max(1, end // 40)):
            with pytest.raises(ArchiveError):
                store.import_aci(io.BytesIO(content[:cut]))
        assert store.images() == []
    assert kept(store.data) == []


def test_what_the_specification_allows_passes(tmp_path: Path) -> None:
    content = archive(
        entry("rootfs/dev"),
        entry("rootfs/dev/null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("rootfs/fifo", b"", type=tarfile.FIFOTYPE),
        link("rootfs/up", "../../../etc/passwd"),
        entry("rootfs/" + "long/" * 40 + "name", b"x"),
        entry("rootfs/b", b"x", pax_headers={"SCHILY.xattr.user.a": "1"}),
        link("rootfs/c", "rootfs/b", tarfile.LNKTYPE),
    )
    with Store(DataDir(tmp_path / "data")) as store:
        image = store.import_aci(io.BytesIO(content))
    assert image.implied_folders[0] == b"rootfs/long"
    assert len(image.implied_folders) == 40


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_long_names_of_every_format(tar_format: int, tmp_path: Path) -> None:
    name = "rootfs/" + "d" * 80 + "/" + "f" * 90
    content = archive(entry(name, b"x"), tar_format=tar_format)
    with Store(DataDir(tmp_path / "data")) as store:
        assert store.import_aci(io.BytesIO(content)).implied_folders == (
            name.rpartition("/")[0].encode(),
        )


def test_names_with_a_leading_dot_slash(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as target:
        import json

        text = json.dumps(manifest()).encode()
        for info, content in (entry("./"), entry("./manifest", text), entry("./rootfs")):
            target.addfile(info, io.BytesIO(content))
    with Store(DataDir(tmp_path / "data")) as store:
        assert store.import_aci(io.BytesIO(out.getvalue())).name == "example.com/app"


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6)
)
def test_flipped_bytes_are_read_or_refused(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for at, value in flips:
        content[at] = value
    with Store(DataDir(tmp_path / "data")) as store:
        try:
            image = store.import_aci(io.BytesIO(content))
        except ImageError:
            assert kept(store.data) == []
        else:
            store.remove(image.id)


def test_a_file_is_imported_from_where_it_lies(tmp_path: Path) -> None:
    path = write_aci(tmp_path / "a.aci", entry("rootfs/a", b"x"))
    with Store(DataDir(tmp_path / "data")) as store:
        assert store.import_aci(path).labels == {"version": "1.0", "os": "linux", "arch": "amd64"}
