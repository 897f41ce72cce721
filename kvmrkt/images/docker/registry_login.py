"""Proving to a registry who is asking: its challenges, basic authentication, and tokens.

A registry answers a request with 401 and says how to authenticate: with a user and a password, or
with a token that some other server gives for them, or to anybody.
"""

from __future__ import annotations

import re
import threading
import time
from base64 import b64encode
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.appc.decode import decode
from kvmrkt.errors import ImageError
from kvmrkt.images.web import http as web

if TYPE_CHECKING:
    import requests

_MAX_TOKEN_BYTES = 1 << 16
_DEFAULT_LIFE_SECONDS = 60
_MARGIN_SECONDS = 10.0
_SCHEME = re.compile(r"[\s,]*([A-Za-z][A-Za-z0-9_-]*)(?=[\s,]|$)")
_PARAMETER = re.compile(r'[\s,]*([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_ESCAPED = re.compile(r"\\(.)")


class Challenge(msgspec.Struct, frozen=True):
    """One way to authenticate; names in lower case."""

    scheme: str
    parameters: dict[str, str]


class _Token(msgspec.Struct, frozen=True):
    """What a token server answers; some call the token so, some so."""

    token: str = ""
    access_token: str = ""
    expires_in: int = _DEFAULT_LIFE_SECONDS


_TOKEN = msgspec.json.Decoder(_Token)


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of a WWW-Authenticate header; what is malformed ends the list."""
    challenges: list[Challenge] = []
    at = 0
    while match := _SCHEME.match(header, at):
        at = match.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, at):
            at = parameter.end()
            text = parameter[2] if parameter[3] is None else parameter[3]
            parameters[parameter[1].lower()] = _ESCAPED.sub(r"\1", text)
        challenges.append(Challenge(match[1].lower(), parameters))
    return challenges


class RegistryLogin:
    """Authorization for pulling one repository; may be used from several threads at once."""

    def __init__(
        self,
        session: requests.Session,
        *,
        registry: str,
        repository: str,
        login: tuple[str, str] | None,
    ) -> None:
        """`login` is user and password, if any are known."""
        self._session = session
        self._registry = registry
        self._scope = f"repository:{repository}:pull"
        self._login = login
        self._challenge: Challenge | None = None
        self._token = ""
        self._expires = 0.0
        self._lock = threading.Lock()

    def headers(self) -> dict[str, str]:
        """What to send along; ImageError if the token that is needed cannot be had."""
        with self._lock:
            if self._challenge is None:
                return {}
            if self._challenge.scheme == "basic":
                return self._basic()
            if time.monotonic() >= self._expires:
                self._fetch_token(self._challenge)
            return {"Authorization": f"Bearer {self._token}"}

    def accept(self, header: str) -> bool:
        """Take up a challenge; False if there is nothing to answer it with."""
        with self._lock:
            for challenge in parse_challenges(header):
                bearer = challenge.scheme == "bearer" and "realm" in challenge.parameters
                if bearer or (challenge.scheme == "basic" and self._login is not None):
                    self._challenge = challenge
                    self._expires = 0.0
                    return True
        return False

    def _basic(self) -> dict[str, str]:
        if self._login is None:
            return {}
        encoded = b64encode(":".join(self._login).encode()).decode()
        return {"Authorization": f"Basic {encoded}"}

    def _fetch_token(self, challenge: Challenge) -> None:
        action = f"log in to registry {self._registry}"
        parameters = {"scope": self._scope}
        if service := challenge.parameters.get("service"):
            parameters["service"] = service
        started = time.monotonic()
        with (
            web.asking(action),
            self._session.get(
                challenge.parameters["realm"], params=parameters, headers=self._basic()
            ) as answer,
        ):
            if answer.status_code in web.UNAUTHORIZED:
                raise ImageError(
                    f"cannot {action}: it demands another login (status {answer.status_code})",
                    hint=login_hint(self._registry),
                )
            web.check_status(answer, action)
            data = read_body(answer, _MAX_TOKEN_BYTES, action)
        try:
            token = decode(data, _TOKEN, "token")
        except ImageError as error:
            raise ImageError(f"cannot {action}: its token server answered nonsense") from error
        self._token = token.token or token.access_token
        if not (self._token.isascii() and self._token.isprintable() and self._token):
            raise ImageError(f"cannot {action}: its token server gave no usable token")
        life = max(token.expires_in, 0)
        self._expires = started + life - min(_MARGIN_SECONDS, life / 4)


def login_hint(registry: str) -> str:
    """What to do where a login is lacking or wrong."""
    return f"configure a login for {registry} in auth.d (rktKind dockerAuth)"


def read_body(answer: requests.Response, limit_bytes: int, action: str) -> bytes:
    """A whole small body, for use within `web.asking`; ImageError if it is too large."""
    content = bytearray()
    for chunk in web.body(answer):
        content += chunk
        if len(content) > limit_bytes:
            raise ImageError(f"cannot {action}: the answer is larger than {limit_bytes} bytes")
    return bytes(content)
