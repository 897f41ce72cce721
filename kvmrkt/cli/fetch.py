"""`kvmrkt fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kvmrkt.cli.command import global_options, note
from kvmrkt.cli.flags import boolean, flag_table, path
from kvmrkt.cli.grammar import AppWords, sort_words
from kvmrkt.cli.pull_flags import pull_flags, pull_policy
from kvmrkt.errors import UsageError

_FETCH_FLAGS = [
    boolean("--full", "Print image IDs with 64 digits instead of 32."),
    *pull_flags("update"),
]
_IMAGE_FLAGS = [path("--signature", "The detached signature of the image before the flag.")]
_IMAGE_COMMAND = click.Command("image", params=list(_IMAGE_FLAGS), add_help_option=False)


class _FetchCommand(click.Command):
    """Several images, each with flags of its own: rkt's grammar."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Sort the words; each image's flags are parsed into `ctx.meta`."""
        if "--help" in args:
            click.echo(self.get_help(ctx))
            ctx.exit()
        words = sort_words(args, flag_table(self.params), flag_table(_IMAGE_FLAGS))
        if any(image.arguments is not None for image in words.apps):
            raise UsageError("app arguments unsupported")
        ctx.meta["images"] = [(image.image, _signature(image)) for image in words.apps]
        return super().parse_args(ctx, words.pod)


def _signature(words: AppWords) -> Path | None:
    signature: Path | None = _IMAGE_COMMAND.make_context("fetch", words.flags).params["signature"]
    return signature


@click.command(
    cls=_FetchCommand,
    params=[*_FETCH_FLAGS, *_IMAGE_FLAGS],
    options_metavar="[FLAGS]",
    help="Fetch images into the store and print their IDs: IMAGE [--signature=FILE] ...",
)
@click.pass_context
def fetch(ctx: click.Context, /, **flags: Any) -> None:
    """Print the ID of each image once it is in the store, its root filesystem made."""
    from kvmrkt.appc.types import FETCH_DIGITS, KEY_DIGITS, shorten_image_id
    from kvmrkt.cli.key_review import terminal_review
    from kvmrkt.cli.progress import terminal_progress
    from kvmrkt.fetching import fetch_policy, open_store
    from kvmrkt.images.find import find_image
    from kvmrkt.images.tree import tree_for

    images: list[tuple[str, Path | None]] = ctx.meta["images"]
    if not images:
        raise UsageError("must provide at least one image")
    options = global_options(ctx)
    policy = fetch_policy(
        options,
        pull_policy(flags),
        report=_report,
        confirm=terminal_review(err=True),
        progress=terminal_progress(),
    )
    if options.insecure.image:
        note("warning: image signature verification has been disabled")
    with open_store(options) as store:
        for text, signature in images:
            given = signature or flags["signature"]
            image = find_image(store, text, policy, signature=given)
            tree_for(store, image.id)  # now, so that the first pod need not wait for it
            click.echo(shorten_image_id(image.id, KEY_DIGITS if flags["full"] else FETCH_DIGITS))


def _report(line: str) -> None:
    click.echo(f"image: {line}", err=True)
