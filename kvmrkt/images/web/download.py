"""Downloading one file, however often the connection breaks.

    cas/partial/<hash of the URL>        what has arrived
    cas/partial/<hash of the URL>.json   which state of the file at the server that is

Only what has a strong validator is ever continued, and only since the host was started last: after
a power failure a file may be as long as it should be and still not hold what was written.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from kvmrkt.errors import ImageError, ImageNotFoundError, StoreError
from kvmrkt.images.disk import storing
from kvmrkt.images.web import http as web

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    import requests

    from kvmrkt.config import InsecureOptions
    from kvmrkt.images.policy import Progress
    from kvmrkt.images.web.credentials import Credentials

_MAX_CUTS = 5
"""How often a broken connection is taken up again, if each time something arrived."""
_MAX_STATE_BYTES = 16 << 10
_BUFFER_BYTES = 1 << 18
_STRONG_AFTER_SECONDS = 60
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]{0,1024}"')
_LENGTH = re.compile(r"[0-9]{1,18}")
_MAX_AGE = re.compile(r"\bmax-age\s*=\s*\"?([0-9]{1,9})\b")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


class Download(msgspec.Struct, frozen=True):
    """A file that arrived whole; the server calls this state of it `etag`."""

    path: Path
    etag: str
    max_age_seconds: int


class _State(msgspec.Struct, frozen=True):
    """What the beginning of the file that lies there is the beginning of."""

    url: str
    validator: str
    boot: str
    total_bytes: int | None = None


class _Request(msgspec.Struct, frozen=True):
    """What is asked for; everything that does not change from one attempt to the next."""

    url: str
    path: Path
    action: str
    known_etag: str
    limit_bytes: int
    progress: Progress

    @property
    def state_path(self) -> Path:
        return self.path.with_suffix(".json")


@contextmanager
def download(
    url: str,
    folder: Path,
    *,
    insecure: InsecureOptions,
    credentials: Credentials | None,
    known_etag: str = "",
    limit_bytes: int,
    progress: Progress,
) -> Iterator[Download | None]:
    """The file at a URL for as long as the body runs; None if it is still in the known state.

    The caller holds a lock for the URL. What has arrived before the connection broke for good stays
    in `folder`, and the next call goes on from there. Raises as `web.fetch_small`, and StoreError.
    """
    action = f'download "{web.shown_url(url)}"'
    path = folder / hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()[:32]
    with storing(action):
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    asked = _Request(url, path, action, known_etag, limit_bytes, progress)
    try:
        with web.session(insecure, credentials) as session:
            found = _transfer(session, asked)
    except (ImageNotFoundError, StoreError):
        _forget(asked)
        raise
    except ImageError:
        if _load_state(asked) is None:
            _forget(asked)
        raise
    try:
        yield found
    except Exception:  # not for what ends the process: then the file is not known to be bad
        _forget(asked)
        raise
    _forget(asked)


def _transfer(session: requests.Session, asked: _Request) -> Download | None:
    """Ask until the whole file is there; gives up when nothing more arrives."""
    for _ in range(_MAX_CUTS):
        before = _size(asked.path)
        try:
            return _attempt(session, asked)
        except ImageError:
            if _load_state(asked) is None or _size(asked.path) <= before:
                raise
    return _attempt(session, asked)


def _attempt(session: requests.Session, asked: _Request) -> Download | None:
    state = _load_state(asked)
    if state is not None:
        with web.asking(asked.action), _get(session, asked, state) as answer:
            if answer.status_code == 304 and asked.known_etag:
                return None
            if _continues(answer, state, _offset(asked, state)):
                return _receive(answer, asked, state, _offset(asked, state))
            if answer.status_code == 200:
                return _receive_from_start(answer, asked)
            if answer.status_code not in (206, 412, 416):
                web.check_status(answer, asked.action)
        _forget(asked)
    with web.asking(asked.action), _get(session, asked, None) as answer:
        if answer.status_code == 304 and asked.known_etag:
            return None
        web.check_status(answer, asked.action)
        if answer.status_code != 200:
            raise ImageError(f"cannot {asked.action}: bad HTTP status code: {answer.status_code}")
        return _receive_from_start(answer, asked)


def _get(session: requests.Session, asked: _Request, state: _State | None) -> requests.Response:
    headers = {"If-None-Match": asked.known_etag} if asked.known_etag else {}
    if state is not None:
        headers |= {"Range": f"bytes={_offset(asked, state)}-", "If-Range": state.validator}
    return session.get(asked.url, headers=headers)


def _offset(asked: _Request, state: _State) -> int:
    """Where to go on; the last byte is asked for again if all is there, for want of a next one."""
    size = _size(asked.path)
    return size if state.total_bytes is None else min(size, state.total_bytes - 1)


def _continues(answer: requests.Response, state: _State, offset: int) -> bool:
    """Whether the answer is the rest of just that state of the file."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status_code != 206 or match is None:
        return False
    start, end, total = (int(number) for number in match.groups())
    validator = _validator(answer)
    return (
        (start, end + 1) == (offset, total)
        and state.total_bytes in (None, total)
        and validator in ("", state.validator)
    )


