"""`kvmrkt export`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from kvmrkt.cli.command import Command, global_options, note
from kvmrkt.cli.flags import boolean, value
from kvmrkt.errors import PodError


@click.command(
    cls=Command,
    root_only=True,
    params=[
        value("--app", "The app to export, where the pod has several.", metavar="NAME"),
        boolean("--overwrite", "Replace what is at OUTPUT_ACI_FILE."),
        click.Argument(["uuid"]),
        click.Argument(["output"], metavar="OUTPUT_ACI_FILE"),
    ],
    help="Write an app of a pod that has ended to an image file, with what its run has changed.",
)
@click.pass_context
def command(ctx: click.Context, /, uuid: str, output: str, **flags: Any) -> None:
    """Print nothing: the file is there."""
    from kvmrkt.exporting import export_app
    from kvmrkt.pods.lookup import find_pod

    options = global_options(ctx)
    try:
        pod = find_pod(options.data, uuid)
    except PodError as error:
        raise PodError("problem retrieving pod") from error
    path = Path(os.path.abspath(output))  # noqa: PTH100 - as Go: links stay
    export_app(pod, flags["app"], path, options, note, overwrite=flags["overwrite"])
