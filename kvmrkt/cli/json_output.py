"""`--format=json|json-pretty`, as rkt prints them."""

from __future__ import annotations

import click
import msgspec

FORMAT = click.Option(
    ["--format"],
    type=click.Choice(["json", "json-pretty"]),
    help="Print JSON in place of a table.",
)


def to_json(value: object, style: str) -> str:
    """The value on one line, or indented with tabs for `json-pretty`; an empty list is `null`."""
    text = msgspec.json.encode(None if value == [] else value)
    if style == "json-pretty":
        import json

        return json.dumps(json.loads(text), indent="\t", ensure_ascii=False)
    return text.decode()


def reformat(document: bytes, *, pretty: bool) -> str:
    """A stored document on one line, or indented with tabs."""
    import json

    indent, separators = ("\t", None) if pretty else (None, (",", ":"))
    return json.dumps(
        json.loads(document), indent=indent, separators=separators, ensure_ascii=False
    )
