"""The flags of one app, which stand after its image: `run`, `prepare` and `app add` share them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import GO_BOOL
from kvmrkt.cli.flags import (
    BooleanWord,
    OneOf,
    faulty,
    integer,
    path,
    repeated,
    say_deprecated,
    value,
)
from kvmrkt.errors import UsageError
from kvmrkt.pods.request import AppRequest

if TYPE_CHECKING:
    from kvmrkt.cli.grammar import AppWords
    from kvmrkt.pods.request import Pairs, SeccompRequest

MOUNT = repeated("--mount", "Mount a volume at a path.", "volume=NAME,target=PATH")
"""A flag of the pod, for all its apps, before the first image; of one app after it."""

_OUTPUTS = OneOf("log", "null", "stream", "tty")

APP_FLAGS: list[click.Option] = [
    value("--exec", "The program to run, in place of the image's."),
    value("--name", "The app's name in the pod."),
    value("--user", "User: a number, a name, or a path whose owner is meant."),
    value("--group", "Group: a number, a name, or a path whose group is meant."),
    value("--supplementary-gids", "More groups, by number.", metavar="GID,..."),
    value("--working-dir", "The directory to start in."),
    value("--memory", "Limit of memory, like 128M or 1Gi."),
    value("--cpu", "Limit of CPU, like 500m or 2."),
    integer("--cpu-shares", "Share of a busy CPU, from 2 to 262144."),
    integer("--oom-score-adj", "How soon to be killed when memory is out, from -1000 to 1000."),
    value("--caps-retain", "The capabilities to have, and no others.", metavar="CAP,..."),
    value("--caps-remove", "What not to have of the usual capabilities.", metavar="CAP,..."),
    value("--cap-retain", "As --caps-retain.", hidden=True),
    value("--cap-remove", "As --caps-remove.", hidden=True),
    value(
        "--seccomp", "System calls to allow or to forbid.",
        metavar="mode=retain|remove,[errno=NAME,]CALL|@GROUP,...",
    ),
    repeated("--environment", "Set a variable in this app.", "NAME=VALUE"),
    BooleanWord(
        ["--readonly-rootfs"], type=GO_BOOL, default=False, metavar="[=BOOL]",
        help="The app cannot write to its root.",
    ),
    MOUNT,
    repeated("--annotation", "Annotate the app; the name is an AC Identifier.", "NAME=VALUE"),
    repeated("--user-annotation", "Annotate the app with any name.", "NAME=VALUE"),
    repeated("--user-label", "Label the app.", "NAME=VALUE"),
    value("--stdin", "Where input comes from.", type=OneOf("null", "stream", "tty")),
    value("--stdout", "Where output goes.", type=_OUTPUTS),
    value("--stderr", "Where errors go.", type=_OUTPUTS),
    path("--signature", "The image's detached signature."),
]  # fmt: skip

_MAX_DIGITS = 18

_ONCE = ("--exec", "--signature")

_COMMAND = click.Command("app", params=list(APP_FLAGS), add_help_option=False)


def app_request(words: AppWords) -> AppRequest:
    """What the words after an image ask for; raises UsageError and ManifestError."""
    from kvmrkt.cli.environment_flags import parse_pairs
    from kvmrkt.cli.volume_flags import parse_mount
    from kvmrkt.pods.app_isolators import asked_isolators

    for flag in _ONCE:
        if sum(word.startswith(f"{flag}=") for word in words.flags) > 1:
            raise UsageError(f"{flag} specified multiple times for the same image")
    flags = _COMMAND.make_context("app", words.flags).params
    request = AppRequest(
        image=words.image,
        name=flags["name"] or None,
        exec=flags["exec"] or None,
        arguments=tuple(words.arguments or ()),
        environment=parse_pairs(flags["environment"], "--environment"),
        user=flags["user"],
        group=flags["group"],
        supplementary_gids=_gids(flags["supplementary_gids"]),
        working_directory=flags["working_dir"],
        memory=flags["memory"],
        cpu=flags["cpu"],
        cpu_shares=flags["cpu_shares"],
        oom_score_adj=flags["oom_score_adj"],
        retain_capabilities=_capabilities(flags, "retain"),
        remove_capabilities=_capabilities(flags, "remove"),
        seccomp=_seccomp(flags["seccomp"]),
        read_only_root=flags["readonly_rootfs"],
        mounts=tuple(parse_mount(text) for text in flags["mount"]),
        annotations=_annotations(flags["annotation"]),
        user_annotations=parse_pairs(flags["user_annotation"], "--user-annotation") or None,
        user_labels=parse_pairs(flags["user_label"], "--user-label") or None,
        stdin=flags["stdin"],
        stdout=flags["stdout"],
        stderr=flags["stderr"],
        signature=flags["signature"],
    )
    for _ in asked_isolators(request):  # what is wrong is said before an image is fetched
        pass
    return request


def _gids(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) <= _MAX_DIGITS for part in parts):
        raise faulty("--supplementary-gids", text, "--supplementary-gids must be integers")
    return tuple(int(part) for part in parts)


def _capabilities(flags: dict[str, Any], mode: str) -> tuple[str, ...] | None:
    text: str | None = flags[f"caps_{mode}"]
    if (old := flags[f"cap_{mode}"]) is not None:
        say_deprecated(f"--cap-{mode}", f"use --caps-{mode} instead")
        text = old if text is None else text
    return None if text is None else tuple(text.split(","))


def _seccomp(text: str | None) -> SeccompRequest | None:
    if text is None:
        return None
    from kvmrkt.cli.seccomp_flags import parse_seccomp

    return parse_seccomp(text)


def _annotations(words: tuple[str, ...]) -> Pairs:
    from kvmrkt.appc.types import is_ac_identifier
    from kvmrkt.cli.environment_flags import parse_pairs

    pairs = parse_pairs(words, "--annotation")
    for name, text in pairs:
        if not is_ac_identifier(name):
            raise faulty("--annotation", f"{name}={text}", f'"{name}" is not an AC Identifier')
    return pairs
