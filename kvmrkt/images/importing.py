"""Taking an image into the store: one pass over its bytes, then a rename and a transaction."""

from __future__ import annotations

import os
import shutil
import stat
import time
from typing import IO, TYPE_CHECKING

import msgspec

from kvmrkt.appc.image_manifest import parse_image_manifest
from kvmrkt.appc.types import HASH_PREFIX
from kvmrkt.errors import ArchiveError, ImageNotFoundError, ManifestError, describe
from kvmrkt.images import aci
from kvmrkt.images.store import Image, Source, Store, file_source, make_row, storing, temporary
from kvmrkt.images.stream import TarStream, compression_of, tar_chunks

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC_BYTES = 6
_CLOCK_TICK_NS = 20_000_000


def import_file(store: Store, path: Path, source: Source | None = None) -> Image:
    """Import a file, unless the store has what `source` (default: the file's state) gave."""
    path = path.absolute()
    try:
        file = open(path, "rb", 0, opener=_open_at_once)  # noqa: SIM115
    except OSError as error:
        raise ImageNotFoundError(f"open {path}: {_reason(error)}") from None
    with file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise ArchiveError(f'"{path}" is not a usable App Container image: it is no file')
        wanted = source or file_source(path, state)
        with store.source_lock(wanted):
            if image := store.cached(wanted):
                return image
            started_ns = time.time_ns()
            return _import(store, file, f'"{path}"', wanted, path=path, started_ns=started_ns)


def import_stream(store: Store, stream: IO[bytes], source: Source | None) -> Image:
    """Import what a stream that need not seek gives."""
    name = source.location if source else str(getattr(stream, "name", "the stream"))
    with temporary(store, "download") as path:
        with storing(f"write to the image store {store.data.cas}"), path.open("wb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
        with path.open("rb", buffering=0) as file:
            return _import(store, file, f'"{name}"', source)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO would wait for someone to write


def _reason(error: OSError) -> str:
    """The reason alone, in lower case as rkt prints it."""
    return (error.strerror or describe(error)).lower()


def _import(
    store: Store,
    file: IO[bytes],
    shown: str,
    source: Source | None,
    *,
    path: Path | None = None,
    started_ns: int = 0,
) -> Image:
    with temporary(store, "blob") as blob, temporary(store, "manifest") as manifest_path:
        with storing(f"import {shown} into the image store"):
            contents, digest, size_bytes = _copy_checked(store, file, blob, shown)
        try:
            manifest = parse_image_manifest(contents.manifest)
        except ManifestError as error:
            raise ManifestError(
                f"{shown} is not a usable App Container image: its manifest is wrong"
            ) from error
        with storing(f"import {shown} into the image store"), manifest_path.open("wb") as out:
            out.write(contents.manifest)
            out.flush()
            os.fsync(out.fileno())
        if path is not None and source is not None and not _unchanged(file, source, started_ns):
            source = msgspec.structs.replace(source, stamp="")  # next time it must be read again
        row = make_row(
            HASH_PREFIX + digest,
            manifest,
            size_bytes=size_bytes,
            latest=source is not None and source.latest,
            newest_seconds=contents.newest_seconds,
            implied_folders=contents.implied_folders,
        )
        return store.add(row, blob, manifest_path, source)


def _copy_checked(
    store: Store, file: IO[bytes], blob: Path, shown: str
) -> tuple[aci.Contents, str, int]:
    beginning = file.read(_MAGIC_BYTES)
    file.seek(0)
    compression = compression_of(beginning)
    try:
        if not beginning:
            raise ArchiveError("the file is empty")
        with blob.open("wb") as out:
            stream = TarStream(tar_chunks(file, compression), out, store.limits.expanded_bytes)
            contents = aci.check(stream, store.limits)
            digest = stream.finish()
            out.flush()
            os.fsync(out.fileno())
            return contents, digest, out.tell()
    except ArchiveError as error:
        message = f"{shown} is not a usable App Container image"
        raise ArchiveError(message, hint=error.hint) from error


def _unchanged(file: IO[bytes], source: Source, started_ns: int) -> bool:
    """Whether the file can be told from what a later write would make of it."""
    state = os.fstat(file.fileno())
    size, mtime_ns = state.st_size, state.st_mtime_ns
    if source.kind != "file":
        return True
    if f":{size}:{mtime_ns}:{state.st_ctime_ns}" not in source.stamp:
        return False
    return max(mtime_ns, state.st_ctime_ns) + _CLOCK_TICK_NS < started_ns
