"""Making App Container images, good and bad ones, for tests."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

MTIME_SECONDS = 1_000_000


def manifest(**changes: Any) -> dict[str, Any]:
    """A good image manifest with top-level changes; None removes a field."""
    document: dict[str, Any] = {
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": "example.com/app",
        "labels": [
            {"name": "version", "value": "1.0"},
            {"name": "os", "value": "linux"},
            {"name": "arch", "value": "amd64"},
        ],
        "app": {"exec": ["/bin/app"], "user": "0", "group": "0"},
    } | changes
    return {key: value for key, value in document.items() if value is not None}


def entry(
    name: str, content: bytes | None = None, **attributes: Any
) -> tuple[tarfile.TarInfo, bytes]:
    """A tar member: a file with content, else a folder, unless `type` says otherwise."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    info.mode = 0o755
    info.mtime = MTIME_SECONDS
    info.size = len(content or b"")
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content or b""


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    """A link; symbolic unless `kind` is tarfile.LNKTYPE."""
    return entry(name, b"", type=kind, linkname=to)


def archive(
    *members: tuple[tarfile.TarInfo, bytes],
    document: Any = None,
    rootfs: bool = True,
    tar_format: int = tarfile.PAX_FORMAT,
) -> bytes:
    """An uncompressed archive: the manifest, `rootfs`, and the members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as target:
        text = (
            document if isinstance(document, bytes) else json.dumps(document or manifest()).encode()
        )
        front = [entry("manifest", text), *([entry("rootfs")] if rootfs else [])]
        for info, content in [*front, *members]:
            target.addfile(info, io.BytesIO(content))
    return out.getvalue()


def write_aci(path: Path, *members: tuple[tarfile.TarInfo, bytes], **options: Any) -> Path:
    """Write an archive to a file whose time lies in the past, as an image's does."""
    import os

    path.write_bytes(archive(*members, **options))
    os.utime(path, (MTIME_SECONDS, MTIME_SECONDS))
    return path
