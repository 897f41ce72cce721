"""`kvmrkt run`: rkt's grammar in, a pod request out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from kvmrkt.cli.command import GO_BOOL, GO_DURATION, OptionalValue, note, require_root
from kvmrkt.cli.flags import boolean, flag_table, path, repeated, value
from kvmrkt.cli.grammar import AppWords, sort_words
from kvmrkt.errors import UsageError
from kvmrkt.pods.request import AppRequest, PodRequest
from kvmrkt.trace import Trace

if TYPE_CHECKING:
    from kvmrkt.config import GlobalOptions

STAGE1_KINDS: tuple[Literal["path", "name", "hash", "url", "from-dir"], ...] = (
    "path", "name", "hash", "url", "from-dir",
)  # fmt: skip

_MOUNT = repeated("--mount", "Mount a volume at a path.", "volume=NAME,target=PATH")

POD_FLAGS = [
    repeated("--volume", "Give the pod a volume.", "NAME,kind=host|empty,..."),
    _MOUNT,
    repeated("--set-env", "Set a variable in every app.", "NAME=VALUE"),
    OptionalValue(
        ["--net"], bare="default", multiple=True, metavar="[=NETWORKS]",
        help="Networks to join; only none is available yet.",
    ),
    value("--hostname", "The pod's host name; rkt-UUID by default."),
    boolean("--interactive", "Connect the one app to this terminal."),
    path("--uuid-file-save", "Write the pod's UUID to a file before it starts."),
    value(
        "--pull-policy", "When to look outside the store.", default="new", show_default=True,
        type=click.Choice(["never", "new", "update"]),
    ),
    *(value(f"--stage1-{kind}", f"Choose the stage1 image by {kind}.") for kind in STAGE1_KINDS),
    value(
        "--accel", "How the machine is run.", default="auto", show_default=True,
        type=click.Choice(["auto", "kvm", "tcg"]),
    ),
    value("--boot-timeout", "How long the guest may take to answer.", type=GO_DURATION),
    path("--trace", "Write where the time of the start went, as JSON."),
]  # fmt: skip

APP_FLAGS = [
    value("--exec", "The program to run, in place of the image's."),
    value("--name", "The app's name in the pod."),
    value("--user", "User: a number, a name, or a path whose owner is meant."),
    value("--group", "Group: a number, a name, or a path whose group is meant."),
    value("--working-dir", "The directory to start in."),
    value("--memory", "Limit of memory, like 128M or 1Gi."),
    value("--cpu", "Limit of CPU, like 500m or 2."),
    repeated("--environment", "Set a variable in this app.", "NAME=VALUE"),
    OptionalValue(
        ["--readonly-rootfs"],
        type=GO_BOOL,
        default=False,
        metavar="[=BOOL]",
        help="The app cannot write to its root.",
    ),
    _MOUNT,
    path("--signature", "The image's detached signature."),
]

_APP_COMMAND = click.Command("app", params=list(APP_FLAGS), add_help_option=False)


class PodCommand(click.Command):
    """A command whose words rkt's grammar sorts before click sees them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the pod's flags here, and each app's into `ctx.meta`."""
        if "--help" in args[: args.index("--") if "--" in args else None]:
            click.echo(self.get_help(ctx))
            ctx.exit()
        words = sort_words(args, flag_table(self.params), flag_table(APP_FLAGS))
        ctx.meta["apps"] = [_app_request(app) for app in words.apps]
        return super().parse_args(ctx, words.pod)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The pod's flags, then an app's."""
        with formatter.section("Flags of the pod"):
            formatter.write_dl(_help_records(self.params, ctx))
        with formatter.section("Flags of the app whose image stands before"):
            formatter.write_dl(_help_records(APP_FLAGS, ctx))


def _help_records(
    parameters: list[click.Parameter] | list[click.Option], ctx: click.Context
) -> list[tuple[str, str]]:
    return [record for option in parameters if (record := option.get_help_record(ctx))]


def _app_request(words: AppWords) -> AppRequest:
    from kvmrkt.cli.volume_flags import parse_mount

    flags = _APP_COMMAND.make_context("run", words.flags).params
    return AppRequest(
        image=words.image,
        name=flags["name"],
        exec=flags["exec"],
        arguments=tuple(words.arguments or ()),
        environment=_variables(flags["environment"], "--environment"),
        user=flags["user"],
        group=flags["group"],
        working_directory=flags["working_dir"],
        memory=flags["memory"],
        cpu=flags["cpu"],
        read_only_root=flags["readonly_rootfs"],
        mounts=tuple(parse_mount(text) for text in flags["mount"]),
        signature=flags["signature"],
    )


def _variables(words: tuple[str, ...], flag: str) -> tuple[tuple[str, str], ...]:
    variables = []
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UsageError(f'invalid {flag}: "{word}" is not NAME=VALUE')
        variables.append((name, text))
    return tuple(variables)


@click.command(
    cls=PodCommand,
    params=list(POD_FLAGS),
    options_metavar="[POD FLAGS]",
    help="Run images in a pod: IMAGE [APP FLAGS] [-- ARGUMENTS] [--- IMAGE ...]",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> int:
    """Run a pod to its end; the exit status is that of the first app that failed."""
    trace = Trace.since_process_start()
    require_root()
    apps: list[AppRequest] = ctx.meta["apps"]
    if not apps:
        raise UsageError("must provide at least one image")
    _check_networks(flags["net"])
    if flags["interactive"] and len(apps) > 1:
        raise UsageError("interactive option only supports one image")
    request = _pod_request(apps, flags)
    host: GlobalOptions = ctx.obj
    trace.end("python")

    from kvmrkt.host import Setting, run_pod
    from kvmrkt.preparing import PrepareOptions
    from kvmrkt.stage1.engine import RunOptions

    status = run_pod(
        request,
        PrepareOptions(stage1=_stage1_choice(flags), pull_policy=flags["pull_policy"]),
        RunOptions(
            accelerator=flags["accel"],
            boot_timeout_seconds=flags["boot_timeout"] and flags["boot_timeout"] / 1e9,
            hostname=flags["hostname"],
            interactive=flags["interactive"],
            tty_fd=0 if flags["interactive"] and os.isatty(0) and os.isatty(1) else None,
        ),
        Setting(host, trace, note),
        uuid_file=flags["uuid_file_save"],
    )
    if (target := flags["trace"]) is not None:
        trace.end("end")
        trace.write(Path(target))
    return status


def _pod_request(apps: list[AppRequest], flags: dict[str, Any]) -> PodRequest:
    from kvmrkt.cli.volume_flags import parse_mount, parse_volume

    return PodRequest(
        apps=tuple(apps),
        volumes=tuple(parse_volume(text) for text in flags["volume"]),
        mounts=tuple(parse_mount(text) for text in flags["mount"]),
        environment=_variables(flags["set_env"], "--set-env"),
        hostname=flags["hostname"],
    )


def _check_networks(chosen: tuple[str, ...]) -> None:
    names = [name for word in chosen for name in word.split(",")]
    if not names:
        names = ["default"]
    for name in names:
        if name != "none":
            raise UsageError(
                f'the network "{name}" is not available: this version of kvmrkt has only none',
                hint="run with --net=none; the pod's apps reach each other over loopback",
            )


def _stage1_choice(flags: dict[str, Any]) -> Any:
    from kvmrkt.stage1.image import Stage1Choice

    given = [kind for kind in STAGE1_KINDS if flags[f"stage1_{kind.replace('-', '_')}"]]
    if len(given) > 1:
        raise UsageError(
            f"flags --stage1-{given[0]} and --stage1-{given[1]} are mutually exclusive"
        )
    if not given:
        return Stage1Choice("default", "")
    return Stage1Choice(given[0], flags[f"stage1_{given[0].replace('-', '_')}"])
