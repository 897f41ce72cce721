"""The HTTP session behind `web.session`; only that imports this module, which imports requests."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_auth_from_url

from kvmrkt import __version__
from kvmrkt.images.web.credentials import Login
from kvmrkt.images.web.http import shown_url

if TYPE_CHECKING:
    from kvmrkt.config import InsecureOptions
    from kvmrkt.images.web.credentials import Credentials

MAX_REDIRECTS = 10
CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
_NO_CREDENTIALS = "Kvmrkt-No-Credentials"
"""Marks a request, inside the session only, that came from https by a redirect to plain http."""


class PlainHttpError(requests.exceptions.InvalidSchema):
    """A request would have gone over plain http, which was not allowed."""


class WebSession(requests.Session):
    """Checks every hop: no plain http, and credentials for nobody but whom they are for."""

    def __init__(self, insecure: InsecureOptions, credentials: Credentials | None) -> None:
        """`insecure` says what may be lax; `credentials` go to the hosts they name."""
        super().__init__()
        self._verify = False if insecure.tls else _authorities()
        self.max_redirects = MAX_REDIRECTS
        self.stream = True
        self.headers.update(
            {"User-Agent": f"kvmrkt/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
        )
        self.auth = _from_url  # any at all keeps requests from reading ~/.netrc
        for prefix in ("https://", "http://"):
            self.mount(prefix, _Adapter(insecure, credentials))
        if insecure.tls:  # the user was told once; not again for every connection
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
        """Proxies as the environment says; trust as this session says."""
        return super().merge_environment_settings(*args, **kwargs) | {"verify": self._verify}

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where an answer redirects to; what is no URL at all is not followed."""
        try:
            target = super().get_redirect_target(resp)
            urlsplit(target or "").port  # noqa: B018 (reading it checks it)
        except ValueError as error:
            raise requests.exceptions.InvalidURL(f"redirected to no valid URL: {error}") from None
        return target

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """A request's own Authorization header stays with scheme, host and port."""
        before, after = _origin(response.url), _origin(prepared_request.url or "")
        if before != after:
            prepared_request.headers.pop("Authorization", None)
        if before[0] == "https" and after[0] == "http":
            prepared_request.headers[_NO_CREDENTIALS] = "1"


class _Adapter(HTTPAdapter):
    """Adds the configured credentials below the session, so that no redirect carries them on."""

    def __init__(self, insecure: InsecureOptions, credentials: Credentials | None) -> None:
        super().__init__()
        self._insecure = insecure
        self._credentials = credentials

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        url = request.url or ""
        if not url.lower().startswith("https://") and not self._insecure.http:
            raise PlainHttpError(f"plain http is not safe: {shown_url(url)}", request=request)
        request = request.copy()
        request.headers.pop("Cookie", None)  # a cookie jar minds no ports, and nobody needs one
        marked = request.headers.pop(_NO_CREDENTIALS, None) is not None
        if self._credentials is not None and not marked and "Authorization" not in request.headers:
            request.headers.update(self._credentials.headers_for(request.method or "GET", url))
        kwargs["timeout"] = kwargs.get("timeout") or (CONNECT_SECONDS, READ_SECONDS)
        answer = super().send(request, *args, **kwargs)
        if answer.is_redirect:  # requests would read its body whole, of whatever size
            answer.close()
            answer._content = b""
        return answer


def _authorities() -> str | bool:
    """Whom to trust: what the environment names, else this host's store, else requests' own."""
    named = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    paths = ssl.get_default_verify_paths()  # these follow SSL_CERT_FILE and SSL_CERT_DIR
    folder = paths.capath if paths.capath and _has_files(Path(paths.capath)) else None
    return named or paths.cafile or folder or True


def _has_files(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False


def _from_url(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """`https://user:password@host/` is basic authentication, as everywhere."""
    user, password = get_auth_from_url(request.url or "")
    if user and "Authorization" not in request.headers:
        request.headers.update(Login(user, password).headers_for("GET", ""))
    return request


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname or "", port
