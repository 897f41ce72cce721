"""Taking an image into the store: one pass over its bytes, then renames and a transaction.

The pass decompresses, checks and hashes the archive and hands it to mksquashfs at the same time:
the root filesystem is ready when the image is. What turns out to be unusable leaves nothing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import msgspec

from kvmrkt.appc.image_manifest import parse_image_manifest
from kvmrkt.appc.types import HASH_PREFIX
from kvmrkt.errors import ArchiveError, ImageNotFoundError, ManifestError, describe
from kvmrkt.faults import reach
from kvmrkt.images import aci, squash
from kvmrkt.images.disk import storing, temporary
from kvmrkt.images.index import Row
from kvmrkt.images.signatures.gate import Gate
from kvmrkt.images.store import Image, ImageFiles, Source, Store, file_source
from kvmrkt.images.stream import TarStream, close_chunks, open_chunks
from kvmrkt.images.tree import adopt_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmrkt.appc.image_manifest import ImageManifest

_CLOCK_TICK_NS = 20_000_000
_COPY_BYTES = 1 << 30


class _Passed(NamedTuple):
    """What one pass over an archive gave."""

    contents: aci.Contents
    digest: str


def import_file(
    store: Store, path: Path, source: Source | None = None, gate: Gate | None = None
) -> Image:
    """Import a file, unless the store has what `source` (default: the file's state) gave.

    With a gate the file is always read. Raises what `import_archive` raises, and
    ImageNotFoundError if there is no such file.
    """
    path = path.absolute()
    try:
        file = open(path, "rb", 0, opener=_open_at_once)  # noqa: SIM115
    except OSError as error:
        raise ImageNotFoundError(f"open {path}: {_reason(error)}") from None
    with file, ExitStack() as stack:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise ArchiveError(f'"{path}" is not a usable App Container image: it is no file')
        wanted = source or file_source(path, state)
        stack.enter_context(store.source_lock(wanted))
        if gate is None and (image := store.cached(wanted)):
            return image
        started_ns = time.time_ns()
        copy = stack.enter_context(temporary(store.data.cas, "download"))
        with storing(f'copy "{path}" into the image store'):
            _copy(file, copy)
        if not _unchanged(file, wanted, started_ns):
            wanted = msgspec.structs.replace(wanted, stamp="")  # next time it is read again
        return import_archive(store, copy, f'"{path}"', wanted, gate)


def import_stream(store: Store, stream: IO[bytes], source: Source | None) -> Image:
    """Import what a stream that need not seek gives."""
    name = source.location if source else str(getattr(stream, "name", "the stream"))
    with temporary(store.data.cas, "download") as path:
        with storing(f"write to the image store {store.data.cas}"), path.open("wb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
        return import_archive(store, path, f'"{name}"', source)


def import_archive(
    store: Store, archive: Path, shown: str, source: Source | None, gate: Gate | None = None
) -> Image:
    """Import an archive that lies on the store's disk; it becomes the image's blob.

    Raises SignatureError or ImageError where the gate does, ArchiveError or ManifestError for
    what is no usable image, StoreError where the store fails.
    """
    gate = gate or Gate()
    gate.admit_archive(archive)
    epoch = squash.epoch_for(0)
    with temporary(store.data.cas, "tree") as tree:
        with storing(f"import {shown} into the image store"):
            with _naming(shown), squash.squashing(tree, epoch) as pipe:
                passed = _pass(store, archive, shown, pipe)
            _sync(archive)
        reach("image-checked")
        image = _add(store, archive, passed, shown, source, gate)
        if epoch >= passed.contents.newest_seconds and not image.implied_folders:
            adopt_tree(store, image, tree)
        return image


def import_layers(
    store: Store, manifest: bytes, layers: Sequence[Path], source: Source | None
) -> Image:
    """Import docker's or OCI's layers, uncompressed archives, the lowest first, as one image.

    Raises as `import_archive`; which image an ArchiveError is about is for the caller to say.
    """
    from kvmrkt.images.merge import Layer, merged

    shown = f'"{source.location}"' if source else "an image of layers"
    with temporary(store.data.cas, "blob") as blob, temporary(store.data.cas, "tree") as tree:
        digest = hashlib.sha512()
        with (
            storing(f"import {shown} into the image store"),
            merged([Layer(path, docker=True) for path in layers], store.limits) as merger,
        ):
            epoch = squash.epoch_for(merger.newest_seconds)
            with squash.squashing(tree, epoch) as pipe, blob.open("wb") as out:

                def sink(piece: bytes) -> None:
                    digest.update(piece)
                    out.write(piece)
                    pipe.write(piece)

                merger.write(manifest, sink)
            _sync(blob)
        contents = aci.Contents(manifest, (), merger.newest_seconds, merger.entries)
        passed = _Passed(contents, digest.hexdigest())
        image = _add(store, blob, passed, shown, source, Gate())
        adopt_tree(store, image, tree)
        return image


def _pass(store: Store, archive: Path, shown: str, pipe: squash.SquashPipe) -> _Passed:
    with archive.open("rb", buffering=0) as file:
        if not os.fstat(file.fileno()).st_size:
            raise ArchiveError("the file is empty")
        chunks = open_chunks(file)
        try:
            stream = TarStream(chunks, store.limits.expanded_bytes, pipe.write)
            contents = aci.check(stream, store.limits)
            return _Passed(contents, stream.finish())
        finally:
            close_chunks(chunks)


def _add(
    store: Store,
    blob: Path,
    passed: _Passed,
    shown: str,
    source: Source | None,
    gate: Gate,
) -> Image:
    try:
        manifest = parse_image_manifest(passed.contents.manifest)
    except ManifestError as error:
        raise ManifestError(
            f"{shown} is not a usable App Container image: its manifest is wrong"
        ) from error
    gate.admit_manifest(manifest)
    with ExitStack() as stack:
        manifest_path = stack.enter_context(temporary(store.data.cas, "manifest"))
        signature_path = None
        with storing(f"import {shown} into the image store"):
            _write(manifest_path, passed.contents.manifest)
        if gate.signature is not None:
            signature_path = stack.enter_context(temporary(store.data.cas, "signature"))
            with storing(f"import {shown} into the image store"):
                _write(signature_path, gate.signature)
        files = ImageFiles(blob, manifest_path, signature_path)
        return store.add(_row(passed, manifest, source, gate), files, source)


def _row(passed: _Passed, manifest: ImageManifest, source: Source | None, gate: Gate) -> Row:
    return Row(
        id=HASH_PREFIX + passed.digest,
        name=manifest.name,
        labels=msgspec.json.encode({label.name: label.value for label in manifest.labels}).decode(),
        size_bytes=0,  # the store knows when the blob is in its place
        import_time_ns=time.time_ns(),
        latest=int(source is not None and source.latest),
        newest_seconds=passed.contents.newest_seconds,
        implied_folders=msgspec.json.encode(passed.contents.implied_folders).decode(),
        signer=gate.signer,
    )


class _naming:
    """Say of which image an ArchiveError of the body is."""

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ArchiveError):
            message = f"{self._shown} is not a usable App Container image"
            raise ArchiveError(message, hint=error.hint) from error


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _copy(file: IO[bytes], path: Path) -> None:
    """Copy without the bytes passing here; a file system that can will share them."""
    source = file.fileno()
    with path.open("wb") as out:
        try:
            while os.copy_file_range(source, out.fileno(), _COPY_BYTES):
                continue
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP):
                raise
        while os.sendfile(out.fileno(), source, None, _COPY_BYTES):  # from one disk to another
            continue


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO would wait for someone to write


def _reason(error: OSError) -> str:
    """The reason alone, in lower case as rkt prints it."""
    return (error.strerror or describe(error)).lower()


def _unchanged(file: IO[bytes], source: Source, started_ns: int) -> bool:
    """Whether the file can be told from what a later write would make of it."""
    state = os.fstat(file.fileno())
    if source.kind != "file":
        return True
    if f":{state.st_size}:{state.st_mtime_ns}:{state.st_ctime_ns}" not in source.stamp:
        return False
    return max(state.st_mtime_ns, state.st_ctime_ns) + _CLOCK_TICK_NS < started_ns
