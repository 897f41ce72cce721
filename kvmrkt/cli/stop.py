"""`kvmrkt stop`."""

from __future__ import annotations

from typing import Any

import click

from kvmrkt.cli.command import (
    EXIT_UUID_FILE,
    UUID_FILE,
    Command,
    given_uuids,
    global_options,
    note_error,
    pods_named,
)
from kvmrkt.cli.flags import boolean
from kvmrkt.errors import KvmrktError, PodError


@click.command(
    cls=Command,
    params=[
        click.Argument(["uuid"], nargs=-1),
        UUID_FILE,
        boolean("--force", "Kill the pod at once."),
    ],
    help="Stop pods, and wait until they have ended.",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> int:
    """Print the UUID of each pod that was stopped."""
    from kvmrkt.pods.stop import stop

    try:
        uuids = given_uuids(flags["uuid"], flags["uuid_file"])
    except PodError as error:
        note_error("", error)
        return EXIT_UUID_FILE
    failed = 0
    for pod in pods_named(global_options(ctx), uuids):
        if pod is None:
            failed += 1
            continue
        try:
            stopped = stop(pod, force=flags["force"])
        except KvmrktError as error:
            note_error("", error)
            failed += 1
            continue
        click.echo(f'"{pod.uuid}"' if stopped else f'pod "{pod.uuid}" is already stopped')
    if failed:
        raise PodError(f"failed to stop {failed} pod(s)")
    return 0
