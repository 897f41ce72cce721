"""Images from a real docker registry, pushed there by skopeo."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from registry import (
    PASSWORD,
    USER,
    Fetcher,
    Registry,
    content,
    listing,
    run,
    running_registry,
    umoci_layout,
)

from docker_files import (  # isort: skip
    OCI_MANIFEST,
    digest_of,
    docker_image,
    layout_files,
    write_layout,
)

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return umoci_layout(tmp_path_factory.mktemp("layout"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[Registry]:
    """A registry without TLS and without a login that holds app:v1."""
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        running.push(f"oci:{layout}:v1", "app:v1")
        yield running


@pytest.fixture(scope="module")
def closed_registry(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[Registry]:
    """A registry with TLS that wants a login and holds app:v1."""
    folder = tmp_path_factory.mktemp("closed")
    with running_registry(folder, login=True, tls=True) as running:
        running.push(f"oci:{layout}:v1", "app:v1")
        yield running


@pytest.fixture
def kvmrkt(tmp_path: Path) -> Fetcher:
    """May use registries without TLS."""
    return Fetcher(tmp_path, insecure="image,http")


@pytest.fixture
def trusting(tmp_path: Path, closed_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Fetcher:
    """Must have TLS, and trusts the closed registry's authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(closed_registry.authority))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    return Fetcher(tmp_path)


def log_in(kvmrkt: Fetcher, registry: Registry, password: str = PASSWORD) -> None:
    folder = kvmrkt.config / "auth.d"
    folder.mkdir(parents=True)
    document = {
        "rktKind": "dockerAuth",
        "rktVersion": "v1",
        "registries": [registry.host],
        "credentials": {"user": USER, "password": password},
    }
    (folder / "registry.json").write_text(json.dumps(document))


def refused(done: subprocess.CompletedProcess[str], kvmrkt: Fetcher) -> str:
    """The message of a command that failed as it should, leaving nothing behind."""
    assert done.returncode == 254
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert kvmrkt.leftovers() == []
    return done.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ("--format=v2s2",),
        ("--format=oci",),
        ("--format=oci", "--dest-compress-format=zstd"),
    ],
    ids=["docker", "oci", "zstd"],
)
def test_an_image_of_every_format_is_fetched(
    registry: Registry, layout: Path, kvmrkt: Fetcher, flags: tuple[str, ...]
) -> None:
    name = "formats/" + "-".join(flags).replace("=", ".").strip("-")
    registry.push(f"oci:{layout}:v1", f"{name}:v1", *flags)
    kvmrkt.fetch(f"docker://{registry.host}/{name}:v1")
    assert content(kvmrkt.tree(), "bin/app") == "two"
    assert content(kvmrkt.tree(), "bin/other") == "other"
    assert kvmrkt.leftovers() == []


def test_the_manifest_is_made_of_the_configuration(registry: Registry, kvmrkt: Fetcher) -> None:
    manifest = kvmrkt.manifest(kvmrkt.fetch(f"docker://{registry.host}/app:v1"))
    app = manifest["app"]
    assert manifest["name"] == f"127.0.0.1_{registry.port}/app"
    assert app["exec"] == ["/bin/app", "serve"]
    assert (app["user"], app["group"], app["workingDirectory"]) == ("7", "8", "/srv")
    assert {"name": "COLOUR", "value": "blue"} in app["environment"]
    assert app["ports"] == [{"name": "80-tcp", "protocol": "tcp", "port": 80}]
    assert app["mountPoints"] == [{"name": "volume-data", "path": "/data"}]
    assert app["userLabels"] == {"who": "us"}
    assert {"name": "author", "value": "Somebody"} in manifest["annotations"]


def test_an_image_is_fetched_by_its_digest(registry: Registry, kvmrkt: Fetcher) -> None:
    digest = run(
        "skopeo", "inspect", "--tls-verify=false", "--format={{.Digest}}",
        f"docker://{registry.host}/app:v1",
    ).strip()  # fmt: skip
    manifest = kvmrkt.manifest(kvmrkt.fetch(f"docker://{registry.host}/app@{digest}"))
    annotations = {item["name"]: item["value"] for item in manifest["annotations"]}
    assert annotations["appc.io/docker/manifesthash"] == digest


def test_of_a_manifest_list_this_hosts_image_is_fetched(
    registry: Registry, kvmrkt: Fetcher, tmp_path: Path
) -> None:
    images = {
        arch: docker_image(architecture=arch, author=arch) for arch in ("amd64", "arm64", "s390x")
    }
    folder = write_layout(tmp_path / "many", images["amd64"])
    for image in images.values():
        for name, data in layout_files(image).items():
            if name.startswith("blobs/"):
                (folder / name).write_bytes(data)
    manifests = [
        {
            "mediaType": OCI_MANIFEST,
            "digest": image.digest,
            "size": len(image.manifest_bytes),
            "platform": {"os": "linux", "architecture": arch},
        }
        for arch, image in images.items()
    ]
    inner = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    (folder / "blobs" / digest_of(inner).replace(":", "/")).write_bytes(inner)
    described = {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": digest_of(inner),
        "size": len(inner),
        "annotations": {"org.opencontainers.image.ref.name": "v1"},
    }
    index = {"schemaVersion": 2, "manifests": [described]}
    (folder / "index.json").write_text(json.dumps(index))
    registry.push(f"oci:{folder}:v1", "many:v1", "--all", "--format=v2s2")
    manifest = kvmrkt.manifest(kvmrkt.fetch(f"docker://{registry.host}/many:v1"))
    labels = {label["name"]: label["value"] for label in manifest["labels"]}
    machine = os.uname().machine
    assert labels["arch"] == {"x86_64": "amd64"}.get(machine, machine)


