"""`kvmrkt cat-manifest`."""

from __future__ import annotations

from typing import Any

import click

from kvmrkt.cli.command import (
    GO_BOOL,
    UUID_FILE,
    Command,
    OptionalValue,
    the_pod,
)
from kvmrkt.cli.json_output import reformat
from kvmrkt.errors import PodError


@click.command(
    cls=Command,
    params=[
        click.Argument(["uuid"], nargs=-1),
        UUID_FILE,
        OptionalValue(["--pretty-print"], type=GO_BOOL, default=True, help="Indent the JSON."),
    ],
    help="Print the manifest of a pod.",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> None:
    """Print the manifest as JSON, unknown fields and all."""
    pod = the_pod(ctx, flags)
    pod.state()  # follows a pod that is on the move
    text = pod.read_pod_manifest()
    if text is None:
        raise PodError(f'pod "{pod.uuid}" has no manifest yet')
    try:
        click.echo(reformat(text, pretty=flags["pretty_print"]))
    except ValueError as error:
        raise PodError(f'the manifest of pod "{pod.uuid}" is damaged') from error
