"""When to look for images outside the store: what `fetch`, `run` and `prepare` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvmrkt.cli.flags import OneOf, boolean, say_deprecated, value
from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    import click

    from kvmrkt.images.policy import PullPolicy


def pull_flags(default: PullPolicy) -> list[click.Option]:
    """The flags, deprecated ones too."""
    return [
        value(
            "--pull-policy", "When to look outside the store.", default=default, show_default=True,
            type=OneOf("never", "new", "update"),
        ),
        boolean("--store-only", "As --pull-policy=never.", hidden=True),
        boolean("--no-store", "As --pull-policy=update.", hidden=True),
    ]  # fmt: skip


def pull_policy(flags: dict[str, Any]) -> PullPolicy:
    """What the flags mean together; raises UsageError."""
    if flags["store_only"]:
        say_deprecated("--store-only", "please use --pull-policy=never")
    if flags["no_store"]:
        say_deprecated("--no-store", "please use --pull-policy=update")
    if flags["store_only"] and flags["no_store"]:
        raise UsageError("both --store-only and --no-store specified")
    if flags["store_only"] or flags["no_store"]:
        return "never" if flags["store_only"] else "update"
    policy: PullPolicy = flags["pull_policy"]
    return policy
