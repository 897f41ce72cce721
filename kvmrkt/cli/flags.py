"""click's options with rkt's habits: Go booleans, and flags that may stand without a value."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from kvmrkt.cli.grammar import Flag, FlagKind
from kvmrkt.cli.values import parse_boolean, parse_duration_seconds
from kvmrkt.errors import UsageError


class GoBoolean(click.ParamType):
    """`true`, `t`, `1`, `false` …, as Go's ParseBool."""

    name = "bool"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> bool:
        """Raises click's usage error for another word."""
        if isinstance(value, bool):
            return value
        try:
            return parse_boolean(value)
        except UsageError as error:
            self.fail(error.message, param, ctx)


class GoDuration(click.ParamType):
    """`30m`, `1h30m`, `300ms`: seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Raises click's usage error for another word."""
        if isinstance(value, (int, float)):
            return float(value)
        try:
            return parse_duration_seconds(value)
        except UsageError as error:
            self.fail(error.message, param, ctx)


class BareOption(click.Option):
    """An option that may stand alone: `bare` is its value then."""

    def __init__(self, *names: Any, bare: str, **attributes: Any) -> None:
        """As click.Option, and `bare`."""
        super().__init__(*names, **attributes)
        self.bare = bare


def boolean(name: str, text: str) -> click.Option:
    """A flag that is false unless it is given."""
    return click.Option(
        [name], type=GoBoolean(), default=False, metavar="", help=text
    )


def value(name: str, text: str, **attributes: Any) -> click.Option:
    """A flag with a value."""
    return click.Option([name], help=text, **attributes)


def repeated(name: str, text: str, metavar: str) -> click.Option:
    """A flag that may be given several times."""
    return click.Option([name], help=text, multiple=True, metavar=metavar)


def path(name: str, text: str, **attributes: Any) -> click.Option:
    """A flag whose value is a path."""
    return click.Option([name], help=text, type=click.Path(path_type=Path), **attributes)


def flag_table(parameters: Iterable[click.Parameter]) -> dict[str, Flag]:
    """What the word sorter must know about options."""
    table: dict[str, Flag] = {}
    for option in parameters:
        if not isinstance(option, click.Option):
            continue
        if isinstance(option, BareOption):
            flag = Flag(FlagKind.OPTIONAL, option.bare)
        elif isinstance(option.type, GoBoolean):
            flag = Flag(FlagKind.BOOLEAN)
        else:
            flag = Flag(FlagKind.VALUE)
        table.update(dict.fromkeys(option.opts, flag))
    return table
