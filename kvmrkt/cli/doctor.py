"""`kvmrkt doctor`."""

from __future__ import annotations

from typing import Any

import click

from kvmrkt.cli.command import Command, global_options
from kvmrkt.cli.json_output import FORMAT, to_json
from kvmrkt.errors import EXIT_FAILURE

EXIT_WARNING = 1


@click.command(
    cls=Command,
    params=[FORMAT],
    help="Check everything this host needs to run pods.\n\n"
    f"The exit status is 0 if all is well, {EXIT_WARNING} after warnings, and {EXIT_FAILURE} "
    "after a failure.",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> int:
    """A line for each check, and below it what to do."""
    from kvmrkt.doctor import Level, diagnose, gather, worst

    checks = diagnose(gather(global_options(ctx)))
    if flags["format"]:
        click.echo(to_json(checks, flags["format"]))
    else:
        for check in checks:
            click.echo(f"{check.level:<8}{check.name}: {check.text}")
            if check.remedy:
                click.echo(f"{'':8}  remedy: {check.remedy}")
    return {Level.OK: 0, Level.WARNING: EXIT_WARNING, Level.FAILURE: EXIT_FAILURE}[worst(checks)]
