"""Unpacking an image into a folder a person named (`image extract`, `image render`).

This is the one place where an image's files come to lie on the host. Every path is resolved by
the kernel beneath the folder (unpacking/beneath.py); symbolic links are made, never followed. The
archive is read by the same code that checks it at its import.
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from kvmrkt.errors import ArchiveError, HostError, ImageError
from kvmrkt.images import tar
from kvmrkt.images.unpacking.beneath import Beneath

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CHUNK_BYTES = 1 << 20
_MAX_ID = 2**32 - 2
_MAX_SECONDS = 2**62
_FOLDER_MODE = 0o755
_SET_ID = stat.S_ISUID | stat.S_ISGID
_ROOTFS = b"rootfs"
_NAMESPACES = (b"user.", b"trusted.", b"security.")
"""What a squashfs can hold of extended attributes, so what a pod sees of them."""
_XATTR, _BASE64_XATTR = b"SCHILY.xattr.", b"LIBARCHIVE.xattr."
_DEVICES = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK: stat.S_IFBLK}


def unpack(
    stream: IO[bytes],
    folder: Path,
    *,
    rootfs_only: bool = False,
    limits: tar.Limits | None = None,
    newest_seconds: int = 0,
    plain: bool = False,
) -> None:
    """Unpack an uncompressed archive into `folder`, which must be empty and ours alone.

    With `rootfs_only` the folder becomes the root filesystem itself. `newest_seconds` is the time
    of folders the archive has no entry for. Owners, device nodes and set-ID bits are for root:
    with anyone else all files are his, lose set-ID bits, and a device node is a HostError. What is
    `plain` gives nobody a privilege: set-ID bits and all attributes but a user's own are left out,
    and a device node is an ArchiveError. Raises
    ArchiveError for what is no tar archive or a hostile one, ImageError where the folder fails.
    """
    limits = limits or tar.Limits()
    source = _StreamSource(stream, limits.expanded_bytes)
    with Beneath(folder) as beneath:
        work = _Unpacking(beneath, source, newest_seconds, rootfs_only, plain)
        for member in _members(source, limits):
            work.add(member)
        work.finish_folders()


class _StreamSource:
    """A `tar.Source` on a stream, that remembers the headers before the present content."""

    def __init__(self, stream: IO[bytes], limit_bytes: int) -> None:
        self._stream = stream
        self._limit_bytes = limit_bytes
        self._remembered = bytearray()
        self.position = 0

    def read(self, size: int) -> bytes:
        data = b"".join(self._pieces(size))
        self._remembered += data
        return data

    def skip(self, size: int) -> None:
        self.read(size)

    def headers_since(self, position: int) -> bytes:
        return bytes(self._remembered[position - self.position :])

    def copy_content(self, size: int, out: IO[bytes]) -> None:
        for piece in self._pieces(size):
            out.write(piece)
        self._remembered.clear()

    def _pieces(self, size: int) -> Iterator[bytes]:
        if self.position + size > self._limit_bytes:
            raise ArchiveError(f"the archive is larger than {self._limit_bytes} bytes, unpacked")
        while size:
            piece = self._stream.read(min(size, _CHUNK_BYTES))
            if not piece:
                raise ArchiveError("the archive is truncated")
            self.position += len(piece)
            size -= len(piece)
            yield piece


def _members(source: _StreamSource, limits: tar.Limits) -> Iterator[tar.Member]:
    for entry in tar.walk(source, limits):
        headers = source.headers_since(entry.header_at)
        member = tar.read_member(tar.FileSource(io.BytesIO(headers)), limits)
        if member.uid > _MAX_ID or member.gid > _MAX_ID:
            raise ArchiveError(f"entry {entry.shown} has an owner no system knows")
        yield member


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is set on an entry besides its content."""

    mode: int
    owner: tuple[int, int] | None
    mtime_ns: int
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    def put_on(self, path: str, name: bytes, *, link: bool = False) -> None:
        """Onto what lies at a path in /proc/self/fd, whose last part is followed unless `link`.

        In this order: a new owner takes set-ID bits and capabilities away.
        """
        if self.owner is not None:
            os.chown(path, *self.owner, follow_symlinks=not link)
        for key, value in self.xattrs.items():
            try:
                os.setxattr(path, key, value, follow_symlinks=not link)
            except OSError as error:
                raise ImageError(
                    f"cannot set the extended attribute {tar.show(key)} of {tar.show(name)}:"
                    f" {error.strerror}",
                    hint="choose a folder on a filesystem that has extended attributes",
                ) from None
        if not link:
            os.chmod(path, self.mode)  # noqa: PTH101
        os.utime(path, ns=(self.mtime_ns, self.mtime_ns), follow_symlinks=not link)


def _facts(member: tar.Member, *, plain: bool) -> _Facts:
    mtime_ns = min(member.entry.mtime_seconds, _MAX_SECONDS) * 10**9
    owner = (member.uid, member.gid) if os.geteuid() == 0 else None
    if owner is not None and not plain:
        return _Facts(member.mode, owner, mtime_ns, _xattrs(member))
    own = {key: value for key, value in _xattrs(member).items() if key.startswith(b"user.")}
    return _Facts(member.mode & ~_SET_ID, owner, mtime_ns, own)


