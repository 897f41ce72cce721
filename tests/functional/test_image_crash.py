"""kill -9 while an image is fetched, imported, rendered: the same command succeeds afterwards."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_pods import ROOT

sys.path.insert(0, str(ROOT / "tests" / "unit"))

from aci_files import entry, manifest, write_aci
from docker_files import docker_image, layer_tar, write_layout
from web_server import Answer, serving

from kvmrkt.appc.types import KEY_DIGITS
from kvmrkt.images.store import Store
from kvmrkt.images.tree import tree_path
from kvmrkt.paths import DataDir

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.functional

KILLS = int(os.environ.get("KVMRKT_KILLS", "3"))
"""At how many random moments each way is broken off; `make soak` asks for more."""

SEED = int(os.environ.get("KVMRKT_SEED", "3"))
BLOCK = random.Random(1).randbytes(1 << 16)


def image(folder: Path, name: str, **fields: object) -> Path:
    """An image that takes a while."""
    document = manifest(name=f"example.com/{name}", **fields)
    return write_aci(folder / f"{name}.aci", *files(f"rootfs/{name}"), document=document)


def files(name: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    """2,000 files, 40 MB."""
    return [entry(f"{name}-{n}", BLOCK[n : n + 20_000]) for n in range(2000)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image that stands alone, and one that stands on it."""
    folder = tmp_path_factory.mktemp("images")
    image(folder, "base")
    image(folder, "above", dependencies=[{"imageName": "example.com/base"}])
    return folder


class Fetch:
    """One fetch into a store of its own."""

    def __init__(self, data: Path, reference: str) -> None:
        self.data = data
        self._argv = [
            str(ROOT / ".venv" / "bin" / "kvmrkt"), f"--dir={data}",
            "--insecure-options=image,http", "fetch", "--full", reference,
        ]  # fmt: skip

    def start(self) -> subprocess.Popen[str]:
        """Start the command."""
        return subprocess.Popen(
            self._argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self) -> str:
        """Run the command to its end, which must be a good one; returns the image's ID."""
        done = subprocess.run(self._argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(params=["file", "web", "layers", "dependencies"])
def fetch(request: pytest.FixtureRequest, images: Path, tmp_path: Path) -> Iterator[Fetch]:
    """Each way into the store: a file, a URL, layers, an image whose tree must be merged."""
    data = tmp_path / "data"
    if request.param == "file":
        yield Fetch(data, str(images / "base.aci"))
    elif request.param == "layers":
        layers = [layer_tar(*files(name)) for name in ("lower", "upper")]
        write_layout(tmp_path / "layout", docker_image(layers))
        yield Fetch(data, f"oci:{tmp_path / 'layout'}:v1")
    elif request.param == "dependencies":
        Fetch(data, str(images / "base.aci")).finish()
        yield Fetch(data, str(images / "above.aci"))
    else:
        with serving(tls=False) as server:
            server.answers["/a.aci"] = Answer((images / "base.aci").read_bytes(), etag='"1"')
            yield Fetch(data, server.url("/a.aci"))


def test_kills_at_random_moments_leave_nothing_that_gc_does_not_know(fetch: Fetch) -> None:
    chance = random.Random(SEED)
    before = fetch.data.with_name("before")
    if fetch.data.exists():
        shutil.copytree(fetch.data, before)
    began = time.monotonic()
    wanted = fetch.finish()
    usual_seconds = time.monotonic() - began
    for _ in range(KILLS):
        shutil.rmtree(fetch.data)
        if before.exists():
            shutil.copytree(before, fetch.data)
        process = fetch.start()
        # any moment is a good one: how long the machine takes decides only which it is
        time.sleep(chance.uniform(0.05, usual_seconds))
        process.kill()
        process.communicate()
        assert fetch.finish() == wanted
        collect(fetch.data)
        assert unknown_files(DataDir(fetch.data)) == []


def collect(data: Path) -> None:
    argv = [ROOT / ".venv" / "bin" / "kvmrkt", f"--dir={data}", "image", "gc"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def unknown_files(data: DataDir) -> list[Path]:
    """The files of a store that nothing in its index accounts for."""
    known = {data.cas / "index.sqlite3"}
    with Store(data) as store:
        for found in store.images():
            known |= {found.blob_path, found.manifest_path}
            known.add(tree_path(store, found, found.manifest()))
            assert len(found.id) > KEY_DIGITS
    locks = ("imagelocks", "treestorelocks")
    return [
        path
        for path in data.cas.rglob("*")
        if path.is_file() and path not in known and path.parent.name not in locks
    ]
