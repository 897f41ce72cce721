"""The flags of one app, which stand after its image: `run`, `prepare` and `app add` share them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvmrkt.cli.command import GO_BOOL, OptionalValue
from kvmrkt.cli.flags import path, repeated, value
from kvmrkt.cli.values import parse_variables
from kvmrkt.pods.request import AppRequest

if TYPE_CHECKING:
    from kvmrkt.cli.grammar import AppWords

MOUNT = repeated("--mount", "Mount a volume at a path.", "volume=NAME,target=PATH")
"""A flag of the pod, for all its apps, before the first image; of one app after it."""

APP_FLAGS: list[click.Option] = [
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
    MOUNT,
    path("--signature", "The image's detached signature."),
]

_COMMAND = click.Command("app", params=list(APP_FLAGS), add_help_option=False)


def app_request(words: AppWords, command: str) -> AppRequest:
    """What the words after an image ask for; `command` is whose words they are."""
    from kvmrkt.cli.volume_flags import parse_mount

    flags = _COMMAND.make_context(command, words.flags).params
    return AppRequest(
        image=words.image,
        name=flags["name"],
        exec=flags["exec"],
        arguments=tuple(words.arguments or ()),
        environment=parse_variables(flags["environment"], "--environment"),
        user=flags["user"],
        group=flags["group"],
        working_directory=flags["working_dir"],
        memory=flags["memory"],
        cpu=flags["cpu"],
        read_only_root=flags["readonly_rootfs"],
        mounts=tuple(parse_mount(text) for text in flags["mount"]),
        signature=flags["signature"],
    )
