"""From a reference to an image, without a network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from aci_files import manifest, write_aci

from kvmrkt.config import InsecureOptions
from kvmrkt.errors import (
    ArchiveError,
    ImageNotFoundError,
    SignatureError,
    UsageError,
)
from kvmrkt.images.find import find_image, find_in_store
from kvmrkt.images.policy import FetchPolicy
from kvmrkt.images.store import Store
from kvmrkt.paths import DataDir

SECURE = FetchPolicy(pull="never")
NO_SIGNATURE = FetchPolicy(insecure=InsecureOptions(image=True), pull="never")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(DataDir(tmp_path / "data")) as opened:
        yield opened


def test_an_unsigned_file_is_refused_before_it_is_read(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "garbage.aci"
    path.write_bytes(b"garbage")
    with pytest.raises(SignatureError, match=r"open .*/garbage\.aci\.asc: no such file") as caught:
        find_image(store, str(path), SECURE)
    assert "--insecure-options=image" in (caught.value.hint or "")
    (tmp_path / "garbage.aci.asc").write_bytes(b"")
    with pytest.raises(SignatureError, match="no key is trusted"):
        find_image(store, str(path), SECURE)
    with pytest.raises(ArchiveError):
        find_image(store, str(path), NO_SIGNATURE)


def test_a_file_that_the_store_has_is_refused_all_the_same(store: Store, tmp_path: Path) -> None:
    path = write_aci(tmp_path / "a.aci")
    image = find_image(store, str(path), NO_SIGNATURE)
    with pytest.raises(SignatureError):
        find_image(store, str(path), SECURE)
    assert find_image(store, image.id[:20], SECURE).id == image.id


def test_a_missing_file(store: Store, tmp_path: Path) -> None:
    for policy in (SECURE, NO_SIGNATURE):
        with pytest.raises(ImageNotFoundError, match=r"^open /nowhere\.aci: no such file"):
            find_image(store, "/nowhere.aci", policy)
    with pytest.raises(ImageNotFoundError, match="is a directory"):
        find_image(store, str(tmp_path), NO_SIGNATURE)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ArchiveError, match="it is no file"):
        find_image(store, str(tmp_path / "fifo"), NO_SIGNATURE)


def test_a_name(store: Store, tmp_path: Path) -> None:
    image = store.import_aci(write_aci(tmp_path / "a.aci"))
    assert find_image(store, "example.com/app:1.0", SECURE).id == image.id
    with pytest.raises(ImageNotFoundError, match="either image was not found in the store or"):
        find_image(store, "example.com/app:2", SECURE)


def test_arguments_of_image_commands(store: Store, tmp_path: Path) -> None:
    image = store.import_aci(write_aci(tmp_path / "a.aci"))
    assert find_in_store(store, "example.com/app").id == image.id
    assert find_in_store(store, image.id[:19]).id == image.id
    with pytest.raises(ImageNotFoundError, match="no image IDs found"):
        find_in_store(store, "example.com/other")
    with pytest.raises(UsageError):
        find_in_store(store, "/a/b.aci")


def test_never_means_never(store: Store) -> None:
    with pytest.raises(ImageNotFoundError, match="store was disabled"):
        find_image(store, "https://example.com/a.aci", NO_SIGNATURE)
    with pytest.raises(ImageNotFoundError, match="store was disabled"):
        find_image(store, "docker://example.com/a", NO_SIGNATURE)


def test_docker_images_cannot_be_verified(store: Store) -> None:
    with pytest.raises(SignatureError, match="for docker images is not supported"):
        find_image(store, "docker://example.com/a", SECURE)


def test_a_dependency_that_is_nowhere_is_named_with_its_parent(
    store: Store, tmp_path: Path
) -> None:
    document = manifest(dependencies=[{"imageName": "example.com/base"}])
    path = write_aci(tmp_path / "a.aci", document=document)
    with pytest.raises(ImageNotFoundError, match='which "example.com/app" depends on'):
        find_image(store, str(path), NO_SIGNATURE)
    store.import_aci(write_aci(tmp_path / "b.aci", document=manifest(name="example.com/base")))
    assert find_image(store, str(path), NO_SIGNATURE).name == "example.com/app"
