"""Walking over a tar archive's entries without unpacking anything.

Understands ustar, PAX and GNU long names. Whatever could be read in two ways (sparse files,
overlong headers, PAX defaults for names) is refused, so that the program that builds the root
filesystem from the same bytes cannot see another archive than the one that was checked here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Protocol

from kvmrkt.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 512
REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO = (
    b"0", b"1", b"2", b"3", b"4", b"5", b"6",
)  # fmt: skip
_KINDS = frozenset((REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO))
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK = b"x", b"g", b"L", b"K"
_MAX_EXTENSION_BYTES = 1 << 20
_MODE_BITS = 0o7777
_KIND_BITS = {
    REGULAR: 0o100000, SYMLINK: 0o120000, CHARACTER: 0o020000, BLOCK: 0o060000,
    DIRECTORY: 0o040000, FIFO: 0o010000,
}  # fmt: skip
"""What some tars, Go's among them, put into the mode as well (inode(7))."""
_MAX_ID = 2**32 - 2
MAX_SECONDS = 2**32 - 1
"""The latest time that a squashfs can hold; mksquashfs takes later ones for something else."""
_MAX_DEVICE = 2**12 - 1, 2**20 - 1
"""As Linux, and squashfs, count (linux/kdev_t.h)."""
_ZERO_BLOCK = bytes(BLOCK_BYTES)
_NOT_FOR_ALL = frozenset((b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"))
_XATTR_KEYS = (b"SCHILY.xattr.", b"LIBARCHIVE.xattr.")


@dataclass(frozen=True, slots=True)
class Limits:
    """How big an image may be before it is taken for an attack."""

    entries: int = 500_000
    path_bytes: int = 4096
    component_bytes: int = 255
    expanded_bytes: int = 16 << 30


class Source(Protocol):
    """Bytes in order. `read` and `skip` raise ArchiveError where the bytes end too early."""

    @property
    def position(self) -> int:
        """How many bytes are behind us."""

    def read(self, size: int) -> bytes:
        """Exactly so many bytes."""

    def skip(self, size: int) -> None:
        """Go over so many bytes."""


class FileSource:
    """A source on a file that can seek, so that contents cost nothing."""

    def __init__(self, file: IO[bytes]) -> None:
        """The file must be open for reading; it is read from its beginning."""
        self._file = file
        self._size = file.seek(0, 2)
        self.position = file.seek(0)

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        data = self._file.read(size)
        if len(data) < size:
            raise ArchiveError("the archive is truncated")
        self.position += size
        return data

    def skip(self, size: int) -> None:
        """Seek over `size` bytes."""
        self.seek(self.position + size)

    def seek(self, position: int) -> None:
        """Go to a position in the file."""
        if position > self._size:
            raise ArchiveError("the archive is truncated")
        self.position = self._file.seek(position)


@dataclass(frozen=True, slots=True)
class Entry:
    """One member; `name` has neither a leading ./ nor a trailing slash, b"" is the top itself."""

    name: bytes
    kind: bytes
    size_bytes: int
    link: bytes
    mtime_seconds: int
    content_at: int
    header_at: int
    tidy: bool
    """Whether no reader takes the path for another: it has no needless parts, for one."""

    @property
    def shown(self) -> str:
        """The name for messages."""
        return show(self.name)


def show(name: bytes) -> str:
    """A name out of an archive, safe to print."""
    return repr(name.decode(errors="backslashreplace"))


def walk(source: Source, limits: Limits) -> Iterator[Entry]:
    """Each entry in order; the caller may read an entry's content from the source meanwhile.

    Returns at the end-of-archive block; raises ArchiveError if there is none.
    """
    for number in range(limits.entries + 1):
        header_at = source.position
        try:
            header, extension = _next_header(source)
        except ArchiveError as error:
            if number:
                raise
            message = f"this is no tar archive, compressed or not: {error.message}"
            raise ArchiveError(message, hint=error.hint) from None
        if header is None:
            return
        if number == limits.entries:
            raise ArchiveError(f"the archive has more than {limits.entries} entries")
        entry = _entry(header, extension, header_at, source.position, limits)
        if entry.size_bytes > limits.expanded_bytes:
            raise ArchiveError(
                f"the archive is larger than {limits.expanded_bytes} bytes, unpacked:"
                f" entry {entry.shown} alone has {entry.size_bytes}"
            )
        yield entry
        rest = entry.size_bytes + -entry.size_bytes % BLOCK_BYTES
        source.skip(entry.content_at + rest - source.position)


@dataclass(frozen=True, slots=True)
class Member:
    """An entry with everything the archive says about it; xattrs are PAX records."""

    entry: Entry
    mode: int
    uid: int
    gid: int
    device: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]


def read_member(source: Source, limits: Limits) -> Member:
    """The member whose first header stands at the source's position; leaves it at its content."""
    header_at = source.position
    header, extension = _next_header(source)
    if header is None:
        raise ArchiveError("the archive ends where an entry should be")
    entry = _entry(header, extension, header_at, source.position, limits)
    uid, gid = _owner(header, extension)
    return Member(
        entry=entry,
        mode=_mode(header, entry.kind),
        uid=uid,
        gid=gid,
        device=_device(header) if entry.kind in (CHARACTER, BLOCK) else (0, 0),
        xattrs=tuple(extension.xattrs),
    )


def _mode(header: bytes, kind: bytes) -> int:
    mode = _number(header[100:108], "mode")
    rest = mode & ~_MODE_BITS
    if rest and rest != _KIND_BITS.get(kind, _KIND_BITS[REGULAR]):  # mksquashfs would take it over
        raise ArchiveError(f"an entry's mode says that it is something else ({mode:o})")
    return mode & _MODE_BITS


def _owner(header: bytes, extension: _Extension) -> tuple[int, int]:
    uid = extension.uid if extension.uid is not None else _number(header[108:116], "uid")
    gid = extension.gid if extension.gid is not None else _number(header[116:124], "gid")
    if max(uid, gid) > _MAX_ID:
        raise ArchiveError(f"an entry has an owner no system knows ({max(uid, gid)})")
    return uid, gid


def _device(header: bytes) -> tuple[int, int]:
    major, minor = _number(header[329:337], "device"), _number(header[337:345], "device")
    if major > _MAX_DEVICE[0] or minor > _MAX_DEVICE[1]:
        raise ArchiveError(f"an entry has a device number no system knows ({major}, {minor})")
    return major, minor


@dataclass(slots=True)
class _Extension:
    """What headers before the entry's own say about it."""

    name: bytes | None = None
    link: bytes | None = None
    size: int | None = None
    mtime: int | None = None
    uid: int | None = None
    gid: int | None = None
    xattrs: list[tuple[bytes, bytes]] = field(default_factory=list)


def _next_header(source: Source) -> tuple[bytes | None, _Extension]:
    extension = _Extension()
    seen: set[bytes] = set()
    while True:
        header = source.read(BLOCK_BYTES)
        if header == _ZERO_BLOCK:
            if seen - {_PAX_GLOBAL}:
                raise ArchiveError("the archive is truncated: its last entry lacks a header")
            return None, extension
        check_header(header)
        kind = header[156:157]
        if kind not in (_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK):
            return header, extension
        if kind in seen:
            raise ArchiveError("an entry has two extended headers of one kind")
        seen.add(kind)
        size = _number(header[124:136], "size")
        if size > _MAX_EXTENSION_BYTES:
            raise ArchiveError(f"an extended header has {size} bytes")
        content = source.read(size)
        source.skip(-size % BLOCK_BYTES)
        _extend(extension, kind, content)


def _extend(extension: _Extension, kind: bytes, content: bytes) -> None:
    if kind == _GNU_NAME:
        extension.name = content.rstrip(b"\0")
    elif kind == _GNU_LINK:
        extension.link = content.rstrip(b"\0")
    else:
        for key, value in _pax_records(content):
            if key.startswith(b"GNU.sparse."):
                raise ArchiveError(
                    "a file is stored as sparse", hint="make the archive without tar --sparse"
                )
            if kind == _PAX_GLOBAL:
                if key in _NOT_FOR_ALL or key.startswith(_XATTR_KEYS):
                    raise ArchiveError(f"a global header sets {show(key)} for all entries")
            else:
                _extend_by(extension, key, value)


def _extend_by(extension: _Extension, key: bytes, value: bytes) -> None:
    if key == b"path":
        extension.name = value
    elif key == b"linkpath":
        extension.link = value
    elif key == b"size":
        extension.size = _decimal(value, "size")
    elif key == b"mtime":
        seconds = value.split(b".")[0]
        sign = -1 if seconds.startswith(b"-") else 1
        extension.mtime = sign * _decimal(seconds.removeprefix(b"-"), "mtime")
    elif key == b"uid":
        extension.uid = _decimal(value, "uid")
    elif key == b"gid":
        extension.gid = _decimal(value, "gid")
    elif key.startswith(_XATTR_KEYS):
        extension.xattrs.append((key, value))


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + 9)
        length = _decimal(content[at:space], "record") if space > at else 0
        record = content[space + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if length < 5 or at + length > len(content) or record[-1:] != b"\n" or not equals:
            raise ArchiveError("an extended header is malformed")
        yield key, value[:-1]
        at += length


def _entry(
    header: bytes, extension: _Extension, header_at: int, content_at: int, limits: Limits
) -> Entry:
    kind = header[156:157]
    if kind == b"\0":
        kind = REGULAR
    raw = extension.name if extension.name is not None else _ustar_name(header)
    link = extension.link if extension.link is not None else _text(header[157:257])
    name = _clean(raw, limits)
    if kind not in _KINDS:
        what = "is stored as sparse" if kind == b"S" else f"is of the unknown kind {kind!r}"
        raise ArchiveError(f"entry {show(raw)} {what}")
    if kind != DIRECTORY and raw.endswith(b"/"):
        raise ArchiveError(f"entry {show(raw)} is no folder, but its name ends in a slash")
    size = extension.size if extension.size is not None else _number(header[124:136], "size")
    if kind != REGULAR and size:
        raise ArchiveError(f"entry {show(raw)} has content, but is no regular file")
    _mode(header, kind)
    _owner(header, extension)
    if kind in (CHARACTER, BLOCK):
        _device(header)
    mtime = extension.mtime
    if mtime is None:
        mtime = _number(header[136:148], "mtime")
    # mksquashfs reads a prefix whatever the format; in GNU's, other things stand there
    prefixed = extension.name is None and header[345] and not _has_prefix(header)
    tidy = not prefixed and raw.removeprefix(b"./").removesuffix(b"/") == name
    return Entry(name, kind, size, link, mtime, content_at, header_at, tidy)


def _ustar_name(header: bytes) -> bytes:
    name = _text(header[0:100])
    if header[345] and _has_prefix(header):
        return _text(header[345:500]) + b"/" + name
    return name


def _has_prefix(header: bytes) -> bool:
    return header[257:263] == b"ustar\0"


def _clean(raw: bytes, limits: Limits) -> bytes:
    if len(raw) > limits.path_bytes:
        raise ArchiveError(f"an entry's path has {len(raw)} bytes: {show(raw[:64])}…")
    if raw.startswith(b"/"):
        raise ArchiveError(f"entry {show(raw)} has an absolute path")
    if not raw or b"\0" in raw:
        raise ArchiveError(f"entry {show(raw)} has no usable name")
    if b"//" not in raw and b"." not in raw:
        parts = raw.rstrip(b"/").split(b"/")
    else:
        parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise ArchiveError(f"entry {show(raw)} has a .. in its path")
    if len(raw) > limits.component_bytes and max(map(len, parts)) > limits.component_bytes:
        raise ArchiveError(f"entry {show(raw)} has a name of more than 255 bytes in its path")
    return b"/".join(parts)


def check_header(header: bytes) -> None:
    """Raise ArchiveError unless the block's checksum is right, counted as POSIX or as old tars."""
    field = header[148:156]
    try:
        stated = int(field.strip(b" \0"), 8)
    except ValueError:
        stated = -1
    if stated == sum(header) - sum(field) + 8 * 32:
        return
    signed = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + header[156:])
    if stated != signed + 8 * 32:
        raise ArchiveError("an entry's header is damaged (wrong checksum)")


def _text(field: bytes) -> bytes:
    end = field.find(b"\0")
    return field if end < 0 else field[:end]


def _number(field: bytes, what: str) -> int:
    if field[0] == 0xFF and what == "mtime":
        return int.from_bytes(field, "big", signed=True)  # GNU's way to write one below zero
    if field[0] & 0x80:
        return int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
    text = field.strip(b" \0")
    if text.strip(b"01234567"):
        raise ArchiveError(f"an entry's header is damaged ({what} {text!r})")
    return int(text or b"0", 8)


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ArchiveError(f"an extended header is malformed ({what} {text[:32]!r})")
    return int(text)
