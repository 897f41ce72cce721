"""`kvmrkt stop`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import (
    EXIT_UUID_FILE,
    UUID_FILE,
    Command,
    for_each_pod,
)
from kvmrkt.cli.flags import boolean
from kvmrkt.errors import PodError

if TYPE_CHECKING:
    from kvmrkt.pods.directory import PodDirectory


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
def command(ctx: click.Context, /, **flags: Any) -> None:
    """Print the UUID of each pod that was stopped."""
    from kvmrkt.pods.stop import stop

    def act(pod: PodDirectory) -> str:
        stopped = stop(pod, force=flags["force"])
        return f'"{pod.uuid}"' if stopped else f'pod "{pod.uuid}" is already stopped'

    if failed := for_each_pod(ctx, flags, act, status_of_bad_file=EXIT_UUID_FILE):
        raise PodError(f"failed to stop {failed} pod(s)")
