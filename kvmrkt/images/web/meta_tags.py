"""The discovery tags of an HTML page (appc/spec, discovery.md), from pages nobody vouches for.

A scanner of our own, in time linear in the page: `html.parser` of the Python versions in use has
been slow on purpose-made pages more than once. It knows what could hide or fake a tag: comments,
quoted attributes, and elements whose content is text.
"""

from __future__ import annotations

import html
import re

import msgspec

MAX_PAGE_BYTES = 512 << 10
_MAX_TAGS = 100
_MAX_CONTENT = 4096
_TAG = re.compile(r"<(?:!--|[!?]|/?[a-zA-Z][^\s/>]*)")
_BETWEEN = re.compile(r"[\s/]*")
_ATTRIBUTE_NAME = re.compile(r"=?[^\s/>=]*")
_EQUALS = re.compile(r"\s*=\s*")
_BARE_VALUE = re.compile(r"[^\s>]*")
_TEXT_END = {
    name: re.compile(rf"</{name}[\s/>]", re.IGNORECASE)
    for name in ("script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes")
}


class Meta(msgspec.Struct, frozen=True):
    """What a page says: for names with a prefix, URL templates of images and URLs of keys."""

    acis: tuple[tuple[str, str], ...] = ()
    keys: tuple[tuple[str, str], ...] = ()


def parse_meta(page: bytes) -> Meta:
    """The tags `ac-discovery` and `ac-discovery-pubkeys` of a page, in order; never fails."""
    found: dict[str, list[tuple[str, str]]] = {"ac-discovery": [], "ac-discovery-pubkeys": []}
    for name, content in _metas(page[:MAX_PAGE_BYTES].decode(errors="replace")):
        prefix, *rest = content.split(None, 1)
        if name in found and rest and len(content) <= _MAX_CONTENT:
            found[name].append((prefix, rest[0].strip()))
    acis, keys = (tuple(pairs[:_MAX_TAGS]) for pairs in found.values())
    return Meta(acis, keys)


def _metas(text: str) -> list[tuple[str, str]]:
    """Name and content of all `meta` tags that have both."""
    metas = []
    position = 0
    while (tag := _TAG.search(text, position)) is not None:
        kind = tag[0][1:].lower()
        if kind in ("!--", "!", "?"):
            end = "-->" if kind == "!--" else ">"
            position = text.find(end, tag.end()) + len(end)
            if position < len(end):
                break
            continue
        attributes, position = _attributes(text, tag.end())
        if position < 0:
            break
        if kind == "meta" and attributes.get("content", "").strip() and "name" in attributes:
            metas.append((attributes["name"], attributes["content"]))
        if kind in _TEXT_END:
            over = _TEXT_END[kind].search(text, position)
            if over is None:
                break
            position = over.start()
    return metas


def _attributes(text: str, position: int) -> tuple[dict[str, str], int]:
    """The attributes of a tag and where it ends; -1 if it does not."""
    attributes: dict[str, str] = {}
    while True:
        position = _skip(_BETWEEN, text, position)
        if position >= len(text):
            return {}, -1
        if text[position] == ">":
            return attributes, position + 1
        start, position = position, _skip(_ATTRIBUTE_NAME, text, position)
        name, value = text[start:position].lower(), ""
        if (equals := _EQUALS.match(text, position)) is not None:
            value, position = _value(text, equals.end())
            if position < 0:
                return {}, -1
        attributes.setdefault(name, html.unescape(value))


def _value(text: str, position: int) -> tuple[str, int]:
    quote = text[position : position + 1]
    if quote and quote in "\"'":
        end = text.find(quote, position + 1)
        return (text[position + 1 : end], end + 1) if end >= 0 else ("", -1)
    end = _skip(_BARE_VALUE, text, position)
    return text[position:end], end


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return position if match is None else match.end()
