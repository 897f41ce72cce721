"""What a text that names an image means, by rkt's rules (reference, C.4).

Every reference prints as a text that parses to it again, if no file has that name.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.appc.types import is_ac_identifier, is_image_hash
from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DOCKER_HUB = "registry-1.docker.io"
_HUB_ALIASES = ("docker.io", "index.docker.io", DOCKER_HUB)
_LABEL_ORDER = {"version": 0, "os": 1, "arch": 2}
_OPAQUE_SCHEMES = ("docker", "oci", "docker-archive", "cimd")  # these need no //

_REGISTRY = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\])"
    r"(?::[0-9]{1,5})?"
)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_DOCKER = re.compile(
    rf"(?=[^:@]{{1,255}}(?:[:@]|$))(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}))?"
)
_HERE = "localhost/"
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")


class FileReference(msgspec.Struct, frozen=True):
    """An image archive on this host; printed as its path."""

    path: Path

    def __str__(self) -> str:
        """The path, recognisable as one."""
        text = os.fspath(self.path)
        return text if self.path.is_absolute() else f"./{text}"


class UrlReference(msgspec.Struct, frozen=True):
    """An image archive at an http or https URL."""

    url: str

    def __str__(self) -> str:
        """The URL, or where its end does not show what it is, a distribution point."""
        return self.url if _is_aci(self.url) else f"cimd:aci-archive:v=0:{_quoted(self.url)}"


class HashReference(msgspec.Struct, frozen=True):
    """An image in the store, by its ID or the beginning of it."""

    prefix: str

    def __str__(self) -> str:
        """The prefix."""
        return self.prefix


class NameReference(msgspec.Struct, frozen=True):
    """An App Container name with labels; `example.com/app:v1,os=linux`."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """The canonical spelling; a distribution point if it would be taken for something else."""
        labels = dict(_ordered(self.labels))
        version = labels.pop("version", None)
        name = self.name if version is None else f"{self.name}:{version}"
        text = ",".join([name, *(f"{key}={value}" for key, value in labels.items())])
        if _reads_as(text, self):
            return text
        query = "&".join(f"{key}={_quoted(value)}" for key, value in _ordered(self.labels))
        return f"cimd:appc:v=0:{_quoted(self.name)}" + (f"?{query}" if query else "")


class DockerReference(msgspec.Struct, frozen=True):
    """An image in a docker registry, by tag, by digest, or both (then the digest decides)."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None = None

    def __str__(self) -> str:
        """With everything that may be left out."""
        tag = "" if self.tag is None else f":{self.tag}"
        digest = "" if self.digest is None else f"@{self.digest}"
        return f"docker://{self.registry}/{self.repository}{tag}{digest}"


class OciLayoutReference(msgspec.Struct, frozen=True):
    """An image in a folder with an OCI layout; `ref` says which if there are several."""

    path: Path
    ref: str | None = None

    def __str__(self) -> str:
        """As it is written."""
        return f"oci:{self.path}" + ("" if self.ref is None else f":{self.ref}")


class DockerArchiveReference(msgspec.Struct, frozen=True):
    """An image in a file made by `docker save`; `ref` says which if there are several."""

    path: Path
    ref: str | None = None

    def __str__(self) -> str:
        """As it is written."""
        return f"docker-archive:{self.path}" + ("" if self.ref is None else f":{self.ref}")


Reference = (
    FileReference
    | UrlReference
    | HashReference
    | NameReference
    | DockerReference
    | OciLayoutReference
    | DockerArchiveReference
)


def parse_reference(text: str, *, is_file: Callable[[str], bool] = os.path.isfile) -> Reference:
    """The reference a text stands for; raises UsageError for none.

    `is_file` says whether a path is an existing regular file, which makes a text without a scheme
    a path.
    """
    if not text:
        raise UsageError("an image reference is empty")
    if "\0" in text:
        raise _invalid(text, "it holds a NUL byte")
    if is_image_hash(text):
        return HashReference(text)
    scheme, colon, rest = text.partition(":")
    if colon and (rest.startswith("//") or scheme.lower() in _OPAQUE_SCHEMES):
        return _with_scheme(scheme.lower(), text, rest.removeprefix("//"))
    if text.startswith(("/", "./", "../")) or is_file(text):
        return FileReference(Path(text))
    if ":" not in text and ("./" in text or text.endswith(".aci")):
        return FileReference(Path(text))
    return parse_name(text)


def parse_name(text: str) -> NameReference:
    """An App Container name with an optional version and labels; UsageError if it is none."""
    head, *pairs = text.split(",")
    name, colon, version = head.partition(":")
    labels = {"version": version} if colon else {}
    if colon and not version:
        raise _invalid(text, "the version after : is empty")
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not is_ac_identifier(key) or key == "name":
            raise _invalid(text, f'"{pair}" is not label=value')
        if key in labels:
            raise _invalid(text, f"the label {key} is there twice")
        if key == "version" and not value:
            raise _invalid(text, "the version is empty")
        labels[key] = value
    if not is_ac_identifier(name):
        raise UsageError(
            f'invalid image string "{text}": neither a file nor an image name',
            hint="give a path, an https URL ending in .aci, an image ID, a name like"
            " example.com/app:v1, or docker://, oci: or docker-archive:",
        )
    return NameReference(name, _ordered(labels.items()))