def test_the_store_answers_when_the_registry_is_gone(
    tmp_path: Path, layout: Path, kvmrkt: Fetcher
) -> None:
    folder = tmp_path / "registry"
    folder.mkdir()
    with running_registry(folder) as registry:
        registry.push(f"oci:{layout}:v1", "app:v1")
        reference = f"docker://{registry.host}/app:v1"
        image = kvmrkt.fetch(reference)
    assert kvmrkt.fetch(reference, "--pull-policy=new") == image
    assert kvmrkt.fetch(reference, "--pull-policy=never") == image
    message = refused(kvmrkt("fetch", "--pull-policy=update", reference), kvmrkt)
    assert f"cannot reach registry {registry.host}" in message


def test_an_update_fetches_what_has_changed_only(
    tmp_path: Path, layout: Path, kvmrkt: Fetcher
) -> None:
    other = write_layout(tmp_path / "other", docker_image())
    folder = tmp_path / "registry"
    folder.mkdir()
    with running_registry(folder) as registry:
        reference = f"docker://{registry.host}/app:v1"
        registry.push(f"oci:{layout}:v1", "app:v1")
        first = kvmrkt.fetch(reference)
        assert kvmrkt.fetch(reference, "--pull-policy=update") == first
        registry.push(f"oci:{other}:v1", "app:v1")
        assert kvmrkt.fetch(reference, "--pull-policy=new") == first
        assert kvmrkt.fetch(reference, "--pull-policy=update") != first
    blobs = [line for line in registry.log if '"GET /v2/app/blobs/' in line]
    assert blobs
    layers = {layer["digest"] for layer in docker_image().manifest["layers"]}
    for digest in layers:
        assert len([line for line in blobs if digest in line]) == 1


def test_two_fetches_of_one_image_at_once_are_one_download(tmp_path: Path, kvmrkt: Fetcher) -> None:
    image = docker_image()
    layout = write_layout(tmp_path / "layout", image)
    folder = tmp_path / "registry"
    folder.mkdir()
    with running_registry(folder) as registry:
        registry.push(f"oci:{layout}:v1", "app:v1")
        reference = f"docker://{registry.host}/app:v1"
        with ThreadPoolExecutor(3) as pool:
            fetched = set(pool.map(kvmrkt.fetch, [reference] * 3))
    assert len(fetched) == 1
    for layer in image.manifest["layers"]:
        lines = [line for line in registry.log if f'"GET /v2/app/blobs/{layer["digest"]}' in line]
        assert len(lines) == 1


def test_an_unknown_tag_is_told_in_the_registrys_words(registry: Registry, kvmrkt: Fetcher) -> None:
    message = refused(kvmrkt("fetch", f"docker://{registry.host}/app:v2"), kvmrkt)
    assert "the registry does not have it (status 404; MANIFEST_UNKNOWN" in message


def test_schema_1_is_refused_by_name(registry: Registry, layout: Path, kvmrkt: Fetcher) -> None:
    registry.push(f"oci:{layout}:v1", "old:v1", "--format=v2s1")
    message = refused(kvmrkt("fetch", f"docker://{registry.host}/old:v1"), kvmrkt)
    assert "schema 1" in message


def test_a_registry_without_tls_needs_the_insecure_option(
    registry: Registry, tmp_path: Path
) -> None:
    careful = Fetcher(tmp_path)
    message = refused(careful("fetch", f"docker://{registry.host}/app:v1"), careful)
    assert "--insecure-options=http" in message


def test_without_the_option_for_unsigned_images_none_is_fetched(
    registry: Registry, tmp_path: Path
) -> None:
    strict = Fetcher(tmp_path, insecure="http")
    message = refused(strict("fetch", f"docker://{registry.host}/app:v1"), strict)
    assert "signature verification for docker images is not supported" in message


def test_a_login_of_the_configuration_opens_a_closed_registry(
    closed_registry: Registry, trusting: Fetcher
) -> None:
    log_in(trusting, closed_registry)
    trusting.fetch(f"docker://{closed_registry.host}/app:v1")
    assert content(trusting.tree(), "bin/app") == "two"


def test_a_closed_registry_refuses_strangers_and_says_what_to_do(
    closed_registry: Registry, trusting: Fetcher
) -> None:
    message = refused(trusting("fetch", f"docker://{closed_registry.host}/app:v1"), trusting)
    assert "denies access (status 401; UNAUTHORIZED" in message
    assert f"configure a login for {closed_registry.host} in auth.d" in message


def test_a_wrong_password_is_refused_and_not_shown(
    closed_registry: Registry, trusting: Fetcher
) -> None:
    log_in(trusting, closed_registry, "not-the-password")
    message = refused(trusting("fetch", f"docker://{closed_registry.host}/app:v1"), trusting)
    assert "denies access (status 401" in message
    assert "not-the-password" not in message


def test_a_certificate_nobody_vouches_for_is_refused(
    closed_registry: Registry, tmp_path: Path
) -> None:
    stranger = Fetcher(tmp_path)
    message = refused(stranger("fetch", f"docker://{closed_registry.host}/app:v1"), stranger)
    assert "certificate is not trusted" in message


def test_the_same_files_come_from_the_registry_and_from_the_layout(
    registry: Registry, layout: Path, kvmrkt: Fetcher, tmp_path: Path
) -> None:
    kvmrkt.fetch(f"docker://{registry.host}/app:v1")
    local = Fetcher(tmp_path / "local")
    local.fetch(f"oci:{layout}:v1")
    assert listing(local.tree()) == listing(kvmrkt.tree())
