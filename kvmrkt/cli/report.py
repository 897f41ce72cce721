"""How an error looks on a terminal."""

from __future__ import annotations

import click

from kvmrkt.errors import KvmrktError, UsageError


def report_error(error: KvmrktError, *, debug: bool) -> None:
    """rkt's form: `COMMAND: what failed: why`; with `--debug` one cause a line."""
    causes = error.causes()
    if isinstance(error, UsageError) and error.command is None:
        prefix = "Error"
    else:
        prefix = error.command or "kvmrkt"
    if debug:
        lines = [f"{'  ' * depth}└─{cause}" for depth, cause in enumerate(causes[1:])]
        text = "\n".join([f"{prefix}: {causes[0]}", *lines])
    else:
        text = f"{prefix}: {': '.join(causes)}"
    click.echo(text, err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)
    if error.details:
        click.echo("\n".join(f"  | {line}" for line in error.details.splitlines()), err=True)
    if debug and error.__traceback__ is not None:
        _print_traceback(error)


def report_traceback(error: Exception, *, debug: bool) -> None:
    """An error nobody foresaw: one line, and the traceback for whoever asks."""
    click.echo(f"kvmrkt: internal error: {type(error).__name__}: {error}", err=True)
    if debug:
        _print_traceback(error)
    else:
        click.echo("  hint: this is a bug; --debug shows where", err=True)


def _print_traceback(error: BaseException) -> None:
    import traceback

    click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
