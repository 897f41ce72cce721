"""`--format=json|json-pretty`, as rkt prints them."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from kvmrkt.errors import UsageError


class _Format(click.Choice[str]):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """rkt's words for another; the empty one is the table."""
        if value not in self.choices and value:
            raise UsageError(
                f'invalid argument "{value}" for --format={value}: no such format',
                hint="formats: " + ", ".join(self.choices),
            )
        return str(value)


FORMAT = click.Option(
    ["--format"],
    type=_Format(["json", "json-pretty"]),
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
