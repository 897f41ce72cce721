"""Hostile images, through `kvmrkt fetch`: a clear refusal, and the store exactly as it was.

What the specification allows is taken in, and comes out again without leaving its folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import hostile_archives
import hostile_layers
import hostile_manifests
import hostile_streams
import pytest
from docker_files import docker_image, write_layout
from hostile_world import World, world_at
from raw_tar import image

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSED = (
    hostile_archives.REFUSED
    | hostile_streams.NO_IMAGES
    | hostile_streams.DAMAGED
    | hostile_streams.BOMBS
    | hostile_manifests.REFUSED
)
HARMLESS = hostile_archives.HARMLESS | hostile_streams.HARMLESS | hostile_manifests.HARMLESS


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A store with one good image."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        world = world_at(tmp_path_factory.mktemp("world"), monkeypatch)
        assert (
            world.run("fetch", os.fspath(world.file(image(hostile_archives.FILE), "good.aci"))) == 0
        )
        yield world


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_clear_message_and_nothing_changed(
    name: str, shared: World, capfd: pytest.CaptureFixture[str]
) -> None:
    content, said = REFUSED[name]
    path = shared.file(content)
    err = refused(shared, os.fspath(path), capfd)
    assert said in err
    assert f'"{path}" is not a usable App Container image' in err


@pytest.mark.parametrize("name", hostile_layers.REFUSED)
def test_layers_are_refused_with_a_clear_message_and_nothing_changed(
    name: str, shared: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    layers, said = hostile_layers.REFUSED[name]
    layout = write_layout(tmp_path / "layout", docker_image(layers))
    assert said in refused(shared, f"oci:{layout}:v1", capfd)


def refused(world: World, reference: str, capfd: pytest.CaptureFixture[str]) -> str:
    """Fetch it and look that it is refused well; returns what was said."""
    before = world.state()
    assert world.run("fetch", reference) == 254
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert "internal error" not in err
    assert err.replace("\n", "").isprintable()
    assert len(err) < 2000
    assert world.state() == before
    assert not Path("/" + hostile_archives.ESCAPE.decode()).exists()
    return err


@pytest.mark.parametrize("name", HARMLESS)
def test_allowed_and_harmless(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    world = world_at(tmp_path, monkeypatch)
    harmless(world, os.fspath(world.file(HARMLESS[name])), capfd)


@pytest.mark.parametrize("name", hostile_layers.HARMLESS)
def test_layers_are_allowed_and_harmless(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    world = world_at(tmp_path, monkeypatch)
    image = docker_image(hostile_layers.HARMLESS[name])
    harmless(world, f"oci:{write_layout(tmp_path / 'in/layout', image)}:v1", capfd)


def harmless(world: World, reference: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Fetch it, take it out, remove it: nothing is outside, and nothing stays."""
    tmp_path = world.top
    assert world.run("fetch", "--full", reference) == 0
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    assert err.replace("\n", "").isprintable()
    image_id = out.strip()
    folder = tmp_path / "unpacked"
    if world.run("image", "extract", image_id, os.fspath(folder)) == 0:
        assert sorted(os.listdir(folder)) == ["manifest", "rootfs"]
    else:
        assert os.geteuid() != 0
        assert "cannot make the device node" in capfd.readouterr().err
    assert set(os.listdir(tmp_path)) - {"unpacked"} == {"config", "data", "here", "in", "tmp"}
    assert os.listdir(tmp_path / "here") == os.listdir(tmp_path / "tmp") == []
    assert world.run("image", "rm", image_id) == 0
    assert world.run("image", "gc") == 0
    left = [path for path in (world.data / "cas").rglob("*") if path.is_file()]
    assert [path.name for path in left if "locks" not in path.parent.name] == ["index.sqlite3"]
    assert not Path("/" + hostile_archives.ESCAPE.decode()).exists()


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(REFUSED | hostile_layers.REFUSED) >= 60
