"""What fetching an image costs, beside the tools that do the least of it: gzip, mksquashfs."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from figures import Figure, Samples, ratio
from kvmrkt.images.squash import OPTIONS
from pod import PYTHON

MIB = 1 << 20
FETCH_BUDGET = 1.25
MEMORY_BUDGET_MIB = 150.0
MIN_BYTES = 300 * MIB
MIN_FILES = 20_000
_MAX_FILE_BYTES = 4 * MIB
_TREE = Path("/usr")

_FETCH = """
import resource, sys
from kvmrkt.cli.main import run
status = run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(status)
"""


@dataclass(frozen=True, slots=True)
class Fetch:
    """One fetch of the large image into an empty store."""

    wall_seconds: float
    own_peak_bytes: int


def make_large_image(folder: Path) -> tuple[Path, str]:
    """An image of this host's own files, as gzip packs it; and what is in it."""
    plain = folder / "large.tar"
    files = size_bytes = 0
    manifest = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/large"}
    (folder / "manifest").write_text(json.dumps(manifest))
    with tarfile.open(plain, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(folder / "manifest", "manifest")
        archive.add(_TREE, "rootfs", recursive=False)
        archive.add(_TREE, "rootfs/usr", recursive=False)
        for path in _walk():
            archive.add(path, f"rootfs{path}", recursive=False)
            if path.is_file() and not path.is_symlink():
                files += 1
                size_bytes += path.stat().st_size
            if files > MIN_FILES * 1.2 and size_bytes > MIN_BYTES * 1.1:
                break
    if files < MIN_FILES or size_bytes < MIN_BYTES:
        raise SystemExit(f"{_TREE} has {files} files of {size_bytes} bytes: too few for this bench")
    packed = folder / "large.aci"
    with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target, MIB)
    plain.unlink()
    return packed, f"{files} files, {size_bytes / MIB:.0f} MiB"


def measure_fetches(folder: Path, rounds: int) -> list[Figure]:
    """The tools and kvmrkt by turns, on the same image."""
    image, what = make_large_image(folder)
    _time_tools(image, folder)
    tools, fetches = [], []
    for _ in range(rounds):
        tools.append(_time_tools(image, folder))
        fetches.append(_time_fetch(image, folder))
    walls = Samples(tuple(fetch.wall_seconds for fetch in fetches))
    name = "fetch and render over gzip | mksquashfs"
    peak = max(fetch.own_peak_bytes for fetch in fetches) / MIB
    return [
        ratio(name, walls, Samples(tuple(tools)), FETCH_BUDGET),
        Figure("memory of a fetch", peak, 0.0, "MiB", MEMORY_BUDGET_MIB, what),
    ]


def _walk() -> Iterator[Path]:
    for folder, below, names in os.walk(_TREE):
        below.sort()
        for name in [*below, *sorted(names)]:
            path = Path(folder) / name
            if path.is_symlink() or path.is_dir() or path.stat().st_size <= _MAX_FILE_BYTES:
                yield path


def _time_tools(image: Path, folder: Path) -> float:
    out = folder / "tools.squashfs"
    out.unlink(missing_ok=True)
    began = time.monotonic()
    with subprocess.Popen(["gzip", "-dc", image], stdout=subprocess.PIPE) as unpack:
        subprocess.run(["mksquashfs", "-", out, *OPTIONS], stdin=unpack.stdout, check=True)
    return time.monotonic() - began


def _time_fetch(image: Path, folder: Path) -> Fetch:
    data = folder / "fetched"
    shutil.rmtree(data, ignore_errors=True)
    command = [f"--dir={data}", "--insecure-options=image", "fetch", str(image)]
    began = time.monotonic()
    done = subprocess.run(
        [PYTHON, "-I", "-c", _FETCH, *command], check=True, capture_output=True, text=True
    )
    wall_seconds = time.monotonic() - began
    return Fetch(wall_seconds, int(done.stdout.splitlines()[-1]))
