"""Archives of every format and compression are read; truncated ones are refused anywhere.

What hostile ones try is in test_hostile_corpus.py.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from aci_files import archive, entry, link, manifest, write_aci

from kvmrkt.errors import ArchiveError
from kvmrkt.images.store import Store
from kvmrkt.paths import DataDir

GOOD = archive(entry("rootfs/a", b"x" * 5000), entry("rootfs/d"), link("rootfs/l", "/etc/passwd"))
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


def test_a_file_is_imported_from_where_it_lies(tmp_path: Path) -> None:
    path = write_aci(tmp_path / "a.aci", entry("rootfs/a", b"x"))
    with Store(DataDir(tmp_path / "data")) as store:
        assert store.import_aci(path).labels == {"version": "1.0", "os": "linux", "arch": "amd64"}


def test_a_file_on_another_file_system_is_imported(tmp_path: Path, monkeypatch: Any) -> None:
    def refusing(*_: int) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refusing)
    path = write_aci(tmp_path / "a.aci", entry("rootfs/a", b"x"))
    with Store(DataDir(tmp_path / "data")) as store:
        assert store.import_aci(path).blob_path.read_bytes() == path.read_bytes()
