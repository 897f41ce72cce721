"""Images in layouts and archives that other programs made: umoci and skopeo."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from registry import Fetcher, content, listing, run, umoci_layout

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return umoci_layout(tmp_path_factory.mktemp("layout"))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> list[str]:
    """The entries of the image's tree."""
    kvmrkt = Fetcher(tmp_path_factory.mktemp("expected"))
    kvmrkt.fetch(f"oci:{layout}:v1")
    assert content(kvmrkt.tree(), "bin/app") == "two"
    return listing(kvmrkt.tree())


@pytest.fixture
def kvmrkt(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path)


def copied(layout: Path, target: str) -> None:
    run("skopeo", "copy", "--insecure-policy", f"oci:{layout}:v1", target)


def test_a_layout_is_fetched_with_its_name_and_version(layout: Path, kvmrkt: Fetcher) -> None:
    manifest = kvmrkt.manifest(kvmrkt.fetch(f"oci:{layout}"))
    assert manifest["name"] == "layout"
    assert {"name": "version", "value": "v1"} in manifest["labels"]
    assert manifest["app"]["exec"] == ["/bin/app", "serve"]


def test_a_changed_layout_is_fetched_anew(layout: Path, tmp_path: Path, kvmrkt: Fetcher) -> None:
    copied(layout, f"oci:{tmp_path}/copy:v1")
    first = kvmrkt.fetch(f"oci:{tmp_path}/copy:v1")
    assert kvmrkt.fetch(f"oci:{tmp_path}/copy:v1") == first
    run("umoci", "config", "--image", f"{tmp_path}/copy:v1", "--config.cmd=other")
    second = kvmrkt.fetch(f"oci:{tmp_path}/copy:v1")
    assert kvmrkt.manifest(second)["app"]["exec"] == ["/bin/app", "other"]
    assert kvmrkt.fetch(f"oci:{tmp_path}/copy:v1") == second != first


@pytest.mark.parametrize("reference", ["", ":app:v1"])
def test_an_archive_as_docker_saves_it_is_fetched(
    layout: Path, tmp_path: Path, kvmrkt: Fetcher, expected: list[str], reference: str
) -> None:
    copied(layout, f"docker-archive:{tmp_path}/saved.tar:app:v1")
    manifest = kvmrkt.manifest(kvmrkt.fetch(f"docker-archive:{tmp_path}/saved.tar{reference}"))
    assert manifest["name"] == "app"
    assert {"name": "version", "value": "v1"} in manifest["labels"]
    assert listing(kvmrkt.tree()) == expected
    assert kvmrkt.leftovers() == []


def test_a_compressed_archive_is_fetched(
    layout: Path, tmp_path: Path, kvmrkt: Fetcher, expected: list[str]
) -> None:
    copied(layout, f"docker-archive:{tmp_path}/saved.tar:app:v1")
    packed = tmp_path / "saved.tar.gz"
    packed.write_bytes(gzip.compress((tmp_path / "saved.tar").read_bytes()))
    kvmrkt.fetch(f"docker-archive:{packed}")
    assert listing(kvmrkt.tree()) == expected
    assert kvmrkt.leftovers() == []


def test_a_layout_in_a_tar_is_fetched(
    layout: Path, tmp_path: Path, kvmrkt: Fetcher, expected: list[str]
) -> None:
    copied(layout, f"oci-archive:{tmp_path}/layout.tar:v1")
    manifest = kvmrkt.manifest(kvmrkt.fetch(f"docker-archive:{tmp_path}/layout.tar"))
    assert {"name": "version", "value": "v1"} in manifest["labels"]
    assert listing(kvmrkt.tree()) == expected


def test_an_archive_cut_short_leaves_nothing_behind(
    layout: Path, tmp_path: Path, kvmrkt: Fetcher
) -> None:
    copied(layout, f"docker-archive:{tmp_path}/saved.tar:app:v1")
    whole = (tmp_path / "saved.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    done = kvmrkt("fetch", f"docker-archive:{tmp_path}/cut.tar")
    assert done.returncode == 254
    assert "truncated" in done.stderr
    assert "Traceback" not in done.stderr
    assert kvmrkt.leftovers() == []
    assert kvmrkt("image", "list", "--no-legend").stdout == ""
