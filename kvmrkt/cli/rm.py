"""`kvmrkt rm`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import (
    UUID_FILE,
    Command,
    for_each_pod,
)
from kvmrkt.errors import PodError

if TYPE_CHECKING:
    from kvmrkt.pods.directory import PodDirectory


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

    def act(pod: PodDirectory) -> str:
        remove(pod)
        return f'"{pod.uuid}"'

    if for_each_pod(ctx, flags, act):
        raise PodError("failed to remove one or more pods")
