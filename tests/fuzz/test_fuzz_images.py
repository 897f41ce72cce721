"""Spoilt images, through `kvmrkt fetch`: refused in words with the store as before, or understood.

Understood means: what mksquashfs made of the archive is what the checks saw in it. The number of
examples is KVMRKT_FUZZ_EXAMPLES (`make soak` takes many). After a failure the file that made it
is the fixture's `in/x.aci`.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Callable, Iterator

import mutations
import pytest
from hostile_archives import FILE
from hostile_world import World, world_at
from hypothesis import HealthCheck, given, settings
from listings import archive_listing, squashfs_listing
from mutations import Spoilt, images
from raw_tar import image

FUZZ = settings(
    max_examples=int(os.environ.get("KVMRKT_FUZZ_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A store with one good image."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = world_at(tmp_path_factory.mktemp("world"), monkeypatch)
        assert made.run("fetch", os.fspath(made.file(image(FILE), "good.aci"))) == 0
        yield made


@FUZZ
@given(spoilt=images(mutations.ARCHIVES))
def test_spoilt_archives(world: World, spoilt: Spoilt) -> None:
    fetch(world, spoilt.content)


@FUZZ
@given(spoilt=images(mutations.compressed()))
def test_spoilt_compression(world: World, spoilt: Spoilt) -> None:
    fetch(world, spoilt.content)


@FUZZ
@given(spoilt=images(mutations.MANIFESTS))
def test_spoilt_manifests(world: World, spoilt: Spoilt) -> None:
    fetch(world, spoilt.content)


@pytest.mark.parametrize("pack", [bytes, *mutations.COMPRESSORS])
def test_a_sound_image_is_understood(world: World, pack: Callable[[bytes], bytes]) -> None:
    assert fetch(world, pack(mutations.GOOD))


def fetch(world: World, content: bytes) -> bool:
    """Fetch it, look at everything, and take it out again; returns whether it was accepted."""
    path = world.file(content)
    before = world.state()
    status, out, err = run(world, "fetch", "--full", os.fspath(path))
    assert "internal error" not in err
    assert "Traceback" not in err
    assert err.replace("\n", "").isprintable()
    if status:
        assert status == 254
        assert f'"{path}" is not a usable App Container image' in err
        assert world.state() == before
        return False
    try:
        check_tree(world, out.strip())
    finally:
        assert run(world, "image", "rm", out.strip())[0] == 0
        assert run(world, "image", "gc")[0] == 0
    assert world.state() == before
    return True


def run(world: World, *words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = world.run(*words)
    return status, out.getvalue(), err.getvalue()


def check_tree(world: World, image_id: str) -> None:
    exported = world.top / "tmp/exported.aci"
    assert run(world, "image", "export", image_id, os.fspath(exported)) == (0, "", "")
    archive = exported.read_bytes()
    exported.unlink()
    expected = archive_listing(archive)
    if any(b"\n" in name for name in expected):
        return  # unsquashfs prints such names as they are
    trees = [path for path in (world.data / "cas/tree").iterdir() if image_id in path.name]
    if not trees:  # one with a whitelist, made by another way
        assert len(os.listdir(world.data / "cas/tree")) == 2
        return
    found = squashfs_listing(trees[0])
    for name in found.keys() - expected.keys():  # implied folders
        assert found.pop(name)[:2] == (stat.filemode(stat.S_IFDIR | 0o755), "0/0")
    assert found == expected
