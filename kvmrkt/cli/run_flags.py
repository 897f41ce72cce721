"""How a pod is run, beside what is in it: the flags that `run` and `run-prepared` share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import GO_DURATION, OptionalValue
from kvmrkt.cli.flags import boolean, path, value
from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    from kvmrkt.stage1.engine import RunOptions

RUN_FLAGS: list[click.Option] = [
    OptionalValue(
        ["--net"], bare="default", multiple=True, metavar="[=NETWORKS]",
        help="Networks to join; only none is available yet.",
    ),
    value("--hostname", "The pod's host name; rkt-UUID by default."),
    boolean("--interactive", "Connect the one app to this terminal."),
    value(
        "--accel", "How the machine is run.", default="auto", show_default=True,
        type=click.Choice(["auto", "kvm", "tcg"]),
    ),
    value("--boot-timeout", "How long the guest may take to answer.", type=GO_DURATION),
    path("--trace", "Write where the time of the start went, as JSON."),
]  # fmt: skip


def check_run_flags(flags: dict[str, Any]) -> None:
    """Raises UsageError for what can be seen to be wrong, and for what is not available."""
    names = [name for word in flags["net"] for name in word.split(",")]
    if not names:
        names = ["default"]
    for name in names:
        if name != "none":
            raise UsageError(
                f'the network "{name}" is not available: this version of kvmrkt has only none',
                hint="run with --net=none; the pod's apps reach each other over loopback",
            )


def run_options(flags: dict[str, Any]) -> RunOptions:
    """The options that checked flags mean."""
    from kvmrkt.stage1.engine import RunOptions

    return RunOptions(
        accelerator=flags["accel"],
        boot_timeout_seconds=flags["boot_timeout"] and flags["boot_timeout"] / 1e9,
        hostname=flags["hostname"],
        interactive=flags["interactive"],
        tty_fd=0 if flags["interactive"] and os.isatty(0) and os.isatty(1) else None,
    )
