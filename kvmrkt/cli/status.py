"""`kvmrkt status`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import (
    EXIT_UUID_FILE,
    UUID_FILE,
    Command,
    OptionalValue,
    given_uuids,
    global_options,
    note_error,
)
from kvmrkt.cli.json_output import FORMAT, to_json
from kvmrkt.cli.values import absolute_time, parse_bool, parse_duration_ns
from kvmrkt.errors import PodError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmrkt.pods.directory import PodDirectory
    from kvmrkt.pods.status import PodFacts

_READY_POLL_SECONDS = 0.1


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
def command(ctx: click.Context, /, **flags: Any) -> int:
    """Print one pod, after waiting if asked to."""
    from kvmrkt.pods.lookup import find_pod
    from kvmrkt.pods.status import read_pod

    try:
        uuids = given_uuids(flags["uuid"], flags["uuid_file"])
    except PodError as error:
        note_error("", error)
        return EXIT_UUID_FILE
    if len(uuids) != 1:
        raise UsageError("give the UUID of one pod")
    try:
        pod = find_pod(global_options(ctx).data, uuids[0])
    except PodError as error:
        raise PodError("problem retrieving pod") from error
    if flags["wait_ready"]:
        _wait(lambda: _wait_ready(pod), flags["wait_ready"], f'pod "{pod.uuid}" to be ready')
    if flags["wait"]:
        _wait(pod.wait_unlocked, flags["wait"], f'pod "{pod.uuid}" to finish')
    facts = read_pod(pod)
    if flags["format"]:
        click.echo(to_json(facts.status, flags["format"]))
    else:
        click.echo("\n".join(_lines(facts)))
    return 0


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
    yield f"networks={','.join(map(str, status.networks or ()))}"
    if pod.pid is not None:
        yield f"pid={pod.pid}"
    yield f"exited={'true' if ended else 'false'}"
    for app in status.apps or ():
        if ended and isinstance(app.exit_code, int):
            yield f"app-{app.name}={app.exit_code}"


def _wait(blocking: Callable[[], None], seconds: float, what: str) -> None:
    """Run a function that may block for ever, but not longer than the time given."""
    if seconds == float("inf"):
        blocking()
        return
    import threading

    thread = threading.Thread(target=blocking, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise PodError(f"error waiting for {what}: {seconds:g} seconds have passed")


def _wait_ready(pod: PodDirectory) -> None:
    from kvmrkt.pods.states import PodState
    from kvmrkt.pods.status import read_pod

    while True:
        try:
            status = read_pod(pod).status
        except PodError:
            return  # deleted: what comes next says so
        if status.state not in {PodState.PREPARING, PodState.PREPARED, PodState.RUNNING}:
            return
        apps = status.apps or ()
        if apps and status.state is PodState.RUNNING and all(a.state != "created" for a in apps):
            return
        time.sleep(_READY_POLL_SECONDS)
