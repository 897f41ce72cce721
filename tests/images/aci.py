"""Writes App Container images: tar archives with `manifest` and `rootfs/`, reproducibly."""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


class AciWriter:
    """Builds one image under a temporary name; leaving the context puts it into place."""

    def __init__(self, output: Path, manifest: Mapping[str, Any], *, compress: bool) -> None:
        """`manifest` is the image manifest as JSON data."""
        self._output = output
        self._manifest = manifest
        self._compress = compress
        self._temporary = output.with_name(f".{output.name}.new")

    def __enter__(self) -> AciWriter:
        """Open the archive and write the manifest."""
        output = self._temporary.open("wb")
        # No file name and no time in the header: the same input gives the same bytes.
        packed = gzip.GzipFile("", "wb", 3, output, mtime=0) if self._compress else output
        self._files = [packed, output]
        self._tar = tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT)
        text = json.dumps(self._manifest, indent=2).encode() + b"\n"
        self._add(_entry("manifest", 0o644, size=len(text)), io.BytesIO(text))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the archive, or remove it after a failure."""
        self._tar.close()
        for file in self._files:
            file.close()
        if kind is None:
            self._temporary.rename(self._output)
        else:
            self._temporary.unlink()

    def folder(self, path: str, mode: int = 0o755, *, uid: int = 0, gid: int = 0) -> None:
        """Add a folder; `path` is absolute within the root filesystem."""
        self._add(_entry(f"rootfs{path.rstrip('/')}", mode, tarfile.DIRTYPE, uid=uid, gid=gid))

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file of root's."""
        entry = _entry(f"rootfs{path}", mode, size=len(content))
        self._add(entry, io.BytesIO(content))

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        entry = _entry(f"rootfs{path}", 0o777, tarfile.SYMTYPE)
        entry.linkname = target
        self._add(entry)

    def tree(self, archive: tarfile.TarFile, *, without: Iterable[str]) -> None:
        """Add a whole root filesystem from another archive, less what lies under `without`."""
        excluded = tuple(without)
        for member in archive:
            path = "/" + member.name.removeprefix("./").removeprefix(".").rstrip("/")
            if path.startswith(excluded):
                continue
            entry = copy.copy(member)
            entry.name = f"rootfs{path}".rstrip("/")
            entry.uname = entry.gname = ""
            # PAX headers name the old path; the writer makes what is needed anew.
            entry.pax_headers = {k: v for k, v in member.pax_headers.items() if "SCHILY" in k}
            if member.islnk():
                entry.linkname = "rootfs/" + member.linkname.removeprefix("./")
            self._add(entry, archive.extractfile(member) if member.isreg() else None)

    def _add(self, entry: tarfile.TarInfo, content: Any = None) -> None:
        self._tar.addfile(entry, content)


def manifest(
    name: str, version: str, app: Mapping[str, Any], *, arch: str = "amd64"
) -> dict[str, Any]:
    """An image manifest of the App Container specification 0.8.11."""
    labels = {"version": version, "os": "linux", "arch": arch}
    return {
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": name,
        "labels": [{"name": key, "value": value} for key, value in labels.items()],
        "app": dict(app),
    }


def _entry(
    name: str,
    mode: int,
    kind: bytes = tarfile.REGTYPE,
    *,
    size: int = 0,
    uid: int = 0,
    gid: int = 0,
) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(os.fspath(name))
    entry.type, entry.mode, entry.size, entry.uid, entry.gid = kind, mode, size, uid, gid
    return entry
