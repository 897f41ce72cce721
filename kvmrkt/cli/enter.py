"""`kvmrkt enter`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import Command, global_options, note
from kvmrkt.cli.flags import value
from kvmrkt.errors import PodError, UsageError

if TYPE_CHECKING:
    from kvmrkt.inside.program import Program, Terminal
    from kvmrkt.pods.directory import PodDirectory

DEFAULT_COMMAND = "/bin/bash"
APP = value("--app", "Name of the app to enter.", metavar="NAME", default="")


@click.command(
    cls=Command,
    root_only=True,
    context_settings={"allow_interspersed_args": False},
    params=[
        APP,
        click.Argument(["uuid"], required=False),
        click.Argument(["words"], nargs=-1, type=click.UNPROCESSED),
    ],
    help="Run a command, by default a shell, as root inside an app of a running pod.",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> int:
    """Return the command's exit status."""
    from kvmrkt.inside.program import Program

    if not flags["uuid"]:
        raise UsageError("give the UUID of a pod")
    pod = running_pod(ctx, flags["uuid"])
    app = chosen_app(pod, flags["app"])
    words: tuple[str, ...] = flags["words"]
    if not words:
        note(f'no command specified, assuming "{DEFAULT_COMMAND}"')
        words = (DEFAULT_COMMAND,)
    program = Program(app=app, argv=words, user="0", group="0")
    return run(pod, program, interactive=True, terminal=own_terminal())


def running_pod(ctx: click.Context, uuid: str) -> PodDirectory:
    """The pod that a UUID means; PodError, in rkt's words, unless it runs."""
    from kvmrkt.pods.lookup import find_pod
    from kvmrkt.pods.states import PodState

    try:
        pod = find_pod(global_options(ctx).data, uuid)
    except PodError as error:
        raise PodError("problem retrieving pod") from error
    if pod.state() is not PodState.RUNNING:
        raise PodError(f'pod "{pod.uuid}" isn\'t currently running')
    return pod


def chosen_app(pod: PodDirectory, name: str) -> str:
    """The app named, or the only one; PodError or UsageError in rkt's words."""
    from kvmrkt.appc.pod_manifest import parse_pod_manifest

    names = [app.name for app in parse_pod_manifest(pod.read_pod_manifest() or b"").apps]
    if name:
        if name not in names:
            raise PodError(f"no app found with name {name!r}", hint="apps: " + ", ".join(names))
        return name
    if len(names) == 1:
        return names[0]
    if not names:
        raise PodError("pod contains zero apps")
    raise UsageError(
        "pod contains multiple apps: " + ", ".join(names),
        hint='specify app using "kvmrkt enter --app= ..."',
    )


def own_terminal() -> Terminal | None:
    """This process's terminal, when its input and its output are one."""
    from kvmrkt.inside.program import Terminal

    if os.isatty(0) and os.isatty(1):
        return Terminal(0, os.environ.get("TERM", "xterm"))
    return None


def run(
    pod: PodDirectory, program: Program, *, interactive: bool, terminal: Terminal | None
) -> int:
    """Run a program in the pod on this process's streams, and return its exit status."""
    from kvmrkt.inside.connection import connect
    from kvmrkt.inside.program import run_program

    with connect(pod) as connection:
        return run_program(connection, program, interactive=interactive, terminal=terminal)
