"""What makes an archive an App Container image (appc/spec, aci.md), and a safe one.

Nothing is unpacked: a hostile archive can only become a hostile file system inside its own guest.
So links may point where they like, and device nodes are allowed as the specification has them;
what is refused is what would let two readers of the archive disagree about its content.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kvmrkt.appc.decode import MAX_MANIFEST_BYTES
from kvmrkt.errors import ArchiveError
from kvmrkt.images import tar

MANIFEST = b"manifest"
ROOTFS = b"rootfs"


@dataclass(frozen=True, slots=True)
class Contents:
    """What one pass over an image's archive found."""

    manifest: bytes
    implied_folders: tuple[bytes, ...]
    """Folders that have entries below them and none of their own, parents first."""
    newest_seconds: int
    """The latest modification time of any entry, since 1970."""
    entries: int


@dataclass(slots=True)
class _Layout:
    kinds: dict[bytes, bytes] = field(default_factory=dict)
    implied: dict[bytes, None] = field(default_factory=dict)

    def add(self, entry: tar.Entry) -> None:
        name = entry.name
        if name == MANIFEST:
            if entry.kind != tar.REGULAR:
                raise ArchiveError("the image manifest is not a regular file")
        elif name == ROOTFS:
            if entry.kind != tar.DIRECTORY:
                raise ArchiveError("rootfs is not a folder")
        elif not name.startswith(ROOTFS + b"/"):
            raise ArchiveError(f"entry {entry.shown} is neither manifest nor below rootfs")
        if name in self.implied and entry.kind == tar.DIRECTORY:
            del self.implied[name]
        elif name in self.kinds:
            raise ArchiveError(f"entry {entry.shown} is there twice")
        self.kinds[name] = entry.kind
        self._check_parents(entry)
        if entry.kind == tar.HARD_LINK:
            self._check_link(entry)

    def _check_parents(self, entry: tar.Entry) -> None:
        parent = entry.name.rpartition(b"/")[0]
        missing = []
        while parent:
            kind = self.kinds.get(parent)
            if kind == tar.DIRECTORY:
                break
            if kind is not None:
                raise ArchiveError(f"entry {entry.shown} lies below {tar.show(parent)}, no folder")
            missing.append(parent)
            parent = parent.rpartition(b"/")[0]
        for folder in reversed(missing):
            self.kinds[folder] = tar.DIRECTORY
            self.implied[folder] = None

    def _check_link(self, entry: tar.Entry) -> None:
        target = entry.link.removeprefix(b"./").rstrip(b"/")
        kind = self.kinds.get(target)
        if kind is None or target == entry.name or not target.startswith(ROOTFS + b"/"):
            raise ArchiveError(
                f"hard link {entry.shown} points to {tar.show(entry.link)},"
                " which is not an earlier entry of the image"
            )
        if kind == tar.DIRECTORY:
            raise ArchiveError(f"hard link {entry.shown} points to a folder")


def check(source: tar.Source, limits: tar.Limits) -> Contents:
    """Go over the whole archive; raises ArchiveError at the first thing that is wrong."""
    layout = _Layout()
    manifest: bytes | None = None
    newest = entries = 0
    for entry in tar.walk(source, limits):
        entries += 1
        if not entry.name:
            if entry.kind != tar.DIRECTORY:
                raise ArchiveError("the top of the archive is not a folder")
            continue
        if not entry.tidy:  # mksquashfs would make a damaged squashfs of some such names
            raise ArchiveError(f"entry {entry.shown} has a path that not everybody reads alike")
        layout.add(entry)
        if not 0 <= entry.mtime_seconds <= tar.MAX_SECONDS:
            raise ArchiveError(f"entry {entry.shown} has a time before 1970 or after 2105")
        newest = max(newest, entry.mtime_seconds)
        if entry.name == MANIFEST:
            if entry.size_bytes > MAX_MANIFEST_BYTES:
                raise ArchiveError(
                    f"the image manifest has {entry.size_bytes} bytes;"
                    f" the limit is {MAX_MANIFEST_BYTES}"
                )
            manifest = source.read(entry.size_bytes)
    if manifest is None:
        raise ArchiveError("there is no image manifest in the archive")
    if ROOTFS not in layout.kinds or ROOTFS in layout.implied:
        raise ArchiveError("there is no rootfs folder in the archive")
    return Contents(manifest, tuple(layout.implied), newest, entries)
