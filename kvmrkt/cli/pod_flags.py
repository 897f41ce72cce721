"""What is in a pod, and where it comes from: the flags that `run` and `prepare` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from kvmrkt.cli.app_flags import APP_FLAGS, MOUNT, app_request
from kvmrkt.cli.command import require_root
from kvmrkt.cli.flags import flag_table, repeated, value
from kvmrkt.cli.grammar import Words, sort_words
from kvmrkt.cli.values import parse_variables
from kvmrkt.errors import UsageError
from kvmrkt.pods.request import PodRequest

if TYPE_CHECKING:
    from kvmrkt.preparing import PrepareOptions
    from kvmrkt.stage1.image import Stage1Choice

STAGE1_KINDS: tuple[Literal["path", "name", "hash", "url", "from-dir"], ...] = (
    "path", "name", "hash", "url", "from-dir",
)  # fmt: skip

POD_FLAGS: list[click.Option] = [
    repeated("--volume", "Give the pod a volume.", "NAME,kind=host|empty,..."),
    MOUNT,
    repeated("--set-env", "Set a variable in every app.", "NAME=VALUE"),
    value(
        "--pull-policy", "When to look outside the store.", default="new", show_default=True,
        type=click.Choice(["never", "new", "update"]),
    ),
    *(value(f"--stage1-{kind}", f"Choose the stage1 image by {kind}.") for kind in STAGE1_KINDS),
]  # fmt: skip


class PodCommand(click.Command):
    """A command for root whose words rkt's grammar sorts before click sees them.

    The sorted words are in `ctx.meta["words"]`, for `pod_request`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse who may not, sort the words, and parse the pod's."""
        if "--help" in args[: args.index("--") if "--" in args else None]:
            click.echo(self.get_help(ctx))
            ctx.exit()
        require_root()
        words = sort_words(args, flag_table(self.params), flag_table(APP_FLAGS))
        ctx.meta["words"] = words
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


def pod_request(words: Words, flags: dict[str, Any]) -> PodRequest:
    """What the command line asks for; raises UsageError for what can be seen to be wrong."""
    from kvmrkt.cli.volume_flags import parse_mount, parse_volume

    if not words.apps:
        raise UsageError("must provide at least one image")
    return PodRequest(
        apps=tuple(app_request(app, "app") for app in words.apps),
        volumes=tuple(parse_volume(text) for text in flags["volume"]),
        mounts=tuple(parse_mount(text) for text in flags["mount"]),
        environment=parse_variables(flags["set_env"], "--set-env"),
    )


def prepare_options(flags: dict[str, Any]) -> PrepareOptions:
    """Where the images are to come from; raises UsageError for flags that contradict."""
    from kvmrkt.preparing import PrepareOptions

    return PrepareOptions(stage1=_stage1_choice(flags), pull_policy=flags["pull_policy"])


def _stage1_choice(flags: dict[str, Any]) -> Stage1Choice:
    from kvmrkt.stage1.image import Stage1Choice

    given = [kind for kind in STAGE1_KINDS if flags[f"stage1_{kind.replace('-', '_')}"]]
    if len(given) > 1:
        raise UsageError(
            f"flags --stage1-{given[0]} and --stage1-{given[1]} are mutually exclusive"
        )
    if not given:
        return Stage1Choice("default", "")
    return Stage1Choice(given[0], flags[f"stage1_{given[0].replace('-', '_')}"])
