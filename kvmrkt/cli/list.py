"""`kvmrkt list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvmrkt.cli.command import Command, global_options, note_error
from kvmrkt.cli.flags import boolean
from kvmrkt.cli.json_output import FORMAT, to_json
from kvmrkt.cli.table import render
from kvmrkt.cli.values import absolute_time, relative_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmrkt.pods.directory import PodDirectory
    from kvmrkt.pods.status import PodLine

_T = TypeVar("_T")
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
    from kvmrkt.pods.status import read_line, read_pod

    pods = listed_pods(global_options(ctx).data)
    if flags["format"]:
        facts = [pod.status for pod in _readable(pods, read_pod)]
        click.echo(to_json(facts, flags["format"]))
        return
    rows = [] if flags["no_legend"] else [_headings(flags["full"])]
    for line in _readable(pods, read_line):
        rows.extend(_rows(line, full=flags["full"]))
    click.echo(render(rows), nl=False)


def _readable(pods: list[PodDirectory], read: Callable[[PodDirectory], _T]) -> Iterator[_T]:
    """The pods that can be read; one that cannot must not hide the others."""
    from kvmrkt.errors import KvmrktError, PodNotFoundError

    for pod in pods:
        try:
            yield read(pod)
        except PodNotFoundError:
            continue  # deleted meanwhile
        except KvmrktError as error:
            note_error(f'pod "{pod.uuid}"', error)


def _headings(full: bool) -> list[str]:
    image_id = ["IMAGE ID"] if full else []
    return ["UUID", "APP", "IMAGE NAME", *image_id, "STATE", "CREATED", "STARTED", "NETWORKS"]


def _rows(pod: PodLine, *, full: bool) -> Iterator[list[str]]:
    time_text = absolute_time if full else relative_time
    own = [
        str(pod.state),
        time_text(pod.created_ns) if pod.created_ns is not None else "",
        time_text(pod.started_ns) if pod.started_ns is not None else "",
        ", ".join(map(str, pod.networks)),
    ]
    uuid = pod.uuid if full else pod.uuid[:_SHORT_UUID]
    for app in pod.apps:
        image_id = [app.image.id[:_SHORT_IMAGE_ID]] if full else []
        yield [uuid, app.name, str(app.image), *image_id, *own]
        uuid, own = "", [""] * len(own)
    if not pod.apps:
        yield [uuid, "-", "-", *(["-"] if full else []), *own]
