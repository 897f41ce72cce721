"""A blob of a registry as one stream, whatever happens to the connections it comes through."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol, Self

from kvmrkt.errors import ImageError
from kvmrkt.images.web import http as web

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

    from kvmrkt.images.docker.sources import Layer

_MAX_BREAKS = 20
_MAX_BREAKS_IN_VAIN = 3
"""Connections that may break one after another without a byte gained."""
_SKIP_BYTES = 1 << 18
_START = re.compile(r"bytes (\d+)-")


class Get(Protocol):
    """`RegistryClient.get`."""

    def __call__(
        self, path: str, action: str, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """A streaming answer with a good status."""


class BlobStream:
    """A context manager; `read` gives the blob's bytes in order."""

    def __init__(self, get: Get, layer: Layer) -> None:
        """Asks for nothing yet."""
        self._get = get
        self._layer = layer
        self._action = f"download layer {layer.digest}"
        self._answer: requests.Response | None = None
        self._position = 0
        self._breaks = 0
        self._breaks_in_vain = 0

    def __enter__(self) -> Self:
        """The stream itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._close()

    def read(self, size: int, /) -> bytes:
        """The next bytes; none at the end. ImageError if they cannot be had."""
        if self._position >= self._layer.size_bytes:
            return b""
        import requests
        import urllib3

        while True:
            try:
                if data := self._receive(size):
                    self._position += len(data)
                    self._breaks_in_vain = 0
                    return data
                raise requests.ConnectionError(
                    f"the connection ended after {self._position} of {self._layer.size_bytes} bytes"
                )
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                self._break(error)

    def _receive(self, size: int) -> bytes:
        if self._answer is None:
            self._answer = self._open()
        data: bytes = self._answer.raw.read1(size, decode_content=False)
        return data

    def _open(self) -> requests.Response:
        headers = {"Range": f"bytes={self._position}-"} if self._position else {}
        answer = self._get(f"blobs/{self._layer.digest}", self._action, headers)
        try:
            if self._position:
                self._go_on(answer)
        except BaseException:
            answer.close()
            raise
        return answer

    def _go_on(self, answer: requests.Response) -> None:
        """Come to where the last connection broke, though the server may begin anew."""
        at = 0
        if answer.status_code == 206:
            match = _START.match(answer.headers.get("Content-Range", ""))
            at = int(match[1]) if match else -1
            if at != self._position:
                raise ImageError(f"cannot {self._action}: the server sends another part of it")
        while at < self._position:
            skipped = answer.raw.read1(min(_SKIP_BYTES, self._position - at), decode_content=False)
            if not skipped:
                raise ImageError(f"cannot {self._action}: it has become shorter")
            at += len(skipped)

    def _break(self, error: Exception) -> None:
        """Get ready for another connection, unless there were too many."""
        self._close()
        self._breaks += 1
        self._breaks_in_vain += 1
        if self._breaks > _MAX_BREAKS or self._breaks_in_vain > _MAX_BREAKS_IN_VAIN:
            with web.asking(self._action):
                raise error

    def _close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None
