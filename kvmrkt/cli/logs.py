"""`kvmrkt logs`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import GO_BOOL, Command, OptionalValue, global_options
from kvmrkt.cli.flags import boolean
from kvmrkt.cli.moments import parse_moment_ns
from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kvmrkt.pods.log_reader import PodLogs
    from kvmrkt.pods.logs import LogRecord


class _Since(click.ParamType[int]):
    name = "since"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """CLOCK_REALTIME in nanoseconds."""
        return value if isinstance(value, int) else parse_moment_ns(value, time.time_ns())


@click.command(
    cls=Command,
    params=[
        click.Argument(["uuid"], nargs=-1),
        OptionalValue(
            ["--follow", "-f"],
            type=GO_BOOL,
            default=False,
            metavar="",
            help="Go on until the pod has ended.",
        ),
        click.Option(["--app"], multiple=True, metavar="NAME", help="Only this app; repeatable."),
        click.Option(
            ["--since"],
            type=_Since(),
            default=0,
            metavar="WHEN",
            help="Only later lines: a duration like 10m, 2026-01-31T12:00:00Z, or @SECONDS.",
        ),
        boolean("--timestamps", "The time of day in UTC in place of the time since boot."),
        click.Option(
            ["--format"], type=click.Choice(["json"]), help="Print a JSON record for each line."
        ),
    ],
    help="Print what the apps of a pod wrote, also after it has ended.",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> None:
    """Print the records of one pod, in order of time."""
    from kvmrkt.pods.log_reader import PodLogs, Wanted, check_has_run, known_apps
    from kvmrkt.pods.lookup import find_pod

    if len(flags["uuid"]) != 1:
        raise UsageError("give the UUID of one pod")
    pod = find_pod(global_options(ctx).data, flags["uuid"][0])
    check_has_run(pod)
    wanted = Wanted(known_apps(pod, flags["app"] or None), flags["since"])
    with PodLogs(pod, wanted) as logs:
        _print(logs, _style(flags), follow=flags["follow"])


def _print(logs: PodLogs, style: Callable[[LogRecord], str], *, follow: bool) -> None:
    batches: Iterable[Iterable[LogRecord]] = (logs.read(),)
    if follow:
        batches = logs.follow(_output())
    for batch in batches:
        for record in batch:
            sys.stdout.write(style(record) + "\n")
        sys.stdout.flush()


def _output() -> list[int]:
    """Standard output, if it is one whose reader can go away."""
    try:
        return [sys.stdout.fileno()]
    except OSError:
        return []


def _style(flags: dict[str, Any]) -> Callable[[LogRecord], str]:
    from kvmrkt.pods.logs import format_json, format_line, format_with_time

    if flags["format"] == "json":
        return format_json
    return format_with_time if flags["timestamps"] else format_line
