"""Hypothesis strategies that spoil valid images: archives, manifests, compressed streams."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable

import zstandard
from aci_files import manifest
from hypothesis import strategies as st
from raw_tar import BLOCK_BYTES, folder, gnu_name, image, link, pax, raw, with_checksum

MEMBERS = (
    raw(b"rootfs/file", b"x" * 700),
    folder(b"rootfs/folder", mode=b"0001777"),
    raw(b"rootfs/folder/inner", b"y" * 100, uid=b"0000007", gid=b"0000010"),
    link(b"rootfs/soft", b"/etc/passwd"),
    link(b"rootfs/hard", b"rootfs/file", b"1"),
    raw(b"rootfs/device", kind=b"3", major=b"0000001", minor=b"0000003"),
    raw(b"rootfs/pipe", kind=b"6"),
    pax((b"path", b"rootfs/" + b"p" * 150), (b"SCHILY.xattr.user.a", b"1")) + raw(b"x", b"z" * 10),
    gnu_name(b"rootfs/" + b"g" * 150) + raw(b"x", b"z" * 10),
    raw(b"rootfs/implied/file", b"i"),
)
GOOD = image(*MEMBERS)
FIELDS = {
    "name": (0, 100), "mode": (100, 108), "uid": (108, 116), "gid": (116, 124),
    "size": (124, 136), "mtime": (136, 148), "kind": (156, 157), "link": (157, 257),
    "magic": (257, 265), "major": (329, 337), "minor": (337, 345), "prefix": (345, 500),
}  # fmt: skip
HEADERS = [at for at in range(0, len(GOOD), BLOCK_BYTES) if GOOD[at + 257 : at + 262] == b"ustar"]
COMPRESSORS: tuple[Callable[[bytes], bytes], ...] = (
    gzip.compress,
    bz2.compress,
    lzma.compress,
    zstandard.ZstdCompressor(write_checksum=True).compress,
)

_NUMBERS = st.sampled_from(
    (
        b"", b"0", b"1", b"7777777", b"0000010", b"00000001000", b"77777777777", b"-1", b" 12 ",
        b"9", b"0x1", b"\xff" * 12, b"\x80" + bytes(11), b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff",
        b"\x80\0\0\0\0\0\x01\0", b"1\0007", b"\t7", b"+5", b"1_0",
    )
)  # fmt: skip
_NAMES = st.sampled_from(
    (
        b"rootfs", b"rootfs/", b"./rootfs", b"rootfs/file", b"rootfs//a", b"rootfs/./a", b"..",
        b"rootfs/..", b"/rootfs/a", b"manifest", b"rootfs/folder/inner/a", b"rootfs/soft/a",
        b"rootfs/\xff", b"rootfs/a\nb", b"", b".", b"./", b"rootfs/a/", b"rootfs/" + b"n" * 93,
    )
)  # fmt: skip
_KEYS = st.sampled_from(
    (
        b"path", b"linkpath", b"size", b"mtime", b"atime", b"uid", b"gid", b"uname", b"comment",
        b"charset", b"hdrcharset", b"GNU.sparse.major", b"SCHILY.xattr.user.a", b"SCHILY.xattr.",
        b"SCHILY.xattr.security.capability", b"LIBARCHIVE.xattr.user.b",
        b"SCHILY.dev", b"SCHILY.devmajor",
        b"SCHILY.realsize", b"LIBARCHIVE.symlinktype", b"",
    )
)  # fmt: skip
_VALUES = _NUMBERS | _NAMES | st.binary(max_size=20)
_KINDS = st.sampled_from([bytes((kind,)) for kind in b"\x000123456789ADKLMNSVXgx"])


class Spoilt:
    """Bytes that print briefly."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __repr__(self) -> str:
        return f"<{len(self.content)} bytes>"


