"""Flags as data, for commands whose words rkt's grammar sorts before click parses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import FILE_PATH, GO_BOOL, OptionalValue
from kvmrkt.cli.grammar import Flag, FlagKind

if TYPE_CHECKING:
    from collections.abc import Iterable


def boolean(name: str, text: str, **attributes: Any) -> click.Option:
    """A flag that is false unless it is given."""
    return OptionalValue([name], type=GO_BOOL, default=False, metavar="", help=text, **attributes)


def value(name: str, text: str, **attributes: Any) -> click.Option:
    """A flag with a value."""
    return click.Option([name], help=text, **attributes)


def repeated(name: str, text: str, metavar: str) -> click.Option:
    """A flag that may be given several times."""
    return click.Option([name], help=text, multiple=True, metavar=metavar)


def path(name: str, text: str, **attributes: Any) -> click.Option:
    """A flag whose value is a path."""
    return click.Option([name], help=text, type=FILE_PATH, **attributes)


def flag_table(parameters: Iterable[click.Parameter]) -> dict[str, Flag]:
    """What the word sorter must know about options."""
    table: dict[str, Flag] = {}
    for option in parameters:
        if isinstance(option, OptionalValue):
            table.update(dict.fromkeys(option.opts, Flag(FlagKind.OPTIONAL, option.bare)))
        elif isinstance(option, click.Option):
            table.update(dict.fromkeys(option.opts, Flag(FlagKind.VALUE)))
    return table
