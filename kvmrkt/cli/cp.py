"""`kvmrkt cp`."""

from __future__ import annotations

from typing import Any, NamedTuple

import click

from kvmrkt.cli.command import Command, note
from kvmrkt.cli.enter import chosen_app, running_pod
from kvmrkt.errors import UsageError

_HOST_STARTS = ("/", "./", "../", "~")


class PodPath(NamedTuple):
    """A path inside an app of a pod; `app` is empty for the only one."""

    uuid: str
    app: str
    path: str


def parse_pod_path(text: str) -> PodPath | None:
    """`UUID[:APP]:PATH`; None for a path on the host, which a `/` or `./` in front makes certain.

    Raises UsageError for a pod's path that names no file.
    """
    uuid, colon, rest = text.partition(":")
    if not colon or text.startswith(_HOST_STARTS) or text in (".", ".."):
        return None
    app = ""
    if not rest.startswith("/") and ":" in rest:
        app, _, rest = rest.partition(":")
    if not rest:
        raise UsageError(f'"{text}" names no path in the pod', hint="write UUID:/PATH")
    return PodPath(uuid, app, rest if rest.startswith("/") else f"/{rest}")


@click.command(
    cls=Command,
    root_only=True,
    params=[click.Argument(["source"], required=False), click.Argument(["goal"], required=False)],
    help="Copy files into or out of an app of a running pod: its side is UUID[:APP]:PATH.",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> None:
    """Print nothing but what was left out."""
    if not flags["source"] or not flags["goal"]:
        raise UsageError("give a source and a goal", hint="one of them is UUID[:APP]:PATH")
    source, goal = parse_pod_path(flags["source"]), parse_pod_path(flags["goal"])
    inside = source or goal
    if inside is None or (source is not None and goal is not None):
        raise UsageError(
            "one of source and goal must be in a pod, and only one",
            hint="a pod's side is UUID[:APP]:PATH; put ./ before a file with a colon in its name",
        )
    pod = running_pod(ctx, inside.uuid)
    app = chosen_app(pod, inside.app)
    from kvmrkt.inside.connection import connect
    from kvmrkt.inside.copy import copy_in, copy_out

    with connect(pod) as connection:
        if source is not None:
            copy_out(connection, app, source.path, flags["goal"], note)
        else:
            copy_in(connection, app, flags["source"], inside.path)