@st.composite
def images(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> Spoilt:
    """Whole files."""
    return Spoilt(draw(contents))


@st.composite
def flipped(draw: st.DrawFn, content: bytes) -> bytes:
    """A few bytes changed."""
    spoilt = bytearray(content)
    places = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for at, value in draw(st.lists(places, min_size=1, max_size=6)):
        spoilt[at] = value
    return bytes(spoilt)


@st.composite
def cut(draw: st.DrawFn, content: bytes) -> bytes:
    """The end missing."""
    return content[: draw(st.integers(0, len(content) - 1))]


@st.composite
def spliced(draw: st.DrawFn, content: bytes, unit: int = 1) -> bytes:
    """A piece copied to, or moved over, another place."""
    last = len(content) // unit
    start, length, to = (draw(st.integers(0, last)) for _ in range(3))
    piece = content[start * unit : (start + length) * unit]
    over = draw(st.booleans())
    return content[: to * unit] + piece + content[to * unit + (len(piece) if over else 0) :]


def _value(field: str) -> st.SearchStrategy[bytes]:
    if field == "kind":
        return _KINDS
    known = _NAMES if field in ("name", "link", "prefix") else _NUMBERS
    return known | st.binary(max_size=12)


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """Header fields changed, with checksums that fit."""
    spoilt = bytearray(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(HEADERS))
        field = draw(st.sampled_from(sorted(FIELDS)))
        start, end = FIELDS[field]
        value = draw(_value(field))[: end - start]
        spoilt[at + start : at + end] = value.ljust(end - start, b"\0")
        spoilt[at : at + BLOCK_BYTES] = with_checksum(bytes(spoilt[at : at + BLOCK_BYTES]))
    return bytes(spoilt)


@st.composite
def extended(draw: st.DrawFn) -> bytes:
    """PAX headers and GNU long names put in."""
    members = list(MEMBERS)
    for _ in range(draw(st.integers(1, 2))):
        records: list[tuple[bytes, bytes] | bytes] = draw(
            st.lists(st.tuples(_KEYS, _VALUES) | st.binary(max_size=30), min_size=1, max_size=3)
        )
        extra = draw(
            st.sampled_from((pax(*records), pax(*records, kind=b"g")))
            | st.builds(gnu_name, _NAMES, st.sampled_from((b"L", b"K")))
        )
        members.insert(draw(st.integers(0, len(members))), extra)
    return image(*members)


@st.composite
def shuffled(draw: st.DrawFn) -> bytes:
    """Members in another order, some missing, some twice."""
    return image(*draw(st.lists(st.sampled_from(MEMBERS), max_size=12)))


ARCHIVES = st.one_of(
    flipped(GOOD), cut(GOOD), spliced(GOOD), spliced(GOOD, BLOCK_BYTES), edited(), extended(),
    shuffled(),
)  # fmt: skip


@st.composite
def compressed(draw: st.DrawFn) -> bytes:
    """A compressed image with its stream spoilt."""
    content = draw(st.sampled_from(COMPRESSORS))(GOOD)
    return draw(st.one_of(flipped(content), cut(content), spliced(content)))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_MANIFEST = manifest(
    annotations=[{"name": "created", "value": "2020"}],
    pathWhitelist=["/file"],
    app={
        "exec": ["/a", "b"], "user": "0", "group": "0", "workingDirectory": "/",
        "environment": [{"name": "A", "value": "b"}],
        "isolators": [{"name": "resource/memory", "value": {"limit": "1G"}}],
        "mountPoints": [{"name": "a", "path": "/a"}],
        "ports": [{"name": "http", "protocol": "tcp", "port": 80}],
        "eventHandlers": [{"name": "pre-start", "exec": ["/a"]}],
    },
)  # fmt: skip
_TEXT = json.dumps(_MANIFEST).encode()
_TOKENS = st.sampled_from(
    (b"null", b"[]", b"{}", b'"\\ud800"', b"1e999", b"-0", b"NaN", b'"\\u0000"', b'"../x"', b"\xff")
)


@st.composite
def _replaced(draw: st.DrawFn) -> bytes:
    """A quoted text or a number of the manifest replaced by something else."""
    parts = _TEXT.split(b'"')
    at = draw(st.integers(0, len(parts) // 2 - 1)) * 2 + 1
    front, back = b'"'.join(parts[:at]), b'"'.join(parts[at + 1 :])
    return front + draw(_TOKENS | _JSON.map(lambda value: json.dumps(value).encode())) + back


MANIFESTS = st.one_of(
    flipped(_TEXT), cut(_TEXT), spliced(_TEXT), _replaced(), st.binary(max_size=40),
    _JSON.map(lambda value: json.dumps(value).encode()),
).map(lambda text: image(document=text))  # fmt: skip
