"""Frames: many streams over the one port `kvmrkt.ssh` (docs/protocol.md).

Pure: from bytes to frames and back. A frame is a kind (1 byte), a stream's number and the length
of what follows (4 bytes each, big endian). Each side may have CREDIT_BYTES of a stream under way.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from kvmrkt.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Iterator

CREDIT_BYTES = 256 << 10
"""What a side may send of a stream before the other has taken any of it."""
DATA_BYTES = (32 << 10) - 9
"""What one frame of ours carries: the guest's driver takes 32 KiB at once."""
_HEADER = struct.Struct(">BII")
_AMOUNT = struct.Struct(">I")


class Kind(IntEnum):
    """What a frame is about."""

    OPEN = 1
    """A new stream; from the host only."""
    DATA = 2
    CREDIT = 3
    """So many bytes were taken (4 bytes, big endian)."""
    CLOSE = 4
    """The stream is over, both ways."""


class Frame(NamedTuple):
    """One frame."""

    kind: Kind
    stream: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """The frame as bytes."""
        return _HEADER.pack(self.kind, self.stream, len(self.payload)) + self.payload

    @property
    def amount(self) -> int:
        """What a CREDIT gives; raises GuestError where it is none."""
        try:
            amount: int = _AMOUNT.unpack(self.payload)[0]
        except struct.error:
            raise _broken(f"a credit of {len(self.payload)} bytes") from None
        return amount


def credit(stream: int, amount_bytes: int) -> Frame:
    """The frame that gives credit back."""
    return Frame(Kind.CREDIT, stream, _AMOUNT.pack(amount_bytes))


class FrameReader:
    """Cuts what a guest sends into frames; raises GuestError for what is none."""

    def __init__(self) -> None:
        """Nothing read yet."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with these bytes."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            kind, stream, length = _HEADER.unpack_from(self._buffer)
            if kind not in (Kind.DATA, Kind.CREDIT, Kind.CLOSE):
                raise _broken(f"a frame of kind {kind}")
            if length > CREDIT_BYTES:
                raise _broken(f"a frame of {length} bytes")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(memoryview(self._buffer)[_HEADER.size : end])
            del self._buffer[:end]
            yield Frame(Kind(kind), stream, payload)


def _broken(what: str) -> GuestError:
    return GuestError(
        f"the guest broke the protocol on the port kvmrkt.ssh with {what}",
        hint="the pod was ended: its SSH server, or its kernel, is not to be trusted",
    )
