"""The image store: `cas/` in the data directory.

    cas/blob/sha512/<2 digits>/<image ID>           the archive as it was fetched, compressed or not
    cas/signature/sha512/<2 digits>/<image ID>      its detached signature, if it was verified
    cas/imageManifest/sha512/<2 digits>/<image ID>  its manifest; its time is the last use
    cas/tree/<tree ID>.squashfs                     root filesystems (images/tree.py)
    cas/index.sqlite3, cas/index-backups/           the index, and copies from before migrations
    cas/imagelocks/, cas/treestorelocks/            locks
    cas/tmp/, cas/partial/                          files on their way in, downloads to be resumed

An image's files are complete before the index names them: a crash leaves files nobody names, and
`image gc` removes those.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self, cast

import msgspec

from kvmrkt.appc.types import HASH_PREFIX
from kvmrkt.errors import ImageNotFoundError, StoreError
from kvmrkt.faults import reach
from kvmrkt.images.disk import FOLDER_MODE, storing, sync_folder
from kvmrkt.images.index import Index, Row, SourceRow
from kvmrkt.images.locks import locked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from kvmrkt.appc.image_manifest import ImageManifest
    from kvmrkt.images.tar import Limits
    from kvmrkt.paths import DataDir

_LOCK_FILES = 256


class Source(msgspec.Struct, frozen=True):
    """Where an image came from and in which state that was; an equal one need not be read again.

    `kind` is "file", "url" or "docker"; `stamp` is anything that changes with the content.
    `latest` is whether it was asked for without a version (rkt prefers such images). Until
    `expires_seconds`, since 1970, the source need not even be asked whether it changed.
    """

    kind: str
    location: str
    stamp: str
    latest: bool = False
    expires_seconds: int = 0


class KnownSource(msgspec.Struct, frozen=True):
    """What a source gave when it was last looked at; see `Source`."""

    stamp: str
    image: Image
    expires_seconds: int


def file_source(path: Path, state: os.stat_result | None = None) -> Source:
    """A file in its present state as a source. OSError if it is not there."""
    state = state or path.stat()
    stamp = f"{state.st_dev}:{state.st_ino}:{state.st_size}:{state.st_mtime_ns}:{state.st_ctime_ns}"
    return Source("file", os.fspath(path.absolute()), stamp)


class Image(msgspec.Struct, frozen=True):
    """One image in the store; `id` is the whole image ID."""

    id: str
    name: str
    labels: dict[str, str]
    size_bytes: int
    import_time_ns: int
    blob_path: Path
    manifest_path: Path
    newest_seconds: int
    implied_folders: tuple[bytes, ...]
    signer: str
    """The fingerprint of the key whose signature on the image was verified, or ""."""

    @property
    def last_used(self) -> float:
        """When it was last asked for, in seconds since 1970."""
        return self.last_used_ns / 1e9

    @property
    def last_used_ns(self) -> int:
        """When it was last asked for, in nanoseconds since 1970."""
        try:
            return self.manifest_path.stat().st_mtime_ns
        except FileNotFoundError:
            return self.import_time_ns

    @property
    def import_time(self) -> float:
        """When it came into the store, in seconds since 1970."""
        return self.import_time_ns / 1e9

    def open_tar(self) -> IO[bytes]:
        """The uncompressed archive, to be read once from its start. StoreError if it is gone."""
        from kvmrkt.images.stream import TarFile

        try:
            return cast("IO[bytes]", TarFile(self.blob_path))
        except OSError as error:
            raise StoreError(f"cannot read image {self.name}") from error

    def manifest_bytes(self) -> bytes:
        """The manifest as it stands in the archive."""
        try:
            return self.manifest_path.read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read image {self.name}") from error

    def manifest(self) -> ImageManifest:
        """The parsed manifest."""
        from kvmrkt.appc.image_manifest import parse_image_manifest

        return parse_image_manifest(self.manifest_bytes())


class ImageFiles(NamedTuple):
    """The files of an image on its way into the store, each complete and on its disk."""

    blob: Path
    manifest: Path
    signature: Path | None = None


class Store:
    """The image store of a data directory; a context manager."""

    def __init__(self, data: DataDir, *, limits: Limits | None = None) -> None:
        """Open the store, and make it if it does not exist; StoreError if it cannot."""
        self.data = data
        self._limits = limits
        path = data.cas / "index.sqlite3"
        if not path.exists():
            with storing(f"open the image store {data.cas}"):
                data.root.mkdir(parents=True, exist_ok=True)
                data.cas.mkdir(mode=FOLDER_MODE, exist_ok=True)
        self._index = Index(path)

    def __enter__(self) -> Self:
        """The store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the index."""
        self.close()

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    @property
    def limits(self) -> Limits:
        """How big an image may be."""
        from kvmrkt.images.tar import Limits

        return self._limits or Limits()

    def import_aci(self, origin: Path | IO[bytes], source: Source | None = None) -> Image:
        """Check an image and take it in; what is in the store already is not stored twice.

        Raises ArchiveError or ManifestError for what is no usable image, StoreError where the
        store fails; then nothing of it stays. A file is remembered with its state, and not read
        again until that changes.
        """
        if isinstance(origin, Path) and (image := self._unchanged(origin, source)):
            return image
        from kvmrkt.images import importing  # with the decompressors: not for every run

        if isinstance(origin, Path):
            return importing.import_file(self, origin, source)
        return importing.import_stream(self, origin, source)

    def _unchanged(self, path: Path, source: Source | None) -> Image | None:
        try:
            return self.cached(source or file_source(path))
        except OSError:
            return None  # the import says what is wrong with the file

    def cached(self, source: Source) -> Image | None:
        """The image this source gave, if it is still in the very same state."""
        row = self._index.from_source(source.kind, source.location, source.stamp)
        return None if row is None else self._image(row)

    def known_source(self, kind: str, location: str) -> KnownSource | None:
        """What is remembered of a source, whatever its state is now."""
        found = self._index.source(kind, location)
        row = None if found is None else self._index.get(found.image_id)
        if found is None or row is None:
            return None
        return KnownSource(found.stamp, self._image(row), found.expires_seconds)

    def get(self, image_id: str) -> Image:
        """The image with this ID, whole or rkt's half; ImageNotFoundError if there is none."""
        return self.find_by_hash(image_id)

    def find_by_hash(self, prefix: str) -> Image:
        """The one image whose ID begins so; ImageNotFoundError for none, or more than one."""
        rows = self._index.with_prefix(prefix)
        if not rows:
            raise ImageNotFoundError(f'no image IDs found: nothing in the store is "{prefix}"')
        if len(rows) > 1:
            raise ImageNotFoundError(
                f'ambiguous image ID: "{prefix}"',
                details="\n".join(f"{row.id}  {row.name}" for row in rows),
            )
        return self._image(rows[0])

    def find_by_name(self, name: str, labels: dict[str, str] | None = None) -> Image | None:
        """The best image of a name with all these labels, as rkt chooses; None if there is none.

        Without a version asked for, images fetched as the latest come first; then the most
        recent import.
        """
        wanted = (labels or {}).items()
        images = (self._image(row) for row in self._index.named(name))
        matching = [image for image in images if wanted <= image.labels.items()]
        if "version" in (labels or {}):
            matching.sort(key=lambda image: image.import_time_ns, reverse=True)
        return matching[0] if matching else None

    def images(self) -> list[Image]:
        """All images, the oldest import first."""
        return [self._image(row) for row in self._index.all()]

    def remove(self, image_id: str) -> None:
        """Remove an image; trees made of it stay until no pod needs them (`image gc`)."""
        image = self.get(image_id)
        with self._index.writing(), storing(f"remove image {image.id}"):
            self._index.remove(image.id)
            for path in (image.manifest_path, image.blob_path, self.signature_path(image.id)):
                path.unlink(missing_ok=True)
                reach("image-file-removed")

    def touch(self, image_id: str) -> None:
        """Note that the image is used now."""
        path = self.manifest_path(image_id)
        try:
            os.utime(path)
        except PermissionError:
            return  # whoever may only read the store leaves no trace there
        except OSError as error:
            raise StoreError(f"cannot note the use of image {image_id}") from error

    def add(self, row: Row, files: ImageFiles, source: Source | None) -> Image:
        """Take over complete files as an image, in one transaction.

        An image that is there already keeps its files, but for a verified signature, which comes
        with the very archive it was made for.
        """
        finals = {
            self.blob_path(row.id): files.blob,
            self.manifest_path(row.id): files.manifest,
            self.signature_path(row.id): files.signature,
        }
        with self._index.writing(), storing(f"store image {row.name}"):
            known = self._index.get(row.id)
            if known is None or files.signature or not self.blob_path(row.id).exists():
                for final, fresh in finals.items():
                    if fresh is not None:
                        final.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
                        fresh.replace(final)
                        reach("image-file-placed")
                        sync_folder(final.parent)
            size_bytes = self.blob_path(row.id).stat().st_size
            self._index.put(msgspec.structs.replace(row, size_bytes=size_bytes))
            if source is not None:
                self._index.put_source(
                    source.kind,
                    source.location,
                    SourceRow(source.stamp, row.id, source.expires_seconds),
                )
        reach("image-indexed")
        return self.get(row.id)

    def blob_path(self, image_id: str) -> Path:
        """The archive of an image, whole ID."""
        return self._file_of(image_id, "blob")

    def manifest_path(self, image_id: str) -> Path:
        """The manifest of an image, whole ID."""
        return self._file_of(image_id, "imageManifest")

    def signature_path(self, image_id: str) -> Path:
        """The detached signature of an image, whole ID; not every image has one."""
        return self._file_of(image_id, "signature")

    def _file_of(self, image_id: str, kind: str) -> Path:
        return self.data.cas / kind / "sha512" / image_id[len(HASH_PREFIX) :][:2] / image_id

    @contextmanager
    def frozen(self) -> Iterator[set[str]]:
        """The IDs of all images; none is added or removed anywhere while the body runs."""
        with self._index.writing():
            yield {row.id for row in self._index.all()}

    @contextmanager
    def source_lock(self, source: Source) -> Iterator[None]:
        """Held by the one process that reads a source into the store."""
        import zlib

        number = zlib.crc32(f"{source.kind}:{source.location}".encode()) % _LOCK_FILES
        path = self.data.cas / "imagelocks" / f"{number:02x}"
        with locked(path):
            yield

    def _image(self, row: Row) -> Image:
        return Image(
            id=row.id,
            name=row.name,
            labels=msgspec.json.decode(row.labels),
            size_bytes=row.size_bytes,
            import_time_ns=row.import_time_ns,
            blob_path=self.blob_path(row.id),
            manifest_path=self.manifest_path(row.id),
            newest_seconds=row.newest_seconds,
            implied_folders=tuple(msgspec.json.decode(row.implied_folders, type=list[bytes])),
            signer=row.signer,
        )
