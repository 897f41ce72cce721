"""`kvmrkt rm`."""

from __future__ import annotations

from typing import Any

import click

from kvmrkt.cli.command import (
    UUID_FILE,
    Command,
    given_uuids,
    global_options,
    note_error,
    pods_named,
)
from kvmrkt.errors import KvmrktError, PodError


@click.command(
    cls=Command,
    root_only=True,
    params=[click.Argument(["uuid"], nargs=-1), UUID_FILE],
    help="Remove pods that do not run, with all they wrote.",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> None:
    """Print the UUID of each pod that was removed."""
    from kvmrkt.pods.gc import remove

    failed = 0
    uuids = given_uuids(flags["uuid"], flags["uuid_file"])
    for pod in pods_named(global_options(ctx), uuids):
        if pod is None:
            failed += 1
            continue
        try:
            remove(pod)
        except KvmrktError as error:
            note_error("", error)
            failed += 1
        else:
            click.echo(f'"{pod.uuid}"')
    if failed:
        raise PodError(f"failed to remove {failed} pod(s)")
