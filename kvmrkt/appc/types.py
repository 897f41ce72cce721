"""The App Container types: identifiers, names, versions, image IDs (appc/spec, types.md)."""

from __future__ import annotations

import re

from kvmrkt.errors import ManifestError, UsageError

APPC_VERSION = "0.8.11"
"""The version of the specification kvmrkt writes into its own manifests."""

HASH_PREFIX = "sha512-"
ID_DIGITS = 128
"""Hexadecimal digits of a whole image ID."""
KEY_DIGITS = 64
"""Hexadecimal digits rkt keeps of an image ID: its store key, and what `--full` prints."""
FETCH_DIGITS = 32
LIST_DIGITS = 12
_MIN_PREFIX_DIGITS = 2

_IDENTIFIER = re.compile(r"[a-z0-9]+(?:[-._~/][a-z0-9]+)*")
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_HASH = re.compile(rf"{HASH_PREFIX}([0-9a-f]{{{_MIN_PREFIX_DIGITS},{ID_DIGITS}}})")
_MAX_VERSION = 200
_VERSION = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?", re.ASCII
)


def is_ac_identifier(text: str) -> bool:
    """Whether the text is an AC Identifier: image names, label names, isolator names."""
    return _IDENTIFIER.fullmatch(text) is not None


def is_ac_name(text: str) -> bool:
    """Whether the text is an AC Name: apps, mount points, volumes, ports."""
    return _NAME.fullmatch(text) is not None


def parse_ac_identifier(text: str, field: str) -> str:
    """The text itself; ManifestError with `field`, the field's path, if it is no AC Identifier."""
    if not is_ac_identifier(text):
        raise ManifestError(
            f"{field}: {text!r} is not an AC Identifier"
            " (lowercase letters and digits, separated by single - . _ ~ /)"
        )
    return text


def parse_ac_name(text: str, field: str) -> str:
    """The text itself; ManifestError with `field`, the field's path, if it is no AC Name."""
    if not is_ac_name(text):
        raise ManifestError(
            f"{field}: {text!r} is not an AC Name"
            " (lowercase letters and digits, separated by single -)"
        )
    return text


def sanitize_ac_name(text: str) -> str:
    """The AC Name nearest to the text, as rkt derives an app's name from an image's.

    Raises UsageError if no letter or digit is left.
    """
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name:
        raise UsageError(f"cannot make an app name from {text!r}: no letter or digit in it")
    return name


def parse_version(text: str, field: str) -> str:
    """The text itself; ManifestError if it is no semantic version."""
    if len(text) > _MAX_VERSION or _VERSION.fullmatch(text) is None:
        raise ManifestError(f"{field}: {text!r} is not a semantic version (like {APPC_VERSION})")
    return text


def parse_ac_version(text: str, field: str) -> str:
    """The text itself; ManifestError if it is no semantic version or of a later major series."""
    if int(parse_version(text, field).split(".")[0]) > int(APPC_VERSION.split(".")[0]):
        raise ManifestError(
            f"{field}: version {text} of the specification is not compatible with {APPC_VERSION}"
        )
    return text


def is_image_hash(text: str) -> bool:
    """Whether the text has the form of an image ID or a usable prefix of one."""
    return _HASH.fullmatch(text) is not None


def parse_image_id(text: str, field: str) -> str:
    """A whole image ID, or rkt's half of one; ManifestError if it is neither."""
    match = _HASH.fullmatch(text)
    if match is None or len(match[1]) not in (KEY_DIGITS, ID_DIGITS):
        raise ManifestError(
            f"{field}: {text!r} is not an image ID"
            f" ({HASH_PREFIX} and {ID_DIGITS} lowercase hexadecimal digits)"
        )
    return text


def shorten_image_id(image_id: str, digits: int) -> str:
    """The image ID cut to so many hexadecimal digits; rkt shows 12, 32 or 64."""
    return image_id[: len(HASH_PREFIX) + digits]
