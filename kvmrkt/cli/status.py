"""`kvmrkt status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import (
    EXIT_UUID_FILE,
    UUID_FILE,
    Command,
    OptionalValue,
    the_pod,
)
from kvmrkt.cli.json_output import FORMAT, to_json
from kvmrkt.cli.values import absolute_time, parse_bool, parse_duration_ns
from kvmrkt.errors import PodError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmrkt.pods.directory import PodDirectory
    from kvmrkt.pods.status import PodFacts


class _Wait(click.ParamType[float]):
    """rkt's: true or nothing is for ever, false not at all, negative for ever, else a duration."""

    name = "wait"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds, `inf` for ever, 0 for not at all."""
        if isinstance(value, (int, float)):
            return float(value)
        try:
            return float("inf") if value == "" or parse_bool(value) else 0.0
        except UsageError:
            seconds = parse_duration_ns(value) / 1e9
            return seconds if seconds >= 0 else float("inf")


def _wait_option(name: str, text: str) -> click.Option:
    return OptionalValue([name], type=_Wait(), default=0.0, metavar="[=DURATION]", help=text)


@click.command(
    cls=Command,
    params=[
        click.Argument(["uuid"], nargs=-1),
        UUID_FILE,
        _wait_option("--wait", "Wait until the pod has ended, for so long at most."),
        _wait_option("--wait-ready", "Wait until the pod's apps have started."),
        FORMAT,
    ],
    help="Show the state of a pod.",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> None:
    """Print one pod, after waiting if asked to."""
    from kvmrkt.pods.status import read_pod

    pod = the_pod(ctx, flags, status_of_bad_file=EXIT_UUID_FILE)
    _wait_as_told(pod, flags)
    facts = read_pod(pod)
    if flags["format"]:
        click.echo(to_json(facts.status, flags["format"]))
    else:
        click.echo("\n".join(_lines(facts)))


def _wait_as_told(pod: PodDirectory, flags: dict[str, Any]) -> None:
    """Raises PodError, in rkt's words, when the time is over; an end is for who looks next."""
    if not flags["wait_ready"] and not flags["wait"]:
        return
    from kvmrkt.pods.waiting import Outcome, wait_ended, wait_ready

    waits = ((wait_ready, flags["wait_ready"], "pod readiness"),
             (wait_ended, flags["wait"], "pod to finish"))  # fmt: skip
    for wait, seconds, what in waits:
        if not seconds:
            continue
        timeout_seconds = None if seconds == float("inf") else seconds
        if wait(pod, timeout_seconds) is Outcome.TIME_OVER:
            raise PodError(f"error waiting for {what}: context deadline exceeded")


def _lines(pod: PodFacts) -> Iterator[str]:
    from kvmrkt.pods.states import ENDED, PodState

    status = pod.status
    yield f"state={status.state}"
    if pod.created_ns is not None:
        yield f"created={absolute_time(pod.created_ns)}"
    if pod.started_ns is not None:
        yield f"started={absolute_time(pod.started_ns)}"
    ended = status.state in ENDED
    if not ended and status.state is not PodState.RUNNING:
        return
    yield f"networks={', '.join(map(str, status.networks or ()))}"
    if pod.pid is not None:
        yield f"pid={pod.pid}"
    yield f"exited={'true' if ended else 'false'}"
    for app in status.apps or ():
        if ended and isinstance(app.exit_code, int):
            yield f"app-{app.name}={app.exit_code}"
    for app in status.apps or ():
        if isinstance(app.oom_kills, int):
            yield f"oom-kills-{app.name}={app.oom_kills}"
