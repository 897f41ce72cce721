"""What a text that names an image means, by rkt's rules (reference, C.4)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.appc.types import is_ac_identifier, is_image_hash
from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_LATER_SCHEMES = ("docker", "oci", "docker-archive", "cimd")


class FileReference(msgspec.Struct, frozen=True):
    """An image archive on this host; printed as its path."""

    path: Path

    def __str__(self) -> str:
        """The path."""
        return os.fspath(self.path)


class UrlReference(msgspec.Struct, frozen=True):
    """An image archive at an http or https URL."""

    url: str

    def __str__(self) -> str:
        """The URL."""
        return self.url


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
        """The canonical spelling."""
        labels = dict(self.labels)
        version = labels.pop("version", None)
        name = self.name if version is None else f"{self.name}:{version}"
        return ",".join([name, *(f"{key}={value}" for key, value in sorted(labels.items()))])


Reference = FileReference | UrlReference | HashReference | NameReference


def parse_reference(text: str, *, is_file: Callable[[str], bool] = os.path.isfile) -> Reference:
    """The reference a text stands for; raises UsageError for none.

    `is_file` says whether a path is an existing regular file, which makes a text without a scheme
    a path.
    """
    if not text:
        raise UsageError("an image reference is empty")
    if is_image_hash(text):
        return HashReference(text)
    scheme, colon, rest = text.partition(":")
    if colon and (rest.startswith("//") or scheme in _LATER_SCHEMES):
        return _with_scheme(scheme.lower(), text, rest.removeprefix("//"))
    if text.startswith("/") or is_file(text):
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
        raise UsageError(f'invalid image string "{text}": the version after : is empty')
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not is_ac_identifier(key) or key == "name":
            raise UsageError(f'invalid image string "{text}": "{pair}" is not label=value')
        if key in labels:
            raise UsageError(f'invalid image string "{text}": the label {key} is there twice')
        labels[key] = value
    if not is_ac_identifier(name):
        raise UsageError(
            f'invalid image string "{text}": neither a file nor an image name',
            hint="give a path, an https URL ending in .aci, an image ID or a name like"
            " example.com/app:v1",
        )
    return NameReference(name, tuple(labels.items()))


def _with_scheme(scheme: str, text: str, rest: str) -> Reference:
    if scheme == "file":
        if not rest.endswith(".aci"):
            raise UsageError(f'invalid image string "{text}": the file does not end in .aci')
        return FileReference(Path(rest))
    if scheme in ("http", "https"):
        if not text.partition("?")[0].partition("#")[0].endswith(".aci"):
            raise UsageError(f'invalid image string "{text}": the URL does not end in .aci')
        return UrlReference(text)
    raise UsageError(
        f'invalid image string "{text}": kvmrkt cannot fetch {scheme} images',
        hint="give an App Container image: a file or an https URL ending in .aci",
    )
