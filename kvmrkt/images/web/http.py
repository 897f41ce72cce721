"""The one door to the web: sessions that are careful, and what went wrong in plain words."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from kvmrkt.errors import ImageError, ImageNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

    from kvmrkt.config import InsecureOptions
    from kvmrkt.images.web.credentials import Credentials

NO_SUCH_FILE = (404, 410)
UNAUTHORIZED = (401, 403)
_CHUNK_BYTES = 1 << 18
_SMALL_SECONDS = 120.0
"""How long a small file may take as a whole, however steadily it drips."""
_MAX_CAUSES = 20
_SELF_EXPLAINING = (socket.gaierror, ssl.SSLError, http.client.IncompleteRead)


class SmallFile(msgspec.Struct, frozen=True):
    """A file that was read whole; `url` is where it was found after redirects."""

    body: bytes
    url: str
    status: int


@contextmanager
def session(
    insecure: InsecureOptions, credentials: Credentials | None = None
) -> Iterator[requests.Session]:
    """A session whose answers stream, to be used within `asking`.

    On every hop: https unless `insecure.http`, a trusted certificate unless `insecure.tls`. The
    configured credentials go to the host they are for, never along with a redirect; a request's
    own Authorization header is dropped when scheme, host or port change.
    """
    from kvmrkt.images.web.session import WebSession

    with WebSession(insecure, credentials) as made:
        yield made


@contextmanager
def asking(action: str) -> Iterator[None]:
    """Turn whatever fails on the network in the body into an ImageError: "cannot <action>: why"."""
    import requests
    import urllib3

    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        reason, hint = _explain(error)
        raise ImageError(f"cannot {action}: {reason}", hint=hint) from None


def check_status(answer: requests.Response, action: str) -> None:
    """Raise unless the status is 2xx; ImageNotFoundError if the server has no such file."""
    status = answer.status_code
    if 200 <= status < 300:
        return
    if status in NO_SUCH_FILE:
        raise ImageNotFoundError(f"cannot {action}: the server has no such file (status {status})")
    if status in UNAUTHORIZED:
        raise ImageError(
            f"cannot {action}: the server demands other credentials (status {status})",
            hint=f"configure them for {urlsplit(answer.url).netloc.rpartition('@')[2]} in auth.d",
        )
    raise ImageError(f"cannot {action}: bad HTTP status code: {status}")


def body(answer: requests.Response) -> Iterator[bytes]:
    """The bytes as they were sent and as they arrive; for use within `asking`."""
    while chunk := answer.raw.read1(_CHUNK_BYTES, decode_content=False):
        yield chunk


def fetch_small(
    url: str,
    *,
    insecure: InsecureOptions,
    credentials: Credentials | None,
    limit_bytes: int,
    action: str | None = None,
) -> SmallFile:
    """Read a file of at most so many bytes into memory.

    Raises ImageNotFoundError if the server has no such file, ImageError if it cannot be had.
    """
    action = action or f'download "{shown_url(url)}"'
    with asking(action), session(insecure, credentials) as web, web.get(url) as answer:
        check_status(answer, action)
        return SmallFile(read_small(answer, limit_bytes, action), answer.url, answer.status_code)


def shown_url(url: str) -> str:
    """The URL without the password it may hold."""
    start, mark, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    login, at, host = authority.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{start}{mark}{user}:...{at}{host}{slash}{path}" if at and colon else url


def read_small(
    answer: requests.Response, limit_bytes: int, action: str, *, cut: bool = False
) -> bytes:
    """The whole body; for use within `asking`.

    ImageError if it is larger, unless its beginning is enough (`cut`), or if it takes too long.
    """
    content = bytearray()
    end = time.monotonic() + _SMALL_SECONDS
    for chunk in body(answer):
        content += chunk
        if cut and len(content) >= limit_bytes:
            break
        if len(content) > limit_bytes:
            raise ImageError(f"cannot {action}: it is larger than {limit_bytes} bytes")
        if time.monotonic() > end:
            raise ImageError(f"cannot {action}: it did not end within {_SMALL_SECONDS:g} seconds")
    return bytes(content[:limit_bytes])


def _explain(error: Exception) -> tuple[str, str | None]:
    """What happened, and what to do about it."""
    import requests
    from urllib3 import exceptions as raw

    from kvmrkt.images.web.session import MAX_REDIRECTS, PlainHttpError

    inner = _innermost(error)
    reason = f"{inner}" or type(inner).__name__
    hint = None
    if isinstance(error, PlainHttpError):
        hint = "use https, or --insecure-options=http"
    elif isinstance(inner, ssl.SSLCertVerificationError):
        reason = f"the server's certificate is not trusted: {inner.verify_message}"
        hint = "add its authority to this host's store, or use --insecure-options=tls"
    elif isinstance(inner, ssl.SSLError):
        reason = f"TLS failed: {inner.reason or inner}"
    elif isinstance(error, requests.TooManyRedirects):
        reason = f"more than {MAX_REDIRECTS} redirects"
    elif isinstance(error, requests.Timeout | raw.TimeoutError):
        reason = "the server does not answer: timed out"
    elif isinstance(inner, http.client.IncompleteRead):
        reason = "the connection broke before the end"
    elif isinstance(inner, OSError) and inner.strerror:
        reason = inner.strerror
    if isinstance(error, requests.exceptions.ProxyError):
        reason = f"the proxy of the environment failed: {reason}"
    return reason, hint


def _innermost(error: BaseException) -> BaseException:
    """The first cause; what requests wraps around it is about its own machinery."""
    for _ in range(_MAX_CAUSES):
        cause = error.__cause__ or error.__context__
        if cause is None or isinstance(error, _SELF_EXPLAINING):
            break
        error = cause
    return error
