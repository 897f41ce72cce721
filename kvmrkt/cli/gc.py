"""`kvmrkt gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import GO_DURATION, Command, global_options, note, note_error
from kvmrkt.cli.flags import boolean
from kvmrkt.cli.values import format_duration
from kvmrkt.errors import PodError

if TYPE_CHECKING:
    from kvmrkt.errors import KvmrktError
    from kvmrkt.pods.gc import Step


def _duration(name: str, default: str, text: str) -> click.Option:
    return click.Option(
        [name], type=GO_DURATION, default=default, show_default=True, metavar="DURATION", help=text
    )


@click.command(
    cls=Command,
    root_only=True,
    params=[
        _duration("--grace-period", "30m", "Keep ended pods for so long after they are marked."),
        _duration("--expire-prepared", "24h", "Remove pods prepared so long ago and never run."),
        boolean("--mark-only", "Mark ended pods, delete nothing."),
    ],
    help="Remove what ended pods left.",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> None:
    """Mark ended pods and delete those whose grace period is over."""
    from kvmrkt.pods.gc import Step, mark, sweep

    grace_ns = flags["grace_period"]
    failed = 0

    def report(step: Step, uuid: str, error: KvmrktError | None = None) -> None:
        nonlocal failed
        if step is Step.DELETE:
            click.echo(f'Garbage collecting pod "{uuid}"')
        elif step is Step.FAIL and error is not None:
            failed += 1
            note_error(f'pod "{uuid}" not removed', error)
        elif step is Step.KEEP:
            note(
                f'pod "{uuid}" not removed: still within grace period ({format_duration(grace_ns)})'
            )
        else:
            note(_MARKED[step.name].format(uuid=uuid))

    data = global_options(ctx).data
    mark(data, report)
    if not flags["mark_only"]:
        deleted = sweep(
            data,
            report,
            grace_seconds=grace_ns / 1e9,
            expire_prepared_seconds=flags["expire_prepared"] / 1e9,
        )
        if deleted:
            note(f"{deleted} pod(s) successfully removed")
    if failed:
        raise PodError(f"failed to remove {failed} pod(s)", hint="the next gc tries again")


_MARKED = {
    "MARK_EXITED": 'moving pod "{uuid}" to garbage',
    "MARK_ABORTED": 'moving failed prepare "{uuid}" to garbage',
    "MARK_EXPIRED": 'moving expired prepared pod "{uuid}" to garbage',
}
