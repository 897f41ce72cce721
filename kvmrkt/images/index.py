"""The store's index: which images there are, and which sources they came from.

One SQLite file with SQLite's own rollback journal: a reader takes one shared lock and syncs
nothing, and writing is rare (an import, a removal), so it may take the time to be durable.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kvmrkt.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SCHEMA_VERSION = 2
_BUSY_SECONDS = 30.0

_SCHEMA = """
CREATE TABLE images (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    labels TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    import_time_ns INTEGER NOT NULL,
    latest INTEGER NOT NULL,
    newest_seconds INTEGER NOT NULL,
    implied_folders TEXT NOT NULL,
    signer TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX images_by_name ON images (name);
CREATE TABLE sources (
    kind TEXT NOT NULL,
    location TEXT NOT NULL,
    stamp TEXT NOT NULL,
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    expires_seconds INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, location)
) WITHOUT ROWID;
"""

_MIGRATIONS = {
    1: """
ALTER TABLE images ADD COLUMN signer TEXT NOT NULL DEFAULT '';
ALTER TABLE sources ADD COLUMN expires_seconds INTEGER NOT NULL DEFAULT 0;
""",
}
"""What makes a schema of one version into the next."""

_KEPT_BACKUPS = 5


class Row(msgspec.Struct, frozen=True):
    """One image in the index; `labels` is JSON, the folders are a JSON list of base64 names.

    `signer` is the fingerprint of the key whose signature was verified, "" if none was.
    """

    id: str
    name: str
    labels: str
    size_bytes: int
    import_time_ns: int
    latest: int
    newest_seconds: int
    implied_folders: str
    signer: str = ""


class SourceRow(NamedTuple):
    """What is remembered of a source; see `store.Source`."""

    stamp: str
    image_id: str
    expires_seconds: int


_COLUMNS = ", ".join(field.name for field in msgspec.structs.fields(Row))
_FIND = f"SELECT {_COLUMNS} FROM images"  # noqa: S608 - no text from outside


class Index:
    """The open index. Every sqlite3.Error leaves here as a StoreError."""

    def __init__(self, path: Path) -> None:
        """Open the index at `path`, and make it if it does not exist."""
        self._path = path
        with self._errors("open"):
            self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            with self._errors("open"):
                self._connection.execute("PRAGMA foreign_keys = ON")
                version = self._version()
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"cannot use the image store's index {path}: its version is {version},"
                    f" this kvmrkt knows {SCHEMA_VERSION}",
                    hint="use the newer kvmrkt that wrote it, or another --dir",
                )
            if version < SCHEMA_VERSION:
                self._bring_up_to_date()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; the index cannot be used afterwards."""
        self._connection.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction, the only one at a time on this host; undone if the body raises."""
        with self._errors("write"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def put(self, row: Row) -> None:
        """Add an image; one that is there stays, and only may become `latest`, or signed."""
        self._connection.execute(
            f"INSERT INTO images ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
            " ON CONFLICT (id) DO UPDATE SET latest = max(latest, excluded.latest),"
            " size_bytes = excluded.size_bytes,"
            " signer = iif(excluded.signer = '', signer, excluded.signer)",
            msgspec.structs.astuple(row),
        )

    def put_source(self, kind: str, location: str, row: SourceRow) -> None:
        """Remember that a source in this state is that image."""
        self._connection.execute(
            "INSERT OR REPLACE INTO sources (kind, location, stamp, image_id, expires_seconds)"
            " VALUES (?, ?, ?, ?, ?)",
            (kind, location, *row),
        )

    def remove(self, image_id: str) -> bool:
        """Forget an image and its sources; returns whether it was there."""
        done = self._connection.execute("DELETE FROM images WHERE id = ?", (image_id,))
        return done.rowcount > 0

    def from_source(self, kind: str, location: str, stamp: str) -> Row | None:
        """The image a source in this very state gave."""
        return self._one(
            f"SELECT {_COLUMNS} FROM sources JOIN images ON image_id = id"  # noqa: S608
            " WHERE kind = ? AND location = ? AND stamp = ?",
            (kind, location, stamp),
        )

    def source(self, kind: str, location: str) -> SourceRow | None:
        """What is remembered of a source."""
        with self._errors("read"):
            found = self._connection.execute(
                "SELECT stamp, image_id, expires_seconds FROM sources"
                " WHERE kind = ? AND location = ?",
                (kind, location),
            ).fetchone()
        return None if found is None else SourceRow(*found)

    def get(self, image_id: str) -> Row | None:
        """The image with exactly this ID."""
        return self._one(f"{_FIND} WHERE id = ?", (image_id,))

    def with_prefix(self, prefix: str) -> list[Row]:
        """All images whose ID begins so; `prefix` is hexadecimal after `sha512-`."""
        return self._all(f"{_FIND} WHERE id >= ? AND id < ?", (prefix, prefix + "g"))

    def named(self, name: str) -> list[Row]:
        """All images of a name: fetched as latest first, then the most recent import."""
        return self._all(
            f"{_FIND} WHERE name = ? ORDER BY latest DESC, import_time_ns DESC", (name,)
        )

    def all(self) -> list[Row]:
        """All images, the oldest import first."""
        return self._all(f"{_FIND} ORDER BY import_time_ns, id", ())

    def _version(self) -> int:
        version: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        return version

    def _bring_up_to_date(self) -> None:
        with self.writing():
            version = self._version()  # another process may have been faster
            if version:
                self._back_up(version)
            while version < SCHEMA_VERSION:
                script = _MIGRATIONS[version] if version else _SCHEMA
                for statement in script.split(";"):
                    self._connection.execute(statement)
                version = version + 1 if version else SCHEMA_VERSION
                self._connection.execute(f"PRAGMA user_version = {version}")

    def _back_up(self, version: int) -> None:
        """Copy the index as it is before a migration; only the newest copies stay."""
        import shutil
        import time

        folder = self._path.with_name("index-backups")
        try:
            folder.mkdir(mode=0o750, exist_ok=True)
            copy = folder / f"{time.time_ns():020d}-version-{version}.sqlite3"
            shutil.copyfile(self._path, copy)
            for old in sorted(folder.iterdir())[:-_KEPT_BACKUPS]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot keep a copy of the image store's index in {folder}"
            ) from error

    def _one(self, query: str, values: Sequence[str]) -> Row | None:
        rows = self._all(query, values)
        return rows[0] if rows else None

    def _all(self, query: str, values: Sequence[str]) -> list[Row]:
        with self._errors("read"):
            found = self._connection.execute(query, values).fetchall()
        return [Row(*row) for row in found]

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"cannot {verb} the image store's index {self._path}") from error
