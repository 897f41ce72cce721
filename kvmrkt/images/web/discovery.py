"""From an image's name to where it and its keys are (appc/spec, discovery.md; reference, C.5).

Meta discovery: the page `https://NAME?ac-discovery=1` says it in `meta` tags; where it does not,
NAME is cut by one path element from the right, and asked again. If no page knows the name, simple
discovery of the specification's first versions: `https://NAME-VERSION-OS-ARCH.aci`, if that exists.
Plain http is a second try for each page, and only with `--insecure-options=http`.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import msgspec

from kvmrkt.errors import ImageError, ImageNotFoundError
from kvmrkt.images.web import http as web
from kvmrkt.images.web.meta_tags import MAX_PAGE_BYTES, parse_meta

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvmrkt.config import InsecureOptions
    from kvmrkt.images.web.credentials import Credentials
    from kvmrkt.images.web.meta_tags import Meta

_DEFAULT_VERSION = "latest"
_SIMPLE = "{name}-{version}-{os}-{arch}.{ext}"
_MAX_PAGES = 16
_T = TypeVar("_T")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_ARCHES = {"x86_64": "amd64", "i686": "i386"}
_UNQUOTED = "/:@!$&'()*+,;=~"
"""What may stand in a URL's path as it is."""


class Endpoint(msgspec.Struct, frozen=True):
    """Where an image and its detached signature are."""

    aci_url: str
    signature_url: str


class _Names(msgspec.Struct, frozen=True):
    """What is looked for, and by which means."""

    name: str
    insecure: InsecureOptions
    credentials: Credentials | None
    port: int

    def url(self, scheme: str, path: str) -> str:
        host, slash, rest = path.partition("/")
        return f"{scheme}://{host}" + (f":{self.port}" if self.port else "") + slash + rest

    def ways(self) -> list[tuple[str, Credentials | None]]:
        """The schemes to try; in the clear nobody is told a secret because https failed."""
        return [("https", self.credentials), *([("http", None)] if self.insecure.http else [])]


def host_labels() -> dict[str, str]:
    """The labels `os` and `arch` of images for this host."""
    machine = os.uname().machine
    return {"os": "linux", "arch": _ARCHES.get(machine, machine)}


def discover(
    name: str,
    labels: Mapping[str, str],
    *,
    insecure: InsecureOptions,
    credentials: Credentials | None,
    port: int = 0,
) -> Endpoint:
    """The image of a name and labels; `os` and `arch` are this host's if they are not given.

    Raises ImageNotFoundError if nothing leads to such an image, ImageError if the name's server
    cannot be asked. `port` is another than the scheme's own.
    """
    wanted = host_labels() | dict(labels)
    names = _Names(name, insecure, credentials, port)
    attempts: list[str] = []
    found = _walk(names, lambda meta: _best_endpoints(meta, name, wanted), attempts)
    if found:
        return found[0]
    simple = _simple(names, {"version": _DEFAULT_VERSION} | wanted, attempts)
    if simple is not None:
        return simple
    raise ImageNotFoundError(
        f'discovery failed for "{name}": no server says where to find it',
        details="\n".join(attempts),
    )


def discover_keys(
    name: str, *, insecure: InsecureOptions, credentials: Credentials | None, port: int = 0
) -> list[str]:
    """The URLs of keys said to sign images of a name; none if no page names any.

    Raises ImageError if the name's server cannot be asked.
    """
    names = _Names(name, insecure, credentials, port)
    return _walk(
        names, lambda meta: [url for prefix, url in meta.keys if name.startswith(prefix)], []
    )


def render_template(template: str, values: Mapping[str, str]) -> tuple[str, int] | None:
    """The URL of a template, and how many labels went in; None if one is not there."""
    used = set(_PLACEHOLDER.findall(template))
    if not used <= values.keys():
        return None
    url = _PLACEHOLDER.sub(lambda match: quote(values[match[1]], safe=_UNQUOTED), template)
    return url, len(used - {"name", "ext"})


def _best_endpoints(meta: Meta, name: str, labels: Mapping[str, str]) -> list[Endpoint]:
    """The endpoints of the templates that use the most labels, in the page's order.

    A template with {version} is for those who want one; where only such are offered, whoever wants
    none wants the latest.
    """
    templates = [template for prefix, template in meta.acis if name.startswith(prefix)]
    for values in (labels, {"version": _DEFAULT_VERSION} | dict(labels)):
        rendered = [_endpoint(template, name, values) for template in templates]
        found = [endpoint for endpoint in rendered if endpoint is not None]
        if found:
            best = max(count for _, count in found)
            return [endpoint for endpoint, count in found if count == best]
    return []


def _endpoint(template: str, name: str, labels: Mapping[str, str]) -> tuple[Endpoint, int] | None:
    """The endpoint and the number of labels in it; None if the template is of no use."""
    values = dict(labels) | {"name": name}
    aci = render_template(template, values | {"ext": "aci"})
    signature = render_template(template, values | {"ext": "aci.asc"})
    usable = "{ext}" in template and template.lower().startswith(("https://", "http://"))
    if aci is None or signature is None or not usable:
        return None
    return Endpoint(aci[0], signature[0]), aci[1]


def _walk(names: _Names, look: Callable[[Meta], list[_T]], attempts: list[str]) -> list[_T]:
    parts = names.name.split("/")[:_MAX_PAGES]
    for end in range(len(parts), 0, -1):
        page = _page(names, "/".join(parts[:end]), attempts)
        if page is not None and (found := look(parse_meta(page))):
            return found
        if page is not None:
            attempts.append(f"{'/'.join(parts[:end])}: the page says nothing about it")
    return []


def _page(names: _Names, path: str, attempts: list[str]) -> bytes | None:
    """The discovery page; None if the server has none, ImageError if it does not answer at all."""
    failures: list[ImageError] = []
    for scheme, credentials in names.ways():
        url = names.url(scheme, path) + "?ac-discovery=1"
        action = f'ask "{url}" for an image'
        try:
            with (
                web.asking(action),
                web.session(names.insecure, credentials) as session,
                session.get(url) as answer,
            ):
                if answer.status_code == 200:
                    return web.read_small(answer, MAX_PAGE_BYTES, action, cut=True)
                attempts.append(f"{url}: status {answer.status_code}")
        except ImageError as error:
            attempts.append(str(error))
            failures.append(error)
    if len(failures) == len(names.ways()):
        raise failures[0]
    return None


def _simple(names: _Names, labels: Mapping[str, str], attempts: list[str]) -> Endpoint | None:
    for scheme, credentials in names.ways():
        template = names.url(scheme, _SIMPLE.replace("{name}", names.name))
        rendered = _endpoint(template, names.name, labels)
        assert rendered is not None
        url = rendered[0].aci_url
        try:
            with (
                web.asking(f'ask for "{url}"'),
                web.session(names.insecure, credentials) as session,
                session.head(url, allow_redirects=True) as answer,
            ):
                page = "html" in answer.headers.get("Content-Type", "")  # an error page, at 200
                if answer.status_code == 200 and not page:
                    return rendered[0]
                attempts.append(f"{url}: status {answer.status_code}" + (", a page" * page))
        except ImageError as error:
            attempts.append(str(error))
    return None
