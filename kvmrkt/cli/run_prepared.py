"""`kvmrkt run-prepared`."""

from __future__ import annotations

from typing import Any

import click

from kvmrkt.cli.command import Command, global_options, note
from kvmrkt.cli.run_flags import RUN_FLAGS, check_run_flags, run_options
from kvmrkt.errors import PodError, UsageError
from kvmrkt.trace import Trace


@click.command(
    cls=Command,
    root_only=True,
    params=[click.Argument(["uuid"], nargs=-1), *RUN_FLAGS],
    help="Run a prepared pod.",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> int:
    """Run a pod to its end; the exit status is that of the first app that failed."""
    trace = Trace.since_process_start()
    if len(flags["uuid"]) != 1:
        raise UsageError("must provide exactly one UUID")
    check_run_flags(flags)

    from kvmrkt.api import Host

    host = Host.with_options(global_options(ctx), note)
    try:
        pod = host.pod(flags["uuid"][0])
    except PodError as error:
        raise PodError("problem retrieving pod") from error
    status = pod.run_here(run_options(flags), trace=trace)
    if flags["trace"] is not None:
        trace.end("end")
        trace.write(flags["trace"])
    return status