def _receive_from_start(answer: requests.Response, asked: _Request) -> Download:
    match = _LENGTH.fullmatch(answer.headers.get("Content-Length", ""))
    chunked = "Transfer-Encoding" in answer.headers
    total = None if match is None or chunked else int(match[0])
    state = _State(web.shown_url(asked.url), _validator(answer), _boot(), total)
    _forget(asked)
    if state.validator and total != 0:
        with storing(asked.action):
            asked.state_path.touch(mode=0o600)
            asked.state_path.write_bytes(msgspec.json.encode(state))
    return _receive(answer, asked, state, 0)


def _receive(answer: requests.Response, asked: _Request, state: _State, offset: int) -> Download:
    total, size = state.total_bytes, offset
    if total is None and (match := _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))):
        total = int(match[3])
    _check_size(total or 0, asked)
    label = urlsplit(asked.url).path.rpartition("/")[2] or urlsplit(asked.url).hostname or ""
    with asked.progress(label, total) as advance, _appending(asked, offset) as file:
        advance(offset)
        for chunk in web.body(answer):
            size += len(chunk)
            _check_size(size, asked)
            with storing(asked.action):  # only this: what requests raises are OSErrors too
                file.write(chunk)
            advance(len(chunk))
    if total is not None and size != total:
        _forget(asked)
        raise ImageError(f"cannot {asked.action}: {size} bytes came instead of {total}")
    etag = _etag(answer) or (state.validator if _ETAG.fullmatch(state.validator) else "")
    return Download(asked.path, etag, _max_age(answer))


@contextmanager
def _appending(asked: _Request, offset: int) -> Iterator[IO[bytes]]:
    with storing(asked.action):
        descriptor = os.open(asked.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        os.ftruncate(descriptor, offset)
        file = os.fdopen(descriptor, "ab", buffering=_BUFFER_BYTES)
    try:
        yield file
    finally:
        with storing(asked.action):
            file.close()


def _check_size(size: int, asked: _Request) -> None:
    if size > asked.limit_bytes:
        _forget(asked)
        raise ImageError(
            f"cannot {asked.action}: it is larger than {asked.limit_bytes} bytes",
            hint="the limit is maxDownloadBytes in images.d of the configuration",
        )


def _etag(answer: requests.Response) -> str:
    """The ETag if it has the form of one: it goes into a request again."""
    etag = str(answer.headers.get("ETag", ""))
    return etag if _ETAG.fullmatch(etag) else ""


def _validator(answer: requests.Response) -> str:
    """What proves that two answers are of one state, byte for byte; empty if nothing does."""
    if (etag := _etag(answer)).startswith('"'):
        return etag
    modified = str(answer.headers.get("Last-Modified", ""))
    try:
        sent = parsedate_to_datetime(answer.headers.get("Date", ""))
        age_seconds = (sent - parsedate_to_datetime(modified)).total_seconds()
    except (TypeError, ValueError):  # one is not there, or is no date
        return ""
    usable = age_seconds >= _STRONG_AFTER_SECONDS and modified.isascii() and modified.isprintable()
    return modified if usable else ""


def _max_age(answer: requests.Response) -> int:
    directives = answer.headers.get("Cache-Control", "").lower()
    match = _MAX_AGE.search(directives)
    if match is None or "no-store" in directives or "no-cache" in directives:
        return 0
    return int(match[1])


def _load_state(asked: _Request) -> _State | None:
    """The state of what lies there, if that can be continued."""
    try:
        with asked.state_path.open("rb") as file:
            state = msgspec.json.decode(file.read(_MAX_STATE_BYTES), type=_State)
    except (OSError, ValueError, RecursionError):
        return None
    usable = state.url == web.shown_url(asked.url) and state.boot == _boot() and state.validator
    return state if usable and _size(asked.path) > 0 else None


def _boot() -> str:
    return _BOOT_ID.read_text().strip()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _forget(asked: _Request) -> None:
    with storing(asked.action):
        asked.state_path.unlink(missing_ok=True)
        asked.path.unlink(missing_ok=True)
