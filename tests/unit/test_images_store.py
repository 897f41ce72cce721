"""The store: what is kept, found, not read twice, and left behind by failures."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from aci_files import entry, manifest, write_aci

from kvmrkt.errors import ImageNotFoundError, StoreError
from kvmrkt.images import importing
from kvmrkt.images.disk import temporary
from kvmrkt.images.gc import collect_garbage
from kvmrkt.images.store import Image, Store
from kvmrkt.paths import DataDir


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data")


def labelled(version: str, **more: str) -> dict[str, Any]:
    labels = {"version": version} | more
    return manifest(labels=[{"name": key, "value": text} for key, text in labels.items()])


def test_an_unchanged_file_is_not_read_again(
    data: DataDir, tmp_path: Path, monkeypatch: Any
) -> None:
    path = write_aci(tmp_path / "a.aci", entry("rootfs/a", b"x"))
    monkeypatch.setattr(importing, "_CLOCK_TICK_NS", 0)
    with Store(data) as store:
        first = store.import_aci(path)
    monkeypatch.setattr(importing, "import_archive", None)  # reading would fail
    with Store(data) as store:
        assert store.import_aci(path).id == first.id


def test_a_changed_file_is_read_again(data: DataDir, tmp_path: Path) -> None:
    path = write_aci(tmp_path / "a.aci", entry("rootfs/a", b"x"))
    with Store(data) as store:
        first = store.import_aci(path)
        write_aci(path, entry("rootfs/a", b"y"))  # same size, same time
        second = store.import_aci(path)
        assert first.id != second.id
        assert [image.id for image in store.images()] == [first.id, second.id]


def test_a_file_written_just_now_may_change_within_the_clocks_tick(
    data: DataDir, tmp_path: Path, monkeypatch: Any
) -> None:
    path = write_aci(tmp_path / "a.aci")
    monkeypatch.setattr(importing, "_CLOCK_TICK_NS", 60 * 10**9)
    with Store(data) as store:
        store.import_aci(path)
        known = store.known_source("file", str(path))
    assert known is not None
    assert known.stamp == ""


def test_two_imports_at_once_store_one_image(data: DataDir, tmp_path: Path) -> None:
    path = write_aci(tmp_path / "a.aci", entry("rootfs/a", os.urandom(1 << 20)))
    found: list[Image] = []

    def work() -> None:
        with Store(data) as store:
            found.append(store.import_aci(path))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({image.id for image in found}) == 1
    with Store(data) as store:
        assert len(store.images()) == 1
    assert list((data.cas / "tmp").iterdir()) == []


def test_by_hash(data: DataDir, tmp_path: Path) -> None:
    with Store(data) as store:
        image = store.import_aci(write_aci(tmp_path / "a.aci"))
        for digits in (2, 12, 32, 64, 128):
            assert store.find_by_hash(image.id[: 7 + digits]).id == image.id
        with pytest.raises(ImageNotFoundError, match="no image IDs found"):
            store.find_by_hash("sha512-" + ("0" if image.id[7] != "0" else "1") * 4)
        for number in range(40):
            document = labelled(str(number))
            store.import_aci(write_aci(tmp_path / f"{number}.aci", document=document))
        ids = sorted(image.id for image in store.images())
        pairs = zip(ids, ids[1:], strict=False)
        shared = os.path.commonprefix(next(pair for pair in pairs if pair[0][7] == pair[1][7]))
        with pytest.raises(ImageNotFoundError, match="ambiguous image ID") as caught:
            store.find_by_hash(shared)
        assert caught.value.details is not None


def test_by_name_the_labels_must_fit_and_the_newest_wins(data: DataDir, tmp_path: Path) -> None:
    with Store(data) as store:
        old = store.import_aci(write_aci(tmp_path / "1.aci", document=labelled("1", env="a")))
        new = store.import_aci(write_aci(tmp_path / "2.aci", document=labelled("2", env="a")))

        def found(**labels: str) -> str | None:
            image = store.find_by_name("example.com/app", labels)
            return image.id if image else None

        assert found() == new.id
        assert found(version="1") == old.id
        assert found(env="a") == new.id
        assert found(env="b") is None
        assert store.find_by_name("example.com/other") is None


def test_removed_is_gone_and_can_come_again(data: DataDir, tmp_path: Path) -> None:
    path = write_aci(tmp_path / "a.aci")
    with Store(data) as store:
        image = store.import_aci(path)
        store.remove(image.id)
        assert store.images() == []
        assert not image.blob_path.exists()
        assert not image.manifest_path.exists()
        with pytest.raises(ImageNotFoundError):
            store.get(image.id)
        assert store.import_aci(path).blob_path.exists()


def test_use_is_noted(data: DataDir, tmp_path: Path) -> None:
    with Store(data) as store:
        image = store.import_aci(write_aci(tmp_path / "a.aci"))
        os.utime(image.manifest_path, (5, 5))
        assert store.get(image.id).last_used == 5
        store.touch(image.id)
        assert store.get(image.id).last_used > time.time() - 60


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_leaves_nothing(
    call: str, data: DataDir, tmp_path: Path, monkeypatch: Any
) -> None:
    path = write_aci(tmp_path / "a.aci")

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Store(data) as store:
        monkeypatch.setattr(call, fail)
        with pytest.raises(StoreError) as caught:
            store.import_aci(path)
        monkeypatch.undo()
        assert "No space left on device" in caught.value.causes()
        assert caught.value.hint is not None
        assert store.images() == []
        assert list((data.cas / "tmp").iterdir()) == []
        assert store.import_aci(path).name == "example.com/app"


def test_a_newer_index_is_refused(data: DataDir) -> None:
    Store(data).close()
    connection = sqlite3.connect(data.cas / "index.sqlite3")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="its version is 99"):
        Store(data)


def test_an_older_index_is_brought_up_to_date_and_kept(data: DataDir, tmp_path: Path) -> None:
    with Store(data) as store:
        image = store.import_aci(write_aci(tmp_path / "a.aci"))
    path = data.cas / "index.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE images DROP COLUMN signer")
    connection.execute("ALTER TABLE sources DROP COLUMN expires_seconds")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    before = path.read_bytes()
    with Store(data) as store:
        assert [found.id for found in store.images()] == [image.id]
        assert store.known_source("file", str(tmp_path / "a.aci")) is not None
    (backup,) = (data.cas / "index-backups").iterdir()
    assert backup.read_bytes() == before


def test_a_damaged_index_is_a_clear_error(data: DataDir) -> None:
    data.cas.mkdir(parents=True)
    (data.cas / "index.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="cannot open the image store's index"):
        Store(data)


def test_garbage(data: DataDir, tmp_path: Path) -> None:
    with Store(data) as store:
        images = [
            store.import_aci(write_aci(tmp_path / f"{n}.aci", document=labelled(str(n))))
            for n in range(3)
        ]
        for image in images[:2]:
            os.utime(image.manifest_path, (5, 5))
        tree = data.cas / "tree" / "deps-sha512-aa-1.squashfs"
        tree.touch()
        (data.cas / "tree" / "deps-sha512-bb-1.squashfs").touch()
        (data.cas / "tmp" / "blob-x").touch()
        images[0].blob_path.with_name("sha512-orphan").touch()
        (data.cas / "partial").mkdir()
        (data.cas / "partial" / "new").touch()
        (data.cas / "partial" / "old").touch()
        os.utime(data.cas / "partial" / "old", (5, 5))
        with temporary(store.data.cas, "in-use") as used:
            trees = {"deps-sha512-aa-1"}
            removed = list(collect_garbage(store, 3600 * 10**9, trees, {images[1].id}))
            assert used.exists()
    assert removed == [
        ("image", images[0].id[: 7 + 64]),
        ("tree", f"deps-{images[0].id}-1"),
        ("tree", "deps-sha512-bb-1"),
        ("temporary file", "blob-x"),
        ("partial download", "old"),
        ("orphan", "sha512-orphan"),
    ]
