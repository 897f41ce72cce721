"""A click command whose flags behave as rkt's did (Go's pflag)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvmrkt.cli.values import parse_bool, parse_duration_ns
from kvmrkt.config import GlobalOptions
from kvmrkt.errors import KvmrktError, PodError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_Function = TypeVar("_Function", bound="Callable[..., Any]")


class Command(click.Command):
    """Understands flags with an optional value, and can be for root alone.

    A bare `--flag` stands for `--flag=true`, or whatever the option's `bare` is; another value needs
    the `=`, so that the word after the flag is never taken for its value.
    """

    def __init__(self, *args: Any, root_only: bool = False, **kwargs: Any) -> None:
        """As click.Command; `root_only` refuses everyone else before looking at the arguments."""
        super().__init__(*args, **kwargs)
        self.root_only = root_only

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse who may not, then parse."""
        if self.root_only and not ctx.resilient_parsing:
            require_root()
        return super().parse_args(ctx, self._with_bare_values(args))

    def _with_bare_values(self, args: list[str]) -> list[str]:
        options = {
            name: option
            for option in self.params
            if isinstance(option, click.Option)
            for name in option.opts
        }
        result: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                return [*result, word, *words]
            option = options.get(word)
            if isinstance(option, OptionalValue):
                result.append(f"{word}={option.bare}")
                continue
            result.append(word)
            if (
                option is not None
                and not option.is_flag
                and (value := next(words, None)) is not None
            ):
                result.append(value)
        return result


class OptionalValue(click.Option):
    """An option that may be given without a value, then meaning `bare`."""

    def __init__(self, *args: Any, bare: str = "true", **kwargs: Any) -> None:
        """As click.Option."""
        super().__init__(*args, **kwargs)
        self.bare = bare


class _GoBool(click.ParamType):
    name = "bool"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        """Go's words for true and false."""
        if isinstance(value, bool):
            return value
        try:
            return parse_bool(value)
        except ValueError as error:
            flag = param.opts[0] if param is not None else "a flag"
            raise UsageError(f'invalid argument "{value}" for {flag}={value}: {error}') from error


class _GoDuration(click.ParamType):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Nanoseconds."""
        if isinstance(value, int):
            return value
        try:
            return parse_duration_ns(value)
        except UsageError as error:
            flag = param.opts[0] if param is not None else "a flag"
            raise UsageError(
                f'invalid argument "{value}" for {flag}={value}: {error.message}', hint=error.hint
            ) from error


GO_BOOL = _GoBool()
GO_DURATION = _GoDuration()


def bool_flag(name: str, text: str, *, default: bool = False) -> Callable[[_Function], _Function]:
    """`--name`, `--name=true`, `--name=false`."""
    return click.option(
        name,
        cls=OptionalValue,
        type=GO_BOOL,
        default=default,
        metavar="[=BOOL]" if default else "",
        help=text,
    )


def duration_flag(name: str, default: str, text: str) -> Callable[[_Function], _Function]:
    """`--name=30m`; the function gets nanoseconds."""
    return click.option(
        name, type=GO_DURATION, default=default, metavar="DURATION", help=text, show_default=True
    )


def global_options(ctx: click.Context) -> GlobalOptions:
    """rkt's global flags; their defaults for a command that is run on its own."""
    options = ctx.find_object(GlobalOptions)
    return options if options is not None else GlobalOptions()


def require_root() -> None:
    """Raise PodError, in rkt's words, unless root runs the command."""
    if os.geteuid() != 0:
        raise PodError("cannot run as unprivileged user")


def note(text: str) -> None:
    """A line on standard error, with the command's name before it."""
    click.echo(f"{click.get_current_context().info_name}: {text}", err=True)


def note_error(doing: str, error: KvmrktError) -> None:
    """An error that does not end the command: what was being done, why it failed, the remedy."""
    note(": ".join([doing, *error.causes()]))
    if error.hint:
        click.echo(f"  {error.hint}", err=True)


def uuid_file_option(function: _Function) -> _Function:
    """`--uuid-file=FILE`."""
    return click.option(
        "--uuid-file",
        metavar="FILE",
        help="Read the pod's UUID from a file, not from the arguments.",
    )(function)


def chosen_uuids(uuids: tuple[str, ...], uuid_file: str | None) -> list[str]:
    """The UUIDs given as arguments or in a file, but not both; OSError if it cannot be read."""
    if bool(uuids) == (uuid_file is not None):
        raise UsageError("give either UUIDs or --uuid-file")
    if uuid_file is None:
        return list(uuids)
    return [read_uuid_file(uuid_file)]


def read_uuid_file(path: str | Path) -> str:
    """The UUID that `run --uuid-file-save` wrote; OSError if it cannot be read."""
    with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123
        return file.read(200).strip()
