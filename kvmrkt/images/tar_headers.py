"""Headers of a tar archive that kvmrkt writes itself: ustar, with PAX records where they are due.

Everything is written in one way only, so that the same members give the same bytes.
"""

from __future__ import annotations

from kvmrkt.images import tar

_NAME_BYTES = 100
_MAX_SIZE = 8**11
_MAX_ID = 8**7
END = bytes(2 * tar.BLOCK_BYTES)
"""What closes an archive."""


def header(
    name: bytes,
    kind: bytes,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size_bytes: int = 0,
    mtime_seconds: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    xattrs: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """The header blocks of one member; `xattrs` are PAX records as `tar.Member` has them."""
    records = list(xattrs)
    for key, number, limit in (
        (b"uid", uid, _MAX_ID),
        (b"gid", gid, _MAX_ID),
        (b"size", size_bytes, _MAX_SIZE),
        (b"mtime", mtime_seconds, _MAX_SIZE),
    ):
        if number >= limit:
            records.append((key, b"%d" % number))
    if len(name) > _NAME_BYTES:
        records.append((b"path", name))
    if len(link) > _NAME_BYTES:
        records.append((b"linkpath", link))
    front = b""
    if records:
        content = b"".join(_record(key, value) for key, value in sorted(records))
        front = _block(b"pax", b"x", 0o644, 0, 0, len(content), 0, b"", (0, 0)) + padded(content)
    own = _block(
        name[:_NAME_BYTES],
        kind,
        mode,
        uid if uid < _MAX_ID else 0,
        gid if gid < _MAX_ID else 0,
        size_bytes if size_bytes < _MAX_SIZE else 0,
        mtime_seconds if mtime_seconds < _MAX_SIZE else 0,
        link[:_NAME_BYTES],
        device,
    )
    return front + own


def member_header(member: tar.Member, name: bytes, *, hard_link_to: bytes | None = None) -> bytes:
    """The header blocks of a member out of another archive, under a new name.

    With `hard_link_to` it becomes a hard link to that entry, whatever it was.
    """
    entry = member.entry
    if hard_link_to is not None:
        return header(name, tar.HARD_LINK, link=hard_link_to, mode=member.mode)
    return header(
        name,
        entry.kind,
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        size_bytes=entry.size_bytes,
        mtime_seconds=min(max(entry.mtime_seconds, 0), tar.MAX_SECONDS),
        link=entry.link if entry.kind == tar.SYMLINK else b"",
        device=member.device,
        xattrs=member.xattrs,
    )


def padded(content: bytes) -> bytes:
    """Content, filled up to whole blocks."""
    return content + bytes(-len(content) % tar.BLOCK_BYTES)


def _record(key: bytes, value: bytes) -> bytes:
    """A PAX record: its length, itself counted in, then key=value (POSIX pax, 4.4)."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while length != len(rest) + len(b"%d" % length):
        length = len(rest) + len(b"%d" % length)
    return b"%d%s" % (length, rest)


def _block(
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size_bytes: int,
    mtime_seconds: int,
    link: bytes,
    device: tuple[int, int],
) -> bytes:
    front = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name.ljust(_NAME_BYTES, b"\0"), mode, uid, gid, size_bytes, mtime_seconds,
    )  # fmt: skip
    back = b"%s%sustar\x0000%s%07o\0%07o\0%s" % (
        kind, link.ljust(_NAME_BYTES, b"\0"), bytes(64), *device, bytes(167),
    )  # fmt: skip
    checksum = sum(front) + sum(back) + 8 * 32
    return b"%s%06o\0 %s" % (front, checksum, back)
