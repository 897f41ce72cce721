"""Images in archives as docker saves them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from aci_files import archive as aci
from aci_files import entry, link
from docker_files import (
    digest_of,
    docker_image,
    layout_files,
    saved_files,
    small_layers,
    tar_of,
)

from kvmrkt.errors import ArchiveError, ImageError, ImageNotFoundError
from kvmrkt.images.docker.archive import open_archive
from kvmrkt.images.docker.sources import FoundImage
from kvmrkt.images.references import DockerArchiveReference
from kvmrkt.images.store import Store
from kvmrkt.images.tar import Limits
from kvmrkt.paths import DataDir

LAYERS = small_layers()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(DataDir(tmp_path / "data"), limits=Limits(expanded_bytes=1 << 20)) as opened:
        yield opened


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "saved.tar"
    path.write_bytes(data)
    return path


def saved(**options: Any) -> dict[str, bytes]:
    return saved_files(docker_image(LAYERS), LAYERS, **options)


def contents(store: Store, path: Path, ref: str | None = None) -> tuple[FoundImage, list[bytes]]:
    with open_archive(store, DockerArchiveReference(path, ref)) as source:
        image = source.find()
        tars = []
        for layer in image.layers:
            with source.open_layer(layer) as stream:
                tars.append(stream.read(1 << 20))
        return image, tars


def failure(store: Store, path: Path, ref: str | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        contents(store, path, ref)
    assert not list((store.data.cas / "tmp").glob("*"))
    return caught.value


def reason(store: Store, path: Path, ref: str | None = None) -> str:
    return ": ".join(failure(store, path, ref).causes())


def with_manifest(rows: Any, **files: bytes) -> bytes:
    data = json.dumps(rows).encode()
    return tar_of({**saved(), "manifest.json": data, **files})


def row(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(saved()["manifest.json"])[0]
    return {**document, **changes}


def test_a_saved_image_is_found(tmp_path: Path, store: Store) -> None:
    image, tars = contents(store, write(tmp_path, tar_of(saved())))
    assert tars == LAYERS
    assert image.config.rootfs.diff_ids == [digest_of(data) for data in LAYERS]
    assert (image.origin.repository, image.origin.tag) == ("app", "v1")
    assert image.origin.original_name == "app:v1"


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, bz2.compress, lzma.compress, zstandard.compress],
    ids=["gzip", "bzip2", "xz", "zstd"],
)
def test_a_compressed_archive_is_read_too(tmp_path: Path, store: Store, compress: Any) -> None:
    assert contents(store, write(tmp_path, compress(tar_of(saved()))))[1] == LAYERS
    assert not list((store.data.cas / "tmp").glob("*"))


def test_a_compressed_archive_larger_than_allowed_is_refused(tmp_path: Path, store: Store) -> None:
    path = write(tmp_path, gzip.compress(bytes(2 << 20)))
    assert "larger than 1048576 bytes, unpacked" in reason(store, path)


def test_layers_may_be_links_to_those_of_other_images(tmp_path: Path, store: Store) -> None:
    files = saved()
    names = json.loads(files["manifest.json"])[0]["Layers"]
    data = files.pop(names[0])
    files["aaaa/layer.tar"] = data
    path = write(tmp_path, tar_of(files, link(names[0], "../aaaa/layer.tar")))
    assert contents(store, path)[1] == LAYERS
    path = write(tmp_path, tar_of(files, link(names[0], "aaaa/layer.tar", tarfile.LNKTYPE)))
    assert contents(store, path)[1] == LAYERS


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/passwd", "layer.tar", "absent"])
def test_links_lead_to_members_of_the_archive_only(
    tmp_path: Path, store: Store, target: str
) -> None:
    files = saved()
    name = json.loads(files["manifest.json"])[0]["Layers"][0]
    del files[name]
    assert "is not in the archive" in reason(
        store, write(tmp_path, tar_of(files, link(name, target)))
    )


@pytest.mark.parametrize(
    ("tags", "ref", "version"),
    [
        (("app:v1", "app:v2"), None, "v1"),
        (("app:v1", "app:v2"), "app:v2", "v2"),
        (("app:latest",), "app", "latest"),
        (("docker.io/library/app:v1",), "app:v1", "v1"),
    ],
)
def test_an_image_is_found_by_any_of_its_names(
    tmp_path: Path, store: Store, tags: tuple[str, ...], ref: str | None, version: str
) -> None:
    image, _ = contents(store, write(tmp_path, tar_of(saved(tags=tags))), ref)
    assert (image.origin.repository, image.origin.tag) == ("app", version)


def test_an_image_without_a_name_is_named_by_its_file(tmp_path: Path, store: Store) -> None:
    image, _ = contents(store, write(tmp_path, with_manifest([row(RepoTags=None)])))
    assert (image.origin.repository, image.origin.tag) == ("saved", "")


def test_a_name_that_is_not_there_says_which_are(tmp_path: Path, store: Store) -> None:
    error = failure(store, write(tmp_path, tar_of(saved())), "other:v1")
    assert isinstance(error, ImageNotFoundError)
    assert error.details == "app:v1"


def test_of_several_images_one_must_be_named(tmp_path: Path, store: Store) -> None:
    path = write(tmp_path, with_manifest([row(), row(RepoTags=["other:v1"])]))
    error = failure(store, path)
    assert error.details == "app:v1\nother:v1"
    assert contents(store, path, "other:v1")[0].origin.repository == "other"


def test_a_layout_in_a_tar_is_found(tmp_path: Path, store: Store) -> None:
    image = docker_image(LAYERS, compression="none")
    made, tars = contents(store, write(tmp_path, tar_of(layout_files(image))))
    assert tars == LAYERS
    assert made.origin.repository == "saved"


def test_docker_25_saves_both_forms_and_the_names_come_from_docker(
    tmp_path: Path, store: Store
) -> None:
    image = docker_image(LAYERS, compression="none")
    config = image.manifest["config"]["digest"].replace(":", "/")
    layers = [layer["digest"].replace(":", "/") for layer in image.manifest["layers"]]
    saved_as = [
        {
            "Config": f"blobs/{config}",
            "RepoTags": ["app:v9"],
            "Layers": [f"blobs/{layer}" for layer in layers],
        }
    ]
    files = {**layout_files(image), "manifest.json": json.dumps(saved_as).encode()}
    made, tars = contents(store, write(tmp_path, tar_of(files)))
    assert tars == LAYERS
    assert made.origin.tag == "v9"
    assert [layer.digest for layer in made.layers] == [
        layer["digest"] for layer in image.manifest["layers"]
    ]


def test_a_configuration_that_is_not_what_its_name_says_is_refused(
    tmp_path: Path, store: Store
) -> None:
    files = saved()
    name = json.loads(files["manifest.json"])[0]["Config"]
    files[name] += b" "
    path = write(tmp_path, tar_of(files))
    assert "its configuration is not what it should be" in reason(store, path)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "the file is empty"),
        (b"no archive at all" * 100, "this is no tar archive"),
        (tar_of(saved())[:2000], "truncated"),
        (gzip.compress(tar_of(saved()))[:200], "truncated"),
        (tar_of({"a": b"b"}), "neither manifest.json nor oci-layout"),
        (aci(), "neither manifest.json nor oci-layout"),
        (tar_of(saved(), entry("manifest.json", b"[]")), "'manifest.json' is there twice"),
        (with_manifest({}), "expected `array`"),
        (with_manifest([]), "is not there"),
        (with_manifest([{}]), "[0].Config: is required"),
        (with_manifest([row(Layers=[1])]), "[0].Layers[0]: expected `str`"),
        (with_manifest([row(Layers=[])]), "2 digests for 0 layers"),
        (with_manifest([row(Layers=["a"] * 1001)]), "are more than 1000"),
        (with_manifest([row(Layers=["a", "b"])]), "'a' is not in the archive"),
        (with_manifest([row(Layers=["../../etc/passwd", "b"])]), "is not in the archive"),
        (with_manifest([row(Layers=["a\0\x1b[31m", "b"])]), r"'a\x00\x1b[31m' is not in"),
        (with_manifest([row(Config="absent")]), "'absent' is not in the archive"),
        (tar_of({"a": b""}, entry("manifest.json", b"", type=tarfile.FIFOTYPE)), "no regular file"),
    ],
)
def test_a_wrong_archive_is_refused(
    tmp_path: Path, store: Store, data: bytes, expected: str
) -> None:
    assert expected in reason(store, write(tmp_path, data))


def test_an_app_container_image_gets_advice(tmp_path: Path, store: Store) -> None:
    error = failure(store, write(tmp_path, aci()))
    assert isinstance(error, ArchiveError)
    assert "give its path" in (error.hint or "")


def test_an_archive_that_is_not_there_is_not_found(tmp_path: Path, store: Store) -> None:
    error = failure(store, tmp_path / "absent")
    assert isinstance(error, ImageNotFoundError)
    assert error.message == f"open {tmp_path}/absent: no such file or directory"


def test_a_folder_instead_of_an_archive_is_not_found(tmp_path: Path, store: Store) -> None:
    assert "is a directory" in reason(store, tmp_path)
