"""`kvmrkt list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import Command, global_options, note_error
from kvmrkt.cli.flags import boolean
from kvmrkt.cli.json_output import FORMAT, to_json
from kvmrkt.cli.table import render
from kvmrkt.cli.values import absolute_time, relative_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmrkt.pods.directory import PodDirectory
    from kvmrkt.pods.status import PodFacts

_SHORT_UUID = 8
_SHORT_IMAGE_ID = len("sha512-") + 12


@click.command(
    cls=Command,
    params=[
        boolean("--full", "Whole UUIDs, image IDs, and times to the millisecond."),
        boolean("--no-legend", "No headings."),
        FORMAT,
    ],
    help="List pods, a line for each app.",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> None:
    """Print every pod that is prepared, runs, or has run and is not deleted yet."""
    from kvmrkt.pods.lookup import listed_pods

    pods = list(_readable(listed_pods(global_options(ctx).data)))
    if flags["format"]:
        click.echo(to_json([pod.status for pod in pods], flags["format"]))
        return
    rows = [] if flags["no_legend"] else [_headings(flags["full"])]
    for pod in pods:
        rows.extend(_rows(pod, full=flags["full"]))
    click.echo(render(rows), nl=False)


def _readable(pods: list[PodDirectory]) -> Iterator[PodFacts]:
    """The pods that can be read; one that cannot must not hide the others."""
    from kvmrkt.errors import KvmrktError, PodNotFoundError
    from kvmrkt.pods.status import read_pod

    for pod in pods:
        try:
            yield read_pod(pod)
        except PodNotFoundError:
            continue  # deleted meanwhile
        except KvmrktError as error:
            note_error(f'pod "{pod.uuid}"', error)


def _headings(full: bool) -> list[str]:
    image_id = ["IMAGE ID"] if full else []
    return ["UUID", "APP", "IMAGE NAME", *image_id, "STATE", "CREATED", "STARTED", "NETWORKS"]


def _rows(pod: PodFacts, *, full: bool) -> Iterator[list[str]]:
    status = pod.status
    time_text = absolute_time if full else relative_time
    own = [
        str(status.state),
        time_text(pod.created_ns) if pod.created_ns is not None else "",
        time_text(pod.started_ns) if pod.started_ns is not None else "",
        ", ".join(map(str, status.networks or ())),
    ]
    uuid = status.uuid if full else status.uuid[:_SHORT_UUID]
    for app in status.apps or ():
        image_id = [app.image_id[:_SHORT_IMAGE_ID]] if full else []
        yield [uuid, app.name, pod.image_names.get(app.name, ""), *image_id, *own]
        uuid, own = "", [""] * len(own)
    if not status.apps:
        yield [uuid, "-", "-", *(["-"] if full else []), *own]
