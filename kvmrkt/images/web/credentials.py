"""Who we are to the servers that images come from: the configuration's `auth` and `dockerAuth`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvmrkt.images.web.aws import AwsKey

if TYPE_CHECKING:
    from datetime import datetime

_DEFAULT_PORTS = {"https": 443, "http": 80}
DOCKER_HUB = ("registry-1.docker.io", "index.docker.io", "docker.io")
"""The names of one registry: what is spoken to, and what people and rkt's manual call it."""


class Login(msgspec.Struct, frozen=True):
    """A user's name and password."""

    user: str
    password: str

    def __repr__(self) -> str:
        """Without the password."""
        return f"Login({self.user!r})"

    def headers_for(self, method: str, url: str, *, now: datetime | None = None) -> dict[str, str]:
        """HTTP basic authentication."""
        from base64 import b64encode

        pair = f"{self.user}:{self.password}".encode(errors="surrogatepass")
        return {"Authorization": f"Basic {b64encode(pair).decode()}"}


class BearerToken(msgspec.Struct, frozen=True):
    """An OAuth bearer token."""

    token: str

    def __repr__(self) -> str:
        """Without the token."""
        return "BearerToken()"

    def headers_for(self, method: str, url: str, *, now: datetime | None = None) -> dict[str, str]:
        """Bearer authentication."""
        return {"Authorization": f"Bearer {self.token}"}


Credential = Login | BearerToken | AwsKey


class Credentials(msgspec.Struct, frozen=True):
    """What to authenticate with, by `host` or `host:port`, and by docker registry."""

    hosts: dict[str, Credential] = {}
    registries: dict[str, Login] = {}

    def headers_for(self, method: str, url: str, *, now: datetime | None = None) -> dict[str, str]:
        """The headers that authenticate a request without a body; none for an unknown host.

        A name without a port stands for the scheme's own port only.
        """
        credential = self._for_url(url)
        return {} if credential is None else credential.headers_for(method, url, now=now)

    def _for_url(self, url: str) -> Credential | None:
        from urllib.parse import urlsplit

        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:  # such a URL goes nowhere either
            return None
        if ":" in host:
            host = f"[{host}]"
        default = _DEFAULT_PORTS.get(parts.scheme)
        found = self.hosts.get(f"{host}:{port or default}")
        if found is None and port in (None, default):
            found = self.hosts.get(host)
        return found

    def docker_login(self, registry: str) -> tuple[str, str] | None:
        """User and password for a docker registry, `host` or `host:port`."""
        names = DOCKER_HUB if registry.lower() in DOCKER_HUB else (registry.lower(),)
        for name in names:
            if login := self.registries.get(name):
                return login.user, login.password
        return None
