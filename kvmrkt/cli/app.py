"""`kvmrkt app`: the group of commands about the apps of a running pod."""

from __future__ import annotations

import click

from kvmrkt.cli.app_exec import app_exec
from kvmrkt.cli.group import PrefixGroup


@click.group(
    cls=PrefixGroup, invoke_without_command=True, help="Work on the apps of a running pod."
)
@click.pass_context
def app(ctx: click.Context) -> None:
    """Print the help when no command is given."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


app.add_command(app_exec, "exec")
for _name, _command in app.commands.items():
    _command.name = _name
