"""A store, and folders around it where nothing may appear: what a hostile image is let loose in."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import hostile_streams
import pytest

from kvmrkt.cli import main

LIMITS = {
    "rktKind": "images",
    "rktVersion": "v1",
    "maxEntries": 2000,
    "maxExpandedBytes": hostile_streams.LIMIT_BYTES,
}


class World:
    """A folder for the store, and others where nothing may appear."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.data = top / "data"
        self.config = top / "config"
        (self.config / "images.d").mkdir(parents=True)
        (self.config / "images.d/limits.json").write_text(json.dumps(LIMITS))
        for name in ("here", "tmp", "in"):
            (top / name).mkdir()

    def run(self, *words: str) -> int:
        flags = ("--insecure-options=image", f"--dir={self.data}", f"--local-config={self.config}")
        return main.run([*flags, *words])

    def file(self, content: bytes, name: str = "x.aci") -> Path:
        path = self.top / "in" / name
        path.write_bytes(content)
        return path

    def state(self) -> tuple[dict[str, tuple[int, int, bytes]], list[str]]:
        """Every file with its mode, inode and content, and the whole index."""
        files = {
            os.fspath(path.relative_to(self.top)): (
                path.lstat().st_mode,
                path.lstat().st_ino,
                path.read_bytes() if path.is_file() and path.suffix != ".sqlite3" else b"",
            )
            for path in sorted(self.top.rglob("*"))
            if "locks" not in os.fspath(path)
            and path.parent.name != "in"
            and not (path.is_dir() and self.data in path.parents)  # the store's may be empty
        }
        with closing(sqlite3.connect(self.data / "cas/index.sqlite3")) as index:
            return files, list(index.iterdump())


def world_at(top: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(top)
    monkeypatch.chdir(top / "here")
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(top / "tmp"))
    return world