def _xattrs(member: tar.Member) -> dict[bytes, bytes]:
    plain: dict[bytes, bytes] = {}
    encoded: dict[bytes, bytes] = {}
    for key, value in member.xattrs:
        if key.startswith(_XATTR):
            plain[key.removeprefix(_XATTR)] = value
        elif key.startswith(_BASE64_XATTR):
            import base64
            import urllib.parse

            name = urllib.parse.unquote_to_bytes(key.removeprefix(_BASE64_XATTR))
            encoded[name] = base64.b64decode(value + b"=" * (-len(value) % 4))
    return {
        name: value for name, value in (encoded | plain).items() if name.startswith(_NAMESPACES)
    }


@dataclass(slots=True)
class _Unpacking:
    beneath: Beneath
    source: _StreamSource
    newest_seconds: int
    rootfs_only: bool
    plain: bool
    folders: dict[bytes, _Facts] = field(default_factory=dict)
    """Folders with what is set on them in the end, when nothing changes in them any more."""

    def add(self, member: tar.Member) -> None:
        """Make one entry."""
        name = self._inside(member.entry.name)
        if name is None:
            return
        try:
            self._make(name, member)
        except FileExistsError:
            raise ArchiveError(f"entry {tar.show(name)} is there twice") from None
        except NotADirectoryError:
            raise ArchiveError(f"entry {tar.show(name)} lies below what is no folder") from None
        except (OverflowError, ValueError) as error:
            raise ArchiveError(f"entry {tar.show(name)} cannot be: {error}") from None
        except OSError as error:
            raise ImageError(f"cannot unpack {tar.show(name)}: {error.strerror}") from None

    def finish_folders(self) -> None:
        """Set what could not be set while the folders were filled; the deepest first."""
        for name in sorted(self.folders, reverse=True):
            descriptor = self.beneath.open_folder(name)
            try:
                self.folders[name].put_on(f"/proc/self/fd/{descriptor}", name)
            finally:
                os.close(descriptor)

    def _inside(self, name: bytes) -> bytes | None:
        """Where an entry goes; None if it is not wanted."""
        if not self.rootfs_only:
            return name or None  # the folder around the image is no part of it
        if name == _ROOTFS:
            return b""
        return name.removeprefix(b"rootfs/") if name.startswith(b"rootfs/") else None

    def _make(self, name: bytes, member: tar.Member) -> None:
        kind = member.entry.kind
        if name:
            self._make_parents(name)
        if kind == tar.DIRECTORY:
            if name:
                self.beneath.make_folder(name)
            self.folders[name] = _facts(member, plain=self.plain)
        elif kind == tar.REGULAR:
            self._make_file(name, member)
        elif kind == tar.HARD_LINK:
            self._make_hard_link(name, member.entry)
        else:
            self._make_special(name, member)

    def _make_parents(self, name: bytes) -> None:
        missing = []
        above = name.rpartition(b"/")[0]
        while above and above not in self.folders:
            missing.append(above)
            above = above.rpartition(b"/")[0]
        for folder in reversed(missing):
            self.beneath.make_folder(folder)
            owner = (0, 0) if os.geteuid() == 0 else None
            self.folders[folder] = _Facts(_FOLDER_MODE, owner, self.newest_seconds * 10**9)

    def _make_file(self, name: bytes, member: tar.Member) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(self.beneath.open(name, flags, 0o600), "wb") as file:
            self.source.copy_content(member.entry.size_bytes, file)
            file.flush()
            _facts(member, plain=self.plain).put_on(f"/proc/self/fd/{file.fileno()}", name)

    def _make_hard_link(self, name: bytes, entry: tar.Entry) -> None:
        parts = [part for part in entry.link.split(b"/") if part not in (b"", b".")]
        target = self._inside(b"/".join(parts))
        above, _, base = (target or b"").rpartition(b"/")
        try:
            source = self.beneath.open_folder(above)
            try:
                parent, link = self.beneath.parent(name)
                os.link(base, link, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(source)
        except FileExistsError:
            raise
        except OSError:
            raise ArchiveError(
                f"hard link {tar.show(name)} points to {tar.show(entry.link)},"
                " which is not an earlier file of the image"
            ) from None

    def _make_special(self, name: bytes, member: tar.Member) -> None:
        parent, base = self.beneath.parent(name)
        kind = member.entry.kind
        if kind == tar.SYMLINK:
            os.symlink(member.entry.link, base, dir_fd=parent)
        elif kind == tar.FIFO:
            os.mkfifo(base, 0o600, dir_fd=parent)
        elif self.plain:
            raise ArchiveError(f"entry {tar.show(name)} is a device node")
        elif os.geteuid() != 0:
            raise HostError(
                f"cannot make the device node {tar.show(name)}: only root may", hint="run as root"
            )
        else:
            device = os.makedev(*member.device)
            os.mknod(base, _DEVICES[kind] | 0o600, device, dir_fd=parent)
        path = f"/proc/self/fd/{parent}/{os.fsdecode(base)}"
        _facts(member, plain=self.plain).put_on(path, name, link=kind == tar.SYMLINK)
