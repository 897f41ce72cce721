"""JSON objects of network configurations, read key by key. Pure.

Keys are matched without regard to case, as Go's decoder does: files in the wild rely on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from kvmrkt.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BYTES = 1 << 16
_MAX_ITEMS = 64

T = TypeVar("T")


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`; raises ConfigError."""
    if len(data) > MAX_BYTES:
        raise ConfigError(f"it is larger than {MAX_BYTES} bytes")
    try:
        content = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else f"{error}"
        raise ConfigError(f"it is not valid JSON: {reason}") from None
    if not isinstance(content, dict):
        raise ConfigError("it is not a JSON object")
    return content


def converted(convert: Callable[[str], T], key: str, text: str) -> T:
    """A string as something else; raises ConfigError naming the key."""
    try:
        return convert(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


class Keys:
    """An object's values, by key without regard to case; ConfigError for another type."""

    def __init__(self, content: dict[str, Any]) -> None:
        """A value that is `null` counts as absent."""
        self._values = {key.lower(): value for key, value in content.items() if value is not None}

    def has(self, key: str) -> bool:
        """Whether there is a value."""
        return key in self._values

    def _get(self, key: str, kind: type[T], default: T | None) -> T:
        value = self._values.get(key, default)
        if value is None:
            raise ConfigError(f"{key}: is required, but missing")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(f"{key}: expected {_JSON_NAMES[kind]}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        return self._get(key, str, default)

    def number(self, key: str, default: int) -> int:
        """A whole number."""
        return self._get(key, int, default)

    def flag(self, key: str) -> bool:
        """True or false; false when absent."""
        return self._get(key, bool, False)

    def object(self, key: str) -> dict[str, Any]:
        """An object; empty when absent."""
        return self._get(key, dict, {})

    def _items(self, key: str) -> list[Any]:
        items = self._get(key, list, [])
        if len(items) > _MAX_ITEMS:
            raise ConfigError(f"{key}: more than {_MAX_ITEMS} items")
        return items

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty when absent."""
        items = self._items(key)
        if not all(isinstance(item, str) for item in items):
            raise ConfigError(f"{key}: expected a list of strings")
        return tuple(items)

    def objects(self, key: str) -> list[dict[str, Any]] | None:
        """A list of objects; None when absent."""
        if key not in self._values:
            return None
        items = self._items(key)
        if not all(isinstance(item, dict) for item in items):
            raise ConfigError(f"{key}: expected a list of objects")
        return items

    def lists(self, key: str) -> list[list[dict[str, Any]]]:
        """A list of lists of objects; empty when absent."""
        items = self._items(key)
        for item in items:
            good = isinstance(item, list) and len(item) <= _MAX_ITEMS
            if not good or not all(isinstance(each, dict) for each in item):
                raise ConfigError(f"{key}: expected a list of lists of objects")
        return items


_JSON_NAMES: dict[type, str] = {
    str: "a string", int: "a whole number", bool: "true or false", dict: "an object",
    list: "a list",
}  # fmt: skip