def parse_docker(text: str) -> DockerReference:
    """`[registry/]name[:tag][@digest]` as docker reads it; UsageError if it is none."""
    rest = text.removeprefix("/")
    first, slash, path = rest.partition("/")
    registry = DOCKER_HUB
    if slash and (first == "localhost" or any(mark in first for mark in ".:")):
        registry, rest = first.lower(), path
    match = _DOCKER.fullmatch(rest)
    if match is None or not _REGISTRY.fullmatch(registry) or not _has_host(f"https://{registry}"):
        raise UsageError(
            f'invalid docker image "{text}"',
            hint="write [registry/]name[:tag|@digest], a name of at most 255 lowercase letters",
        )
    repository = match["repository"]
    if registry in _HUB_ALIASES:
        registry = DOCKER_HUB
        repository = repository if "/" in repository else f"library/{repository}"
    tag = match["tag"] or (None if match["digest"] else "latest")
    return DockerReference(registry, repository, tag, match["digest"])


def _with_scheme(scheme: str, text: str, rest: str) -> Reference:
    if scheme in ("http", "https", "file"):
        if not _is_aci(text):
            what = "file" if scheme == "file" else "URL"
            raise _invalid(text, f"the {what} does not end in .aci")
        return _archive(text)
    if scheme == "docker":
        return parse_docker(rest)
    if scheme == "oci":
        return OciLayoutReference(*_path_and_ref(text, rest))
    if scheme == "docker-archive":
        return DockerArchiveReference(*_path_and_ref(text, rest))
    if scheme == "cimd":
        return _distribution_point(text, rest)
    raise UsageError(
        f'invalid image string "{text}": kvmrkt cannot fetch {scheme} images',
        hint="known are https://, file://, docker://, oci:, docker-archive: and cimd:",
    )


def _archive(url: str) -> FileReference | UrlReference:
    scheme, _, rest = url.partition("://")
    if scheme.lower() == "file":
        from urllib.parse import unquote

        path = unquote(rest.partition("?")[0].partition("#")[0], errors="surrogateescape")
        if not path or "\0" in path:
            raise _invalid(url, "this is no path")
        return FileReference(Path(path[len(_HERE) - 1 :] if path.startswith(_HERE) else path))
    if not _has_host(url) or _UNPRINTABLE.search(url):
        raise _invalid(url, "this is no URL")
    return UrlReference(f"{scheme.lower()}://{rest}")


def _path_and_ref(text: str, rest: str) -> tuple[Path, str | None]:
    path, colon, ref = rest.partition(":")
    if not path or (colon and not ref):
        raise _invalid(text, f"the {'reference after the path' if path else 'path'} is empty")
    return Path(f"/{path.lstrip('/')}" if path.startswith("/") else path), ref or None


def _distribution_point(text: str, rest: str) -> Reference:
    """`cimd:TYPE:v=0:DATA`, rkt's own notation for where an image comes from."""
    kind, _, rest = rest.partition(":")
    version, _, data = rest.partition(":")
    if version != "v=0" or not data:
        raise _invalid(text, "a distribution point is cimd:TYPE:v=0:DATA")
    if kind == "docker":
        return parse_docker(data)
    data, _, query = data.partition("?")
    if kind == "aci-archive":
        url = _unquoted(data)
        if url.partition("://")[0] not in ("file", "http", "https"):
            raise _invalid(text, "the archive's URL is not of file, http or https")
        return _archive(url)
    if kind == "appc":
        pairs = [_unquoted(pair) for pair in query.split("&") if pair]
        if any("," in part for part in (_unquoted(data), *pairs)):
            raise _invalid(text, "there is a comma in it")
        return parse_name(",".join([_unquoted(data), *pairs]))
    raise _invalid(text, f'distribution points of type "{kind}" are not known')


def _ordered(labels: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """rkt's order: version, os, arch, then the others by name."""
    return tuple(sorted(labels, key=lambda label: (_LABEL_ORDER.get(label[0], 3), label[0])))


def _reads_as(text: str, reference: Reference) -> bool:
    try:
        return parse_reference(text, is_file=lambda _: False) == reference
    except UsageError:
        return False


def _has_host(url: str) -> bool:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # no port, or no address in brackets
        return False


def _is_aci(url: str) -> bool:
    return url.partition("?")[0].partition("#")[0].endswith(".aci")


def _quoted(text: str) -> str:
    from urllib.parse import quote_plus

    return quote_plus(text, errors="surrogateescape")


def _unquoted(text: str) -> str:
    from urllib.parse import unquote_plus

    return unquote_plus(text, errors="surrogateescape")


def _invalid(text: str, reason: str) -> UsageError:
    return UsageError(f'invalid image string "{text}": {reason}')
