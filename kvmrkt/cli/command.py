"""What the commands about pods share: rkt's flags, UUID arguments, lines on standard error."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.values import parse_bool, parse_duration_ns
from kvmrkt.errors import EXIT_FAILURE, KvmrktError, PodError, UsageError, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kvmrkt.config import GlobalOptions
    from kvmrkt.pods.directory import PodDirectory

EXIT_UUID_FILE = 1
"""What `status` and `stop` return when they cannot read `--uuid-file`, as rkt did."""

_UUID_FILE_LIMIT_BYTES = 200


class Command(click.Command):
    """A command whose flags may stand without a value, as in Go: another value needs the `=`."""

    def __init__(self, *args: Any, root_only: bool = False, **kwargs: Any) -> None:
        """As click.Command; `root_only` refuses everyone else before looking at the arguments."""
        super().__init__(*args, **kwargs)
        self.root_only = root_only

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse who may not, write out the bare flags, then parse."""
        if self.root_only and "--help" not in args:
            require_root()
        return super().parse_args(ctx, list(self._written_out(args)))

    def _written_out(self, args: list[str]) -> Iterator[str]:
        options = {
            name: option
            for option in self.params
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        words = iter(args)
        for word in words:
            option = options.get(word)
            if isinstance(option, OptionalValue):
                yield f"{max(option.opts, key=len)}={option.bare}"  # only a long one takes a =
                continue
            yield word
            if word == "--":
                yield from words
            elif option is not None and (value := next(words, None)) is not None:
                yield value


class OptionalValue(click.Option):
    """An option that may be given without a value, then meaning `bare`."""

    def __init__(self, *args: Any, bare: str = "true", **kwargs: Any) -> None:
        """As click.Option."""
        super().__init__(*args, **kwargs)
        self.bare = bare


class _GoBool(click.ParamType[bool]):
    name = "bool"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        """Go's words for true and false."""
        if isinstance(value, bool):
            return value
        try:
            return parse_bool(value)
        except UsageError as error:
            raise _bad_value(value, param, error) from None


class _GoDuration(click.ParamType[int]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Nanoseconds."""
        if isinstance(value, int):
            return value
        try:
            return parse_duration_ns(value)
        except UsageError as error:
            raise _bad_value(value, param, error) from None


class _FilePath(click.ParamType["Path"]):
    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path as it was written; whether it exists is its user's business."""
        from pathlib import Path  # with URLs and IP addresses behind it: not for every command

        return Path(value)


def _bad_value(value: Any, param: click.Parameter | None, error: UsageError) -> UsageError:
    flag = param.opts[0] if param is not None else "a flag"
    return UsageError(
        f'invalid argument "{value}" for {flag}={value}: {error.message}', hint=error.hint
    )


GO_BOOL = _GoBool()
GO_DURATION = _GoDuration()
FILE_PATH = _FilePath()


def require_root() -> None:
    """Raise PodError, in rkt's words, unless root runs the command."""
    if os.geteuid() != 0:
        raise PodError("cannot run as unprivileged user")


def global_options(ctx: click.Context) -> GlobalOptions:
    """rkt's global flags."""
    from kvmrkt.config import GlobalOptions

    options = ctx.find_object(GlobalOptions)
    return options if options is not None else GlobalOptions()


def note(text: str) -> None:
    """A line on standard error, with the command's name before it."""
    click.echo(f"{click.get_current_context().info_name}: {text}", err=True)


def note_error(doing: str, error: KvmrktError) -> None:
    """An error that does not end the command: what was being done, why it failed, the remedy."""
    note(": ".join([doing, *error.causes()] if doing else error.causes()))
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)


UUID_FILE = click.Option(
    ["--uuid-file"],
    type=FILE_PATH,
    metavar="FILE",
    help="Read the pod's UUID from this file instead of the arguments.",
)


def the_pod(
    ctx: click.Context, flags: dict[str, Any], *, status_of_bad_file: int = EXIT_FAILURE
) -> PodDirectory:
    """The one pod that a command is about.

    Raises UsageError, or PodError; with the given exit status if the UUID file cannot be read.
    """
    from kvmrkt.pods.lookup import find_pod

    uuids = _given_uuids(flags["uuid"], flags["uuid_file"], status_of_bad_file)
    if len(uuids) != 1:
        raise UsageError("give the UUID of one pod")
    try:
        return find_pod(global_options(ctx).data, uuids[0])
    except PodError as error:
        raise PodError("problem retrieving pod") from error


def for_each_pod(
    ctx: click.Context,
    flags: dict[str, Any],
    act: Callable[[PodDirectory], str],
    *,
    status_of_bad_file: int = EXIT_FAILURE,
) -> int:
    """Do something to every pod named, print what `act` returns, and count those it failed for.

    Errors as `the_pod`, but what goes wrong with one pod is said, and the others have their turn.
    """
    from kvmrkt.pods.lookup import find_pod

    failed = 0
    for uuid in _given_uuids(flags["uuid"], flags["uuid_file"], status_of_bad_file):
        doing = "cannot get pod"
        try:
            pod = find_pod(global_options(ctx).data, uuid)
            doing = ""
            click.echo(act(pod))
        except KvmrktError as error:
            note_error(doing, error)
            failed += 1
    return failed


def _given_uuids(
    arguments: tuple[str, ...], uuid_file: Path | None, status_of_bad_file: int
) -> list[str]:
    """The UUIDs from the arguments or the file, but not both."""
    if bool(arguments) == (uuid_file is not None):
        raise UsageError("give the UUID of a pod, or --uuid-file")
    if uuid_file is None:
        return list(arguments)
    try:
        with uuid_file.open(encoding="ascii", errors="replace") as file:
            return [file.read(_UUID_FILE_LIMIT_BYTES).strip()]
    except OSError as error:
        refusal = PodError(f"unable to resolve UUID from file: {describe(error)}")
        refusal.exit_status = status_of_bad_file
        raise refusal from None
