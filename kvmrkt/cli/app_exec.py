"""`kvmrkt app exec`."""

from __future__ import annotations

from typing import Any

import click

from kvmrkt.cli.command import GO_BOOL, Command, OptionalValue
from kvmrkt.cli.enter import APP, chosen_app, own_terminal, run, running_pod
from kvmrkt.cli.flags import repeated, value
from kvmrkt.errors import UsageError


def _optional(names: list[str], text: str) -> click.Option:
    return OptionalValue(names, type=GO_BOOL, default=None, metavar="", help=text)


@click.command(
    cls=Command,
    root_only=True,
    context_settings={"allow_interspersed_args": False},
    params=[
        APP,
        _optional(["--interactive", "-i"], "Pass this command's input on; by default, yes."),
        _optional(["--tty", "-t"], "On a terminal, as it is by default when this command is."),
        click.Option(
            ["--env", "-e"], multiple=True, metavar="NAME=VALUE", help="Set a variable; repeatable."
        ),
        value("--user", "The user, or USER:GROUP, by default the app's.", metavar="USER[:GROUP]"),
        value("--workdir", "The working directory, by default the app's.", metavar="PATH"),
        repeated("--environment", "As --env.", "NAME=VALUE"),
        click.Argument(["uuid"], required=False),
        click.Argument(["words"], nargs=-1, type=click.UNPROCESSED),
    ],
    help="Run a command inside an app of a running pod, as the app itself runs.",
)
@click.pass_context
def app_exec(ctx: click.Context, /, **flags: Any) -> int:
    """Return the command's exit status."""
    from kvmrkt.inside.program import Program

    if not flags["uuid"]:
        raise UsageError("give the UUID of a pod")
    if not flags["words"]:
        raise UsageError("give the command to run", hint="kvmrkt enter starts a shell")
    variables = (*flags["environment"], *flags["env"])
    for pair in variables:
        if "=" not in pair or pair.startswith("="):
            raise UsageError(f'invalid argument "{pair}" for --env={pair}: it is no NAME=VALUE')
    terminal = None if flags["tty"] is False else own_terminal()
    if flags["tty"] and terminal is None:
        raise UsageError("--tty needs a terminal: the input and the output of this command")
    pod = running_pod(ctx, flags["uuid"])
    user, _, group = (flags["user"] or "").partition(":")
    program = Program(
        app=chosen_app(pod, flags["app"]),
        argv=flags["words"],
        user=user or None,
        group=group or None,
        working_directory=flags["workdir"],
        environment=variables,
    )
    return run(pod, program, interactive=flags["interactive"] is not False, terminal=terminal)
