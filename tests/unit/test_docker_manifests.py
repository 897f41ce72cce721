"""The documents of Docker and OCI images."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from docker_files import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, docker_image
from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.errors import ImageError, ManifestError
from kvmrkt.images.docker.manifests import (
    Descriptor,
    Index,
    Manifest,
    Platform,
    check_layers,
    parse_config,
    parse_document,
)
from kvmrkt.images.docker.platforms import appc_labels, choose, host_platform

DIGEST = "sha256:" + "a" * 64
AMD64 = Platform("amd64", "linux")


def manifest(**changes: Any) -> bytes:
    document = {**docker_image().manifest, **changes}
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def manifest_with_layer(**changes: Any) -> bytes:
    layers = docker_image().manifest["layers"]
    return manifest(layers=[layers[0], {**layers[1], **changes}])


def index(*platforms: dict[str, str] | None, **changes: Any) -> bytes:
    manifests = [
        {"mediaType": OCI_MANIFEST, "digest": DIGEST, "size": number, "platform": platform}
        for number, platform in enumerate(platforms)
    ]
    return json.dumps({"schemaVersion": 2, "manifests": manifests, **changes}).encode()


def platforms(*names: str) -> Index:
    found = []
    for number, name in enumerate(names):
        os_name, arch, variant = (name + "//").split("/")[:3]
        platform = Platform(arch, os_name, variant) if name else None
        found.append(Descriptor(DIGEST, number, OCI_MANIFEST, platform))
    return Index(found)


@pytest.mark.parametrize("docker", [True, False])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_a_manifest_gives_its_configuration_and_layers(docker: bool, compression: str) -> None:
    image = docker_image(docker=docker, compression=compression)
    parsed = parse_document(image.manifest_bytes, image.manifest["mediaType"])
    assert isinstance(parsed, Manifest)
    assert parsed.config.digest == image.manifest["config"]["digest"]
    assert [layer.size for layer in parsed.layers] == [
        layer["size"] for layer in image.manifest["layers"]
    ]


@pytest.mark.parametrize("media_type", ["", OCI_INDEX, DOCKER_LIST, f"{OCI_INDEX}; charset=utf-8"])
def test_an_index_gives_its_manifests(media_type: str) -> None:
    parsed = parse_document(index({"os": "linux", "architecture": "amd64"}), media_type)
    assert isinstance(parsed, Index)
    assert parsed.manifests[0].platform == AMD64


def test_a_document_without_a_media_type_is_known_by_its_fields() -> None:
    assert isinstance(parse_document(manifest(mediaType=None)), Manifest)


@pytest.mark.parametrize(
    "document",
    [
        b'{"schemaVersion": 1, "name": "a", "fsLayers": [], "history": [], "signatures": []}',
        b'{"schemaVersion": 1}',
        b'{"schemaVersion": 2, "fsLayers": []}',
    ],
)
def test_schema_1_is_refused_by_name(document: bytes) -> None:
    with pytest.raises(ImageError, match="schema 1") as caught:
        parse_document(document)
    assert "push the image again" in (caught.value.hint or "")


def test_schema_1_is_known_by_its_media_type_too() -> None:
    with pytest.raises(ImageError, match="schema 1"):
        parse_document(b"{}", "application/vnd.docker.distribution.manifest.v1+prettyjws")


@pytest.mark.parametrize(
    ("document", "media_type", "reason"),
    [
        (b"[]", "", "the manifest: expected `object`"),
        (b"{", "", "not valid JSON"),
        (b"{}", "", "config: is required"),
        (b"{" + b" " * (1 << 20) + b"}", "", "the limit is"),
        (b'{"a":' * 100_000, "", "nested too deep|not valid JSON"),
        (manifest(schemaVersion=3), "", "schemaVersion: 3"),
        (manifest(manifests=[]), "", "an index may not have the fields of a manifest"),
        (index(config={}), "", "an index may not have the fields of a manifest"),
        (manifest(), OCI_INDEX, "does not fit what the document is, a manifest"),
        (manifest(mediaType=DOCKER_LIST), "", "does not fit what the document is, a manifest"),
        (index(None), DOCKER_MANIFEST, "does not fit what the document is, an index"),
        (index(None, mediaType=OCI_MANIFEST), OCI_INDEX, "does not fit"),
        (manifest(layers="all"), "", "layers: expected `array`"),
        (manifest(layers=[{"digest": DIGEST, "size": 1}] * 1001), "", "more than 1000"),
        (manifest_with_layer(digest="sha256:abc"), "", r"layers\[1\].digest: 'sha256:abc'"),
        (manifest_with_layer(digest="md5:" + "a" * 32), "", r"layers\[1\].digest"),
        (manifest_with_layer(digest="sha256:../" + "a" * 61), "", r"layers\[1\].digest"),
        (manifest_with_layer(digest="sha256:" + "A" * 64), "", r"layers\[1\].digest"),
        (manifest_with_layer(size=-1), "", r"layers\[1\].size: -1 is no size"),
        (manifest_with_layer(size="1"), "", r"layers\[1\].size: expected `int`"),
        (manifest_with_layer(size=2**70), "", "is no size"),
        (manifest_with_layer(mediaType="text/plain"), "", "no layer of files"),
        (index(*[None] * 10_001), "", "more than 10000|the limit is"),
    ],
)
def test_a_wrong_document_is_refused_and_the_field_named(
    document: bytes, media_type: str, reason: str
) -> None:
    with pytest.raises(ManifestError, match=reason):
        parse_document(document, media_type)


def test_a_document_of_another_kind_than_an_image_is_called_an_artifact() -> None:
    config = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": DIGEST, "size": 1}
    with pytest.raises(ImageError, match=r"artifact \(application/vnd.cncf.helm"):
        parse_document(manifest(config=config))


@pytest.mark.parametrize(
    ("media_type", "reason"),
    [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "may not be distributed"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "may not be distributed"),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "is encrypted"),
    ],
)
def test_a_layer_that_cannot_be_had_is_refused(media_type: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        parse_document(manifest_with_layer(mediaType=media_type))


def test_a_configuration_too_big_to_read_is_refused_before_it_is_fetched() -> None:
    config = {**docker_image().manifest["config"], "size": 1 << 30}
    with pytest.raises(ManifestError, match="config.size: 1073741824 bytes"):
        parse_document(manifest(config=config))


def test_null_counts_as_absent_in_a_configuration() -> None:
    config = parse_config(
        b'{"architecture": "amd64", "os": "linux", "config":'
        b' {"Entrypoint": null, "Cmd": null, "Volumes": null, "Labels": null, "Env": null}}'
    )
    assert config.config is not None
    assert config.config.volumes == {}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b'{"rootfs": {"type": "zip"}}', "rootfs.type: 'zip'"),
        (b'{"rootfs": {"type": "layers", "diff_ids": ["x"]}}', r"rootfs.diff_ids\[0\]: 'x'"),
        (b'{"config": {"Env": "PATH"}}', "config.Env: expected `array`"),
        (b'{"config": {"Env": [1]}}', r"config.Env\[0\]: expected `str`"),
        (b'{"config": {"Labels": {"a": 1}}}', "config.Labels"),
        (b'{"architecture": ["amd64"]}', "architecture: expected `str`"),
        (b"\xff", "not valid JSON|not UTF-8"),
    ],
)
def test_a_wrong_configuration_is_refused_and_the_field_named(document: bytes, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        parse_config(document)


def test_a_configuration_must_know_as_many_layers_as_the_manifest() -> None:
    config = parse_config(json.dumps(docker_image().config).encode())
    check_layers(config, 2)
    with pytest.raises(ManifestError, match="2 digests for 3 layers"):
        check_layers(config, 3)


@pytest.mark.parametrize(
    ("offered", "machine", "chosen"),
    [
        (("linux/arm64/v8", "linux/amd64", "linux/386"), "x86_64", 1),
        (("linux/arm64/v8", "linux/amd64"), "aarch64", 0),
        (("linux/arm64",), "aarch64", 0),
        (("windows/amd64", "linux/amd64"), "x86_64", 1),
        (("linux/amd64", "linux/amd64"), "x86_64", 0),
        (("linux/amd64/v3", "linux/amd64"), "x86_64", 1),
        (("linux/amd64/v2", "linux/amd64/v1"), "x86_64", 1),
        (("linux/arm/v5", "linux/arm/v6", "linux/arm/v7"), "armv6l", 1),
        (("linux/arm/v5", "linux/arm/v6", "linux/arm/v7"), "armv7l", 2),
        (("linux/arm/v5",), "armv7l", 0),
        (("unknown/unknown", "linux/amd64"), "x86_64", 1),
        (("linux/arm64", ""), "x86_64", 1),
        (("linux/riscv64",), "riscv64", 0),
    ],
)
def test_the_manifest_for_this_host_is_chosen(
    offered: tuple[str, ...], machine: str, chosen: int
) -> None:
    assert choose(platforms(*offered), host_platform(machine)).size == chosen


@pytest.mark.parametrize("offered", [("linux/arm64", "windows/amd64"), ("linux/amd64/v3",), ()])
def test_an_image_for_other_platforms_only_is_not_available(offered: tuple[str, ...]) -> None:
    with pytest.raises(ImageError, match="not available for linux/amd64") as caught:
        choose(platforms(*offered), AMD64)
    assert all(name in (caught.value.details or "") for name in offered)


@pytest.mark.parametrize(
    ("platform", "labels"),
    [
        (Platform("amd64", "linux"), ("linux", "amd64")),
        (Platform("arm64", "linux", "v8"), ("linux", "aarch64")),
        (Platform("386", "linux"), ("linux", "i386")),
        (Platform("arm", "linux", "v7"), ("linux", "armv7l")),
        (Platform("arm", "linux", "v6"), ("linux", "armv6l")),
        (Platform("arm", "linux"), ("linux", "armv6l")),
        (Platform("amd64", "freebsd"), ("freebsd", "amd64")),
        (Platform("amd64", "darwin"), ("darwin", "x86_64")),
    ],
)
def test_platforms_have_the_names_of_the_specification(
    platform: Platform, labels: tuple[str, str]
) -> None:
    assert appc_labels(platform) == labels


def test_a_platform_the_specification_has_no_name_for_is_refused() -> None:
    with pytest.raises(ManifestError, match="windows/amd64"):
        appc_labels(Platform("amd64", "windows"))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(DIGEST),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["digest", "size", "mediaType", "platform", "rootfs", "diff_ids", "Env"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)
_DOCUMENT = st.dictionaries(
    st.sampled_from(["schemaVersion", "mediaType", "manifests", "config", "layers", "rootfs"]),
    _JSON,
)


@given(_DOCUMENT, st.sampled_from(["", OCI_INDEX, OCI_MANIFEST, "text/plain"]))
def test_no_document_raises_anything_but_an_image_error(
    document: dict[str, Any], media_type: str
) -> None:
    data = json.dumps(document).encode()
    with contextlib.suppress(ImageError):
        parse_document(data, media_type)
    with contextlib.suppress(ImageError):
        parse_config(data)
