"""The outermost layer of OpenPGP files: ASCII armor and packet borders (RFC 9580, 4 and 6).

Everything is bounded and nothing is decompressed: a library that reads a whole pile of packets
would follow compressed ones, and one mebibyte can hold a gibibyte.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, NamedTuple

from kvmrkt.errors import SignatureError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 1 << 20
"""No key file and no signature file is larger."""

SIGNATURE = 2
SECRET_KEY = 5
PUBLIC_KEY = 6
SECRET_SUBKEY = 7
MARKER = 10
TRUST = 12
USER_ID = 13
PUBLIC_SUBKEY = 14
USER_ATTRIBUTE = 17
PADDING = 21

_BEGIN = b"-----BEGIN PGP "
_END = b"-----END PGP "
_DASHES = b"-----"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PARTIAL_LENGTHS = range(224, 255)


class Packet(NamedTuple):
    """One packet: its type and all of its bytes, header included."""

    tag: int
    raw: bytes


def read_packets(data: bytes, source: str) -> list[Packet]:
    """The packets of a file, armored (in one block or several) or binary.

    Raises SignatureError for what is no OpenPGP file, or too large a one.
    """
    if len(data) > MAX_BYTES:
        raise SignatureError(f"{source}: larger than {MAX_BYTES} bytes")
    data = data.removeprefix(_BYTE_ORDER_MARK)
    if not data:
        raise SignatureError(f"{source}: the file is empty")
    blocks = [data] if data[0] & 0x80 else list(_armored_blocks(data, source))
    if not blocks:
        raise SignatureError(f"{source}: no OpenPGP data in it, neither armored nor binary")
    return [packet for block in blocks for packet in _packets(block, source)]


def _armored_blocks(data: bytes, source: str) -> Iterator[bytes]:
    """The content of each armored block; text around the blocks means nothing."""
    lines = iter(data.splitlines())
    for line in lines:
        if line.startswith(_BEGIN) and line.rstrip().endswith(_DASHES):
            kind = line.rstrip()[len(_BEGIN) : -len(_DASHES)]
            if kind == b"SIGNED MESSAGE":
                raise SignatureError(f"{source}: a message with its text inside, nothing detached")
            yield _armored_block(lines, source)


def _armored_block(lines: Iterator[bytes], source: str) -> bytes:
    """Decode up to the block's last line; its checksum is optional and proves nothing."""
    for line in lines:  # the armor's headers end with an empty line
        if not line.strip():
            break
    encoded = bytearray()
    for line in lines:
        line = line.strip()
        if line.startswith(_END):
            break
        if not line.startswith(b"="):
            encoded += line
    else:
        raise SignatureError(f"{source}: the armored block has no end")
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise SignatureError(f"{source}: the armored block is damaged") from None


def _packets(data: bytes, source: str) -> Iterator[Packet]:
    position = 0
    while position < len(data):
        tag, start, length = _header(data, position, source)
        if start + length > len(data):
            raise SignatureError(f"{source}: the OpenPGP data is cut off")
        yield Packet(tag, data[position : start + length])
        position = start + length


def _header(data: bytes, position: int, source: str) -> tuple[int, int, int]:
    """The packet's type, where its body begins, and the body's length."""
    first = data[position]
    if not first & 0x80:
        raise SignatureError(f"{source}: not an OpenPGP file")
    if first & 0x40:
        tag, width = first & 0x3F, _length_width(data, position + 1)
        add = 192 if width == 2 else 0
    else:
        tag, width = (first >> 2) & 0x0F, (1, 2, 4, 0)[first & 3]
        add = 0
    if width == 0:
        raise SignatureError(f"{source}: an OpenPGP message, neither a key nor a signature")
    start = position + 1 + width
    octets = data[position + 1 : start]
    if len(octets) < width:
        raise SignatureError(f"{source}: the OpenPGP data is cut off")
    if width == 5:
        octets = octets[1:]
    length = int.from_bytes(octets)
    if add:
        length = ((octets[0] - 192) << 8) + octets[1] + add
    return tag, start, length


def _length_width(data: bytes, position: int) -> int:
    """How many octets a new-format length takes; 0 for a partial one."""
    first = data[position] if position < len(data) else 0
    if first < 192:
        return 1
    if first in _PARTIAL_LENGTHS:
        return 0
    return 5 if first == 255 else 2
