"""Downloading an image archive from a URL."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

from kvmrkt.errors import ImageError, ImageNotFoundError
from kvmrkt.images.store import Source, storing

if TYPE_CHECKING:
    from typing import IO

    from kvmrkt.config import InsecureOptions
    from kvmrkt.images.store import Image, Store

MAX_DOWNLOAD_BYTES = 16 << 30
_TIMEOUT_SECONDS = (10.0, 60.0)
_CHUNK_BYTES = 1 << 18
_MAX_REDIRECTS = 10


def fetch_aci(store: Store, url: str, *, insecure: InsecureOptions) -> Image:
    """Download an image into the store, unless the server says it is what the store has.

    Only https, also after a redirect, unless `insecure.http`. Raises ImageNotFoundError for a
    server that has no such image, ImageError for one that cannot be reached or trusted.
    """
    _check_scheme(url, url, insecure)
    import requests

    known = store.known_source("url", url)
    headers = {"Accept-Encoding": "identity"}
    if known is not None and known[0]:
        headers["If-None-Match"] = known[0]
    with requests.Session() as session:
        session.max_redirects = _MAX_REDIRECTS
        session.verify = not insecure.tls
        session.hooks["response"].append(lambda answer, **_: _check_redirect(answer, url, insecure))
        try:
            with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as answer:
                if known is not None and answer.status_code == requests.codes.not_modified:
                    return known[1]
                _check_status(answer, url)
                return _import(store, answer, url)
        except requests.RequestException as error:
            raise ImageError(f'cannot download image "{url}": {_reason(error)}') from None


def _import(store: Store, answer: Any, url: str) -> Image:
    action = f'download "{url}" into the image store'
    with storing(action):
        folder = store.data.cas / "tmp"
        folder.mkdir(exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        _receive(answer, file, url, action)
        file.seek(0)
        source = Source("url", url, answer.headers.get("ETag", ""), latest=False)
        return store.import_aci(file, source)


def _receive(answer: Any, file: IO[bytes], url: str, action: str) -> None:
    announced = answer.headers.get("Content-Length", "")
    received = 0
    for chunk in answer.iter_content(_CHUNK_BYTES):
        received += len(chunk)
        if received > MAX_DOWNLOAD_BYTES:
            raise ImageError(
                f'cannot download image "{url}": larger than {MAX_DOWNLOAD_BYTES} bytes'
            )
        with storing(action):  # only this: what requests raises are OSErrors too
            file.write(chunk)
    if announced.isdigit() and int(announced) != received:
        raise ImageError(
            f'cannot download image "{url}": the connection broke after {received}'
            f" of {announced} bytes"
        )


def _check_scheme(url: str, asked: str, insecure: InsecureOptions) -> None:
    if not url.lower().startswith("https://") and not insecure.http:
        way = "" if url == asked else f": redirected to {url}"
        raise ImageError(
            f'cannot download image "{asked}"{way}: plain http is not safe',
            hint="use https, or --insecure-options=http",
        )


def _check_redirect(answer: Any, asked: str, insecure: InsecureOptions) -> None:
    from urllib.parse import urljoin

    if answer.is_redirect:
        _check_scheme(urljoin(answer.url, answer.headers["Location"]), asked, insecure)


def _check_status(answer: Any, url: str) -> None:
    if answer.status_code in (404, 410):
        raise ImageNotFoundError(f'cannot download image "{url}": the server has no such file')
    if answer.status_code != 200:
        raise ImageError(
            f'cannot download image "{url}": bad HTTP status code: {answer.status_code}'
        )


def _reason(error: Exception) -> str:
    """The innermost cause; what requests wraps around it is about its own machinery."""
    reason: BaseException = error
    while reason.__cause__ or reason.__context__:
        reason = reason.__cause__ or reason.__context__ or reason
    return str(reason) or type(error).__name__
