"""`kvmrkt run`."""

from __future__ import annotations

from typing import Any

import click

from kvmrkt.cli.command import global_options, note
from kvmrkt.cli.flags import path
from kvmrkt.cli.pod_flags import POD_FLAGS, PodCommand, pod_request, prepare_options
from kvmrkt.cli.run_flags import RUN_FLAGS, check_run_flags, run_options
from kvmrkt.errors import UsageError
from kvmrkt.trace import Trace


@click.command(
    cls=PodCommand,
    params=[
        *POD_FLAGS,
        *RUN_FLAGS,
        path("--uuid-file-save", "Write the pod's UUID to a file before it starts."),
    ],
    options_metavar="[POD FLAGS]",
    help="Run images in a pod: IMAGE [APP FLAGS] [-- ARGUMENTS] [--- IMAGE ...]",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> int:
    """Run a pod to its end; the exit status is that of the first app that failed."""
    trace = Trace.since_process_start()
    request = pod_request(ctx.meta["words"], flags)
    check_run_flags(flags, request.ports)
    if flags["interactive"] and request.app_count > 1:
        raise UsageError("interactive option only supports one image")
    trace.end("python")

    from kvmrkt.api import Host

    status = Host.with_options(global_options(ctx), note).run_here(
        request,
        prepare_options(flags),
        run_options(flags),
        uuid_file=flags["uuid_file_save"],
        trace=trace,
    )
    if flags["trace"] is not None:
        trace.end("end")
        trace.write(flags["trace"])
    return status
