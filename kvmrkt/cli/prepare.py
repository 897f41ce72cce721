"""`kvmrkt prepare`."""

from __future__ import annotations

from typing import Any

import click

from kvmrkt.cli.command import global_options, note
from kvmrkt.cli.flags import boolean
from kvmrkt.cli.pod_flags import POD_FLAGS, PodCommand, pod_request, prepare_options


@click.command(
    cls=PodCommand,
    params=[*POD_FLAGS, boolean("--quiet", "Print nothing but the pod's UUID.")],
    options_metavar="[POD FLAGS]",
    help="Prepare a pod for run-prepared: IMAGE [APP FLAGS] [-- ARGUMENTS] [--- IMAGE ...]",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> None:
    """Print the UUID of the new pod."""
    request = pod_request(ctx.meta["words"], flags)

    from kvmrkt.api import Host

    host = Host.with_options(global_options(ctx), (lambda _: None) if flags["quiet"] else note)
    click.echo(host.prepare(request, prepare_options(flags)).uuid)
