"""Content that must have the digest it is known by."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

from kvmrkt.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

_DRAIN_BYTES = 1 << 18


class Readable(Protocol):
    """What blobs are read from."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes, at least one; none at the end."""


def digest_of(data: bytes) -> str:
    """The SHA-256 digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def check_content(data: bytes, digest: str, what: str) -> None:
    """Raise ImageError unless these are the bytes with this digest."""
    actual = hasher(digest)
    actual.update(data)
    check_digests(f"{actual.name}:{actual.hexdigest()}", digest, what)


def check_digests(actual: str, expected: str, what: str) -> None:
    """Raise ImageError unless the digests are equal."""
    if actual != expected:
        raise ImageError(f"{what} is not what it should be: it has the digest {actual}")


def hasher(digest: str) -> hashlib._Hash:
    """What computes digests of the same kind; SHA-256 where there is none to compare with."""
    return hashlib.new(digest.partition(":")[0] or "sha256")


class VerifiedStream:
    """A stream of which the size, and by `finish` the digest, are what they should be."""

    def __init__(
        self, stream: Readable, *, digest: str, size_bytes: int, advance: Callable[[int], None]
    ) -> None:
        """An empty `digest` is not checked; `advance` is told of every piece."""
        self._stream = stream
        self._digest = digest
        self._size_bytes = size_bytes
        self._advance = advance
        self._hash = hasher(digest)
        self._received = 0
        self._front = b""

    def beginning(self, size: int) -> bytes:
        """The first bytes, without reading them away: `size` of them, or all there are."""
        while len(self._front) < size and (more := self._receive(size - len(self._front))):
            self._front += more
        return self._front[:size]

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end."""
        if self._front:
            data, self._front = self._front[:size], self._front[size:]
            return data
        return self._receive(size)

    def finish(self) -> None:
        """Read what is left; ImageError if this was not the content it should be."""
        while self._receive(_DRAIN_BYTES):
            continue
        if self._received < self._size_bytes:
            raise ImageError(f"it ends after {self._received} of {self._size_bytes} bytes")
        if self._digest:
            actual = f"{self._hash.name}:{self._hash.hexdigest()}"
            check_digests(actual, self._digest, "the content")

    def _receive(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._received += len(data)
        if self._received > self._size_bytes:
            raise ImageError(f"it is larger than the {self._size_bytes} bytes it should have")
        self._hash.update(data)
        self._advance(len(data))
        return data
