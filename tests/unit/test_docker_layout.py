"""Images in OCI layouts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from docker_files import (
    OCI_INDEX,
    OCI_MANIFEST,
    DockerImage,
    digest_of,
    docker_image,
    layout_files,
    write_layout,
)

from kvmrkt.errors import ImageError, ImageNotFoundError, ManifestError
from kvmrkt.images.docker.layout import open_layout, same_image
from kvmrkt.images.docker.sources import FoundImage
from kvmrkt.images.references import OciLayoutReference


def found(path: Path, ref: str | None = None) -> FoundImage:
    with open_layout(OciLayoutReference(path, ref)) as source:
        return source.find()


def failure(path: Path, ref: str | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        found(path, ref)
    return caught.value


def reason(path: Path, ref: str | None = None) -> str:
    return ": ".join(failure(path, ref).causes())


def change_index(path: Path, *manifests: dict[str, Any], **changes: Any) -> None:
    document = json.loads((path / "index.json").read_bytes())
    document["manifests"] = list(manifests) or document["manifests"]
    (path / "index.json").write_text(json.dumps({**document, **changes}))


def descriptor(data: bytes, media_type: str = OCI_MANIFEST, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def add_blob(path: Path, data: bytes) -> None:
    (path / "blobs" / digest_of(data).replace(":", "/")).write_bytes(data)


def blob_of(path: Path, image: DockerImage, what: str) -> Path:
    digest = {
        "manifest": image.digest,
        "configuration": image.manifest["config"]["digest"],
        "layer": image.manifest["layers"][0]["digest"],
    }[what]
    return path / "blobs" / digest.replace(":", "/")


def test_the_only_image_of_a_layout_is_found_without_its_name(tmp_path: Path) -> None:
    image = docker_image()
    made = found(write_layout(tmp_path / "My App", image))
    assert [layer.digest for layer in made.layers] == [
        layer["digest"] for layer in image.manifest["layers"]
    ]
    assert made.origin.repository == "My App"
    assert made.origin.tag == "v1"
    assert made.origin.manifest_digest == image.digest
    assert made.origin.image_id == image.manifest["layers"][-1]["digest"]


def test_an_image_is_found_by_its_name(tmp_path: Path) -> None:
    write_layout(tmp_path, docker_image())
    other = docker_image(created="2020-01-01T00:00:00Z")
    files = layout_files(other, refs=("v2",))
    for name, data in files.items():
        if name.startswith("blobs/"):
            (tmp_path / name).write_bytes(data)
    first = json.loads((tmp_path / "index.json").read_bytes())["manifests"][0]
    second = json.loads(files["index.json"])["manifests"][0]
    change_index(tmp_path, first, second)
    assert found(tmp_path, "v2").config.created == "2020-01-01T00:00:00Z"
    assert found(tmp_path, "v1").config.created == ""
    error = failure(tmp_path)
    assert "has several images" in error.message
    assert (error.details or "").splitlines() == ["v1", "v2"]


def test_an_unknown_name_says_which_there_are(tmp_path: Path) -> None:
    error = failure(write_layout(tmp_path, docker_image(), refs=("v1", "v2")), "v3")
    assert isinstance(error, ImageNotFoundError)
    assert (error.details or "").splitlines() == ["v1", "v2"]


def test_an_image_without_a_name_is_found(tmp_path: Path) -> None:
    made = found(write_layout(tmp_path, docker_image(), refs=()))
    assert made.origin.tag == ""


@pytest.mark.parametrize(
    ("ref", "tag"),
    [
        ("v1", "v1"),
        ("app:1.2", "1.2"),
        ("quay.example:5000/app", ""),
        ("quay.example/a/app:2", "2"),
    ],
)
def test_a_name_that_holds_a_tag_gives_the_version(tmp_path: Path, ref: str, tag: str) -> None:
    assert found(write_layout(tmp_path, docker_image(), refs=(ref,))).origin.tag == tag


def test_an_index_in_the_index_leads_to_this_hosts_image(tmp_path: Path) -> None:
    image = docker_image()
    write_layout(tmp_path, image)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    other = descriptor(b"absent", platform={"os": "plan9", "architecture": "mips"})
    mine = descriptor(image.manifest_bytes, platform={"os": "linux", "architecture": machine})
    inner = json.dumps({"schemaVersion": 2, "manifests": [other, mine]}).encode()
    add_blob(tmp_path, inner)
    change_index(tmp_path, descriptor(inner, OCI_INDEX))
    assert found(tmp_path).origin.manifest_digest == image.digest


def test_manifests_of_several_platforms_right_in_the_index_are_one_image(tmp_path: Path) -> None:
    image = docker_image()
    write_layout(tmp_path, image)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    other = descriptor(b"absent", platform={"os": "plan9", "architecture": "mips"})
    mine = descriptor(image.manifest_bytes, platform={"os": "linux", "architecture": machine})
    change_index(tmp_path, other, mine)
    assert found(tmp_path).origin.manifest_digest == image.digest


def test_an_image_for_other_platforms_only_is_not_available(tmp_path: Path) -> None:
    write_layout(tmp_path, docker_image())
    other = descriptor(b"absent", platform={"os": "plan9", "architecture": "mips"})
    inner = json.dumps({"schemaVersion": 2, "manifests": [other]}).encode()
    add_blob(tmp_path, inner)
    change_index(tmp_path, descriptor(inner, OCI_INDEX))
    assert "it is not available for linux/" in reason(tmp_path)


def test_indexes_that_lead_on_and_on_are_given_up(tmp_path: Path) -> None:
    write_layout(tmp_path, docker_image())
    inner = docker_image().manifest_bytes
    media_type = OCI_MANIFEST
    for _ in range(5):
        inner = json.dumps(
            {"schemaVersion": 2, "manifests": [descriptor(inner, media_type)]}
        ).encode()
        media_type = OCI_INDEX
        add_blob(tmp_path, inner)
    change_index(tmp_path, descriptor(inner, OCI_INDEX))
    assert "more than 3 indexes" in reason(tmp_path)


@pytest.mark.parametrize("what", ["manifest", "configuration"])
def test_a_document_that_is_not_what_its_digest_says_is_refused(tmp_path: Path, what: str) -> None:
    image = docker_image()
    blob = blob_of(write_layout(tmp_path, image), image, what)
    blob.write_bytes(blob.read_bytes() + b" ")
    assert f"its {what} is not what it should be" in reason(tmp_path)


@pytest.mark.parametrize("what", ["manifest", "configuration"])
def test_a_document_that_is_missing_is_named(tmp_path: Path, what: str) -> None:
    image = docker_image()
    blob = blob_of(write_layout(tmp_path, image), image, what)
    blob.unlink()
    assert f"blobs/sha256/{blob.name}': no such file" in reason(tmp_path)


def test_a_symbolic_link_to_a_file_elsewhere_is_not_followed(tmp_path: Path) -> None:
    image = docker_image()
    path = write_layout(tmp_path / "layout", image)
    blob = blob_of(path, image, "configuration")
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    assert "a symbolic link is in the way" in reason(path)


def test_a_symbolic_link_to_a_folder_elsewhere_is_not_followed(tmp_path: Path) -> None:
    path = write_layout(tmp_path / "layout", docker_image())
    (path / "blobs").rename(tmp_path / "blobs")
    (path / "blobs").symlink_to(tmp_path / "blobs")
    assert "a symbolic link is in the way" in reason(path)


def test_the_layout_itself_may_be_named_by_a_link(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", docker_image())
    (tmp_path / "link").symlink_to("layout")
    assert found(tmp_path / "link").origin.repository == "layout"


def test_a_fifo_instead_of_a_blob_does_not_hang(tmp_path: Path) -> None:
    image = docker_image()
    blob = blob_of(write_layout(tmp_path, image), image, "manifest")
    blob.unlink()
    os.mkfifo(blob)
    assert "is no regular file" in reason(tmp_path)


def test_a_folder_instead_of_the_index_is_refused(tmp_path: Path) -> None:
    write_layout(tmp_path, docker_image())
    (tmp_path / "index.json").unlink()
    (tmp_path / "index.json").mkdir()
    assert "is no regular file" in reason(tmp_path)


def test_a_huge_document_is_not_read(tmp_path: Path) -> None:
    write_layout(tmp_path, docker_image())
    with (tmp_path / "index.json").open("r+b") as file:
        file.truncate(1 << 40)
    assert "'index.json' has 1099511627776 bytes; the limit is" in reason(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"imageLayoutVersion": "2.0.0"}', "imageLayoutVersion: '2.0.0'"),
        ("{}", "imageLayoutVersion: is required"),
        ("", "not valid JSON"),
    ],
)
def test_a_layout_of_another_version_is_refused(
    tmp_path: Path, content: str, expected: str
) -> None:
    write_layout(tmp_path, docker_image())
    (tmp_path / "oci-layout").write_text(content)
    assert expected in reason(tmp_path)


def test_a_manifest_instead_of_the_index_is_refused(tmp_path: Path) -> None:
    image = docker_image()
    write_layout(tmp_path, image)
    (tmp_path / "index.json").write_bytes(image.manifest_bytes)
    assert "its index is a manifest" in reason(tmp_path)


def test_a_configuration_with_other_layers_than_the_manifest_is_refused(tmp_path: Path) -> None:
    image = docker_image(rootfs={"type": "layers", "diff_ids": []})
    error = failure(write_layout(tmp_path, image))
    assert isinstance(error, ManifestError)
    assert "rootfs.diff_ids: 0 digests for 2 layers" in ": ".join(error.causes())


def test_a_layout_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    error = failure(tmp_path / "absent")
    assert isinstance(error, ImageNotFoundError)
    assert error.message == f"open {tmp_path}/absent: no such file or directory"


def test_a_file_instead_of_a_layout_gets_advice(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = failure(tmp_path / "file")
    assert error.hint == f"for a file: docker-archive:{tmp_path}/file"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("app", "app:latest", True),
        ("docker.io/library/app:1", "app:1", True),
        ("index.docker.io/org/app", "org/app:latest", True),
        ("app:1", "app:2", False),
        ("quay.example/app", "app", False),
        ("localhost:5000/app", "localhost:5000/app:latest", True),
    ],
)
def test_names_are_compared_as_docker_completes_them(one: str, other: str, same: bool) -> None:
    assert same_image(one, other) is same
