"""Tar archives block by block, as no tool would write them: every field may lie."""

from __future__ import annotations

import json
from typing import Any

from aci_files import manifest

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
_OFFSETS = {
    "name": (0, 100), "mode": (100, 108), "uid": (108, 116), "gid": (116, 124),
    "size": (124, 136), "mtime": (136, 148), "checksum": (148, 156), "kind": (156, 157),
    "link": (157, 257), "magic": (257, 265), "owner": (265, 297), "major": (329, 337),
    "minor": (337, 345), "prefix": (345, 500),
}  # fmt: skip


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK_BYTES)


def with_checksum(block: bytes) -> bytes:
    """The header with the checksum that fits it."""
    total = sum(block[:148]) + sum(block[156:512]) + 8 * 32
    return block[:148] + b"%06o\0 " % total + block[156:]


def raw(name: bytes, content: bytes = b"", *, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A member; the fields stand as they are, and the checksum fits unless it is given too."""
    values = {
        "name": name, "mode": b"0000755", "uid": b"0000000", "gid": b"0000000",
        "size": b"%011o" % len(content), "mtime": b"00003641100", "kind": kind,
        "magic": b"ustar\x0000", "major": b"0000000", "minor": b"0000000",
    } | fields  # fmt: skip
    block = bytearray(BLOCK_BYTES)
    for field, value in values.items():
        start, end = _OFFSETS[field]
        block[start:end] = value[: end - start].ljust(end - start, b"\0")
    done = bytes(block) if "checksum" in fields else with_checksum(bytes(block))
    return done + padded(content)


def folder(name: bytes, **fields: bytes) -> bytes:
    return raw(name, kind=b"5", **fields)


def link(name: bytes, to: bytes, kind: bytes = b"2") -> bytes:
    """A symbolic link; a hard link with b"1"."""
    return raw(name, kind=kind, link=to)


def pax(*records: tuple[bytes, bytes] | bytes, kind: bytes = b"x") -> bytes:
    """An extended header; a record that is bytes alone stands as it is."""
    return raw(b"pax", b"".join(map(_record, records)), kind=kind)


def gnu_name(name: bytes, kind: bytes = b"L") -> bytes:
    """GNU's header for a long name; b"K" is for a long link."""
    return raw(b"././@LongLink", name + b"\0", kind=kind)


def _record(record: tuple[bytes, bytes] | bytes) -> bytes:
    if isinstance(record, bytes):
        return record
    rest = b" %s=%s\n" % record
    length = len(rest)
    while length != len(rest) + len(b"%d" % length):
        length = len(rest) + len(b"%d" % length)
    return b"%d%s" % (length, rest)


def image(*members: bytes, document: Any = None, end: bytes = END) -> bytes:
    """An image's archive: manifest, rootfs, and the members. A document of bytes is taken as is."""
    text = document if isinstance(document, bytes) else json.dumps(document or manifest()).encode()
    return bare(raw(b"manifest", text), folder(b"rootfs"), *members, end=end)


def bare(*members: bytes, end: bytes = END) -> bytes:
    """Nothing but the members and the end."""
    return b"".join(members) + end
