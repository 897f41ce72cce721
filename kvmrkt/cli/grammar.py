"""rkt's argument grammar for commands that take several images.

`run [pod flags] IMAGE [app flags] [-- arguments] [--- IMAGE …]`: a flag of an app binds to the
image before it, a flag of the pod may stand anywhere, `--` begins an app's arguments and `---`
ends them. This module only sorts the words; click then parses each heap.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import Enum, auto
from typing import NamedTuple

from kvmrkt.cli.values import parse_bool
from kvmrkt.errors import UsageError


class FlagKind(Enum):
    """How a flag takes its value."""

    VALUE = auto()
    OPTIONAL = auto()
    """`--flag` alone means something; a value needs the `=`."""
    BOOLEAN_WORD = auto()
    """Like OPTIONAL, but a following word for true or false is the value as well."""


class Flag(NamedTuple):
    """One flag; `bare` is its value when none is given."""

    kind: FlagKind
    bare: str = "true"


class AppWords:
    """One image and the words that belong to it."""

    __slots__ = ("arguments", "flags", "image")

    def __init__(self, image: str) -> None:
        """An image that no word belongs to yet."""
        self.image = image
        self.flags: list[str] = []
        self.arguments: list[str] | None = None


class Words:
    """A command line, sorted."""

    __slots__ = ("apps", "pod")

    def __init__(self) -> None:
        """No words yet."""
        self.pod: list[str] = []
        self.apps: list[AppWords] = []


def sort_words(
    words: Sequence[str], pod_flags: Mapping[str, Flag], app_flags: Mapping[str, Flag]
) -> Words:
    """Sort the words; every flag comes out as one word, `--flag=value`. Raises UsageError."""
    sorted_words = Words()
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        if word in ("", "---"):
            continue
        if word == "--":
            _take_arguments(rest, sorted_words.apps)
        elif word.startswith("-") and word != "-":
            name = word.partition("=")[0]
            heap, flag = _owner(name, sorted_words, pod_flags, app_flags)
            heap.append(_with_value(word, flag, rest))
        else:
            sorted_words.apps.append(AppWords(word))
    return sorted_words


def _take_arguments(rest: list[str], apps: list[AppWords]) -> None:
    if not apps:
        raise UsageError("an image is required before any app arguments")
    if apps[-1].arguments is not None:
        raise UsageError("only one set of app arguments allowed per image")
    apps[-1].arguments = arguments = []
    while rest and (word := rest.pop()) != "---":
        arguments.append(word)


def _owner(
    name: str, words: Words, pod_flags: Mapping[str, Flag], app_flags: Mapping[str, Flag]
) -> tuple[list[str], Flag]:
    if name in app_flags and words.apps:
        return words.apps[-1].flags, app_flags[name]
    if name in pod_flags:
        return words.pod, pod_flags[name]
    if name in app_flags:
        raise UsageError(f"{name} must follow an image")
    raise UsageError(f"unknown flag: {name}", hint="see --help")


def _with_value(word: str, flag: Flag, rest: list[str]) -> str:
    if "=" in word:
        return word
    if flag.kind is FlagKind.BOOLEAN_WORD and rest and _is_bool(rest[-1]):
        return f"{word}={rest.pop()}"
    if flag.kind is not FlagKind.VALUE:
        return f"{word}={flag.bare}"
    if not rest:
        raise UsageError(f"flag needs an argument: {word}")
    return f"{word}={rest.pop()}"


def _is_bool(word: str) -> bool:
    try:
        parse_bool(word)
    except UsageError:
        return False
    return True


def hoist_global_flags(
    words: Sequence[str], flags: Mapping[str, Flag]
) -> tuple[list[str], list[str]]:
    """Global flags, which may stand before or after the command, and all other words.

    What follows `--` belongs to an app, up to a `---`.
    """
    hoisted: list[str] = []
    kept: list[str] = []
    rest = list(reversed(words))
    in_arguments = False
    while rest:
        word = rest.pop()
        if word == "--":
            in_arguments = True
        elif word == "---":
            in_arguments = False
        name = word.partition("=")[0]
        if not in_arguments and name in flags:
            hoisted.append(_with_value(word, flags[name], rest))
        else:
            kept.append(word)
    return hoisted, kept


def place_leading_flags(
    words: Sequence[str], commands: Collection[str], groups: Collection[str]
) -> list[str]:
    """Move a command's own flags, which may stand before its name, behind it.

    As in rkt, a flag without a `=` takes the next word with it, unless that is a command's name.
    A group's command comes after the group.
    """
    leading: list[str] = []
    names: list[str] = []
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        if word == "--":
            rest.append(word)
            break
        if word.startswith("-") and word != "-":
            leading.append(word)
            if "=" not in word and len(rest) > 1 and rest[-1] not in commands and word != "--help":
                leading.append(rest.pop())
            continue
        names.append(word)
        if len(names) > 1 or not _is_group(word, commands, groups):
            break
    return names + leading + rest[::-1]


def _is_group(word: str, commands: Collection[str], groups: Collection[str]) -> bool:
    return word in groups or (
        word not in commands
        and len(found := [name for name in commands if name.startswith(word)]) == 1
        and found[0] in groups
    )
