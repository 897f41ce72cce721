"""Flags as data, for commands whose words rkt's grammar sorts before click parses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import FILE_PATH, GO_BOOL, OptionalValue
from kvmrkt.cli.grammar import Flag, FlagKind
from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


_MAX_DIGITS = 18


class _Integer(click.ParamType[int]):
    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Digits with a sign or none, no more: `int` alone would take underscores and spaces."""
        if isinstance(value, int):
            return value
        sign, digits = value[:1] in ("+", "-"), value.lstrip("+-")
        is_number = digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS
        if not is_number or len(value) != len(digits) + sign:
            raise faulty(param.opts[0] if param else "a flag", value, "is not a whole number")
        return int(value)


_INTEGER = _Integer()


class OneOf(click.ParamType[str]):
    """One of a few words."""

    name = "word"

    def __init__(self, *words: str) -> None:
        """The words."""
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word itself; raises UsageError."""
        if value not in self.words:
            flag = param.opts[0] if param else "a flag"
            raise faulty(flag, value, f"should be one of {', '.join(self.words)}")
        return str(value)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """For help."""
        return "|".join(self.words)


def boolean(name: str, text: str, **attributes: Any) -> click.Option:
    """A flag that is false unless it is given."""
    return OptionalValue([name], type=GO_BOOL, default=False, metavar="", help=text, **attributes)


def value(name: str, text: str, **attributes: Any) -> click.Option:
    """A flag with a value."""
    return click.Option([name], help=text, **attributes)


def repeated(name: str, text: str, metavar: str) -> click.Option:
    """A flag that may be given several times."""
    return click.Option([name], help=text, multiple=True, metavar=metavar)


def integer(name: str, text: str) -> click.Option:
    """A flag whose value is a decimal number, perhaps a negative one."""
    return click.Option([name], help=text, type=_INTEGER, metavar="N")


class BooleanWord(OptionalValue):
    """A flag that is true alone, and takes a following `true` or `false` without the `=` too."""


def path(name: str, text: str, **attributes: Any) -> click.Option:
    """A flag whose value is a path."""
    return click.Option([name], help=text, type=FILE_PATH, **attributes)


def flag_table(parameters: Iterable[click.Parameter]) -> dict[str, Flag]:
    """What the word sorter must know about options."""
    table: dict[str, Flag] = {}
    for option in parameters:
        if isinstance(option, BooleanWord):
            table.update(dict.fromkeys(option.opts, Flag(FlagKind.BOOLEAN_WORD)))
        elif isinstance(option, OptionalValue):
            table.update(dict.fromkeys(option.opts, Flag(FlagKind.OPTIONAL, option.bare)))
        elif isinstance(option, click.Option):
            table.update(dict.fromkeys(option.opts, Flag(FlagKind.VALUE)))
    return table


def faulty(flag: str, text: str, reason: str, *, hint: str | None = None) -> UsageError:
    """The error for a flag's value, in rkt's form."""
    return UsageError(f'invalid argument "{text}" for {flag}={text}: {reason}', hint=hint)


def say_deprecated(flag: str, advice: str) -> None:
    """rkt's notice for a flag that still works."""
    click.echo(f"Flag {flag} has been deprecated, {advice}", err=True)
