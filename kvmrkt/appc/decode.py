"""From JSON text to a checked structure, and back without losing what we do not know."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from kvmrkt.errors import ManifestError

MAX_MANIFEST_BYTES = 1 << 20
_LOCATION = re.compile(r"(?P<reason>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")

T = TypeVar("T")


def decode(data: bytes, decoder: msgspec.json.Decoder[T], what: str) -> T:
    """Decode `what`; ManifestError says the path of the field that does not fit.

    A field that is `null` counts as absent, as it does for the Go tools that write manifests.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"the {what} has {len(data)} bytes; the limit is {MAX_MANIFEST_BYTES}")
    try:
        try:
            return decoder.decode(data)
        except msgspec.ValidationError as error:
            if "got `null`" not in str(error):
                raise
            return decoder.decode(msgspec.json.encode(_without_nulls(msgspec.json.decode(data))))
    except msgspec.ValidationError as error:
        raise ManifestError(_explain(str(error))) from None
    except msgspec.DecodeError as error:
        raise ManifestError(f"the {what} is not valid JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"the {what} is not UTF-8 text: {error.reason}") from None
    except RecursionError:
        raise ManifestError(f"the {what} is nested too deep") from None


def merge_unknown(original: object, known: object, fields: object) -> object:
    """`known` with what `original` holds beyond it.

    `fields` tells what is ours: a structure type's fields as nested dicts (see `field_tree`).
    Elements of a list belong together by their `name`, else by their place.
    """
    if isinstance(original, dict) and isinstance(known, dict) and isinstance(fields, dict):
        merged = dict(known)
        for key, value in original.items():
            if key not in fields:
                merged[key] = value
            elif key in known:
                merged[key] = merge_unknown(value, known[key], fields[key])
        return merged
    if isinstance(original, list) and isinstance(known, list) and isinstance(fields, dict):
        named = {e["name"]: e for e in original if isinstance(e, dict) and "name" in e}
        return [
            merge_unknown(named.get(element["name"]), element, fields)
            if isinstance(element, dict) and "name" in element
            else merge_unknown(original[index] if index < len(original) else None, element, fields)
            for index, element in enumerate(known)
        ]
    return known


def field_tree(structure: Any) -> dict[str, Any]:
    """The JSON names of a structure's fields, each with the tree of the structure it holds."""
    import typing

    tree: dict[str, Any] = {}
    for field in msgspec.structs.fields(structure):
        inner = [field.type, *typing.get_args(field.type)]
        found = [t for t in inner if isinstance(t, type) and issubclass(t, msgspec.Struct)]
        tree[field.encode_name] = field_tree(found[0]) if found else None
    return tree


def _explain(message: str) -> str:
    location = _LOCATION.fullmatch(message)
    assert location is not None
    path, reason = location["path"] or "", location["reason"]
    if missing := _MISSING.fullmatch(reason):
        return f"{path}.{missing['field']}".lstrip(".") + ": is required, but missing"
    reason = reason[:1].lower() + reason[1:]
    return f"{path}: {reason}" if path else f"the manifest: {reason}"


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
