"""The initrd's archive: reproducible, and laid out as the kernel reads it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

BUILD = Path(__file__).parents[2] / "initrd" / "build.py"


def _load() -> ModuleType:
    # The folder is no package.
    spec = importlib.util.spec_from_file_location("initrd_build", BUILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = _load()


def _members(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Name to mode, content and device, read back from a newc archive."""
    members: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    position = 0
    while True:
        header = archive[position : position + 110]
        assert header[:6] == b"070701"
        fields = [int(header[start : start + 8], 16) for start in range(6, 110, 8)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name_end = position + 110 + name_size
        name = archive[position + 110 : name_end - 1].decode()
        content_start = (name_end + 3) & ~3
        content = archive[content_start : content_start + size]
        if name == "TRAILER!!!":
            return members
        members[name] = (mode, content, (fields[9], fields[10]))
        position = (content_start + size + 3) & ~3


def test_the_kernel_finds_what_it_needs() -> None:
    members = _members(build.archive(b"agent's code"))
    assert members["init"] == (0o100755, b"agent's code", (0, 0))
    assert members["dev/console"] == (0o020600, b"", (5, 1))
    assert members["base"][0] == 0o040755


def test_the_same_agent_gives_the_same_bytes() -> None:
    assert build.archive(b"x" * 1001) == build.archive(b"x" * 1001)
    assert len(build.archive(b"x")) % 512 == 0
