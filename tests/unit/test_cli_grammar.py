"""rkt's argument grammar: which word belongs to whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.cli.grammar import (
    Flag,
    FlagKind,
    hoist_global_flags,
    place_leading_flags,
    sort_words,
)
from kvmrkt.errors import UsageError

POD = {
    "--volume": Flag(FlagKind.VALUE),
    "--mount": Flag(FlagKind.VALUE),
    "--net": Flag(FlagKind.OPTIONAL, "default"),
    "--interactive": Flag(FlagKind.OPTIONAL),
}
APP = {
    "--exec": Flag(FlagKind.VALUE),
    "--mount": Flag(FlagKind.VALUE),
    "--readonly": Flag(FlagKind.BOOLEAN_WORD),
}
GLOBAL = {"--dir": Flag(FlagKind.VALUE), "--debug": Flag(FlagKind.OPTIONAL)}


def sorted_words(line: str) -> tuple[list[str], list[tuple[str, list[str], list[str] | None]]]:
    words = sort_words(line.split(), POD, APP)
    return words.pod, [(app.image, app.flags, app.arguments) for app in words.apps]


def test_an_apps_flags_bind_to_the_image_before_them() -> None:
    assert sorted_words("a --exec /x b --exec=/y") == (
        [],
        [("a", ["--exec=/x"], None), ("b", ["--exec=/y"], None)],
    )


def test_a_pods_flags_may_stand_anywhere() -> None:
    assert sorted_words("--net=none a --interactive b --volume v") == (
        ["--net=none", "--interactive=true", "--volume=v"],
        [("a", [], None), ("b", [], None)],
    )


def test_a_flag_of_both_is_the_apps_only_after_an_image() -> None:
    pod, apps = sorted_words("--mount 1 a --mount 2")
    assert (pod, apps) == (["--mount=1"], [("a", ["--mount=2"], None)])


def test_arguments_end_at_three_dashes_and_may_look_like_flags() -> None:
    assert sorted_words("a -- --net -- x --- b -- y") == (
        [],
        [("a", [], ["--net", "--", "x"]), ("b", [], ["y"])],
    )


def test_an_optional_value_needs_its_equals_sign() -> None:
    assert sorted_words("--net a") == (["--net=default"], [("a", [], None)])


@pytest.mark.parametrize(
    ("line", "flag", "images"),
    [
        ("a --readonly true b", "--readonly=true", ["a", "b"]),
        ("a --readonly F", "--readonly=F", ["a"]),
        ("a --readonly b", "--readonly=true", ["a", "b"]),
        ("a --readonly=0 b", "--readonly=0", ["a", "b"]),
        ("a --readonly", "--readonly=true", ["a"]),
    ],
)
def test_a_boolean_word_may_follow_without_an_equals_sign(
    line: str, flag: str, images: list[str]
) -> None:
    _, apps = sorted_words(line)
    assert ([name for name, _, _ in apps], apps[0][1]) == (images, [flag])


@pytest.mark.parametrize(
    ("line", "placed"),
    [
        ("--net=host run --mds-register=false IMG", "run --net=host --mds-register=false IMG"),
        ("--net run IMG", "run --net IMG"),
        ("--hostname h --no-overlay run IMG", "run --hostname h --no-overlay IMG"),
        ("--hostname h ru IMG", "ru --hostname h IMG"),
        ("--pretty-print=false config", "config --pretty-print=false"),
        ("--full list", "list --full"),
        ("--full image --sort=id list", "image list --full --sort=id"),
        ("--full=1 im --sort=id li x", "im li --full=1 --sort=id x"),
        ("image list --full", "image list --full"),
        ("--help run", "run --help"),
        ("--help", "--help"),
        ("image", "image"),
        ("run - --net IMG", "run - --net IMG"),
        ("--x=1 -- y", "--x=1 -- y"),
        ("", ""),
    ],
)
def test_a_commands_flags_may_stand_before_it(line: str, placed: str) -> None:
    commands = ("run", "run-prepared", "list", "config", "image")
    assert place_leading_flags(line.split(), commands, {"image"}) == placed.split()


def test_stray_separators_and_empty_words_are_skipped() -> None:
    words = sort_words(["---", "", "a", ""], POD, APP)
    assert [app.image for app in words.apps] == ["a"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--exec=/x a", "--exec must follow an image"),
        ("-- x", "an image is required before any app arguments"),
        ("a -- x --- -- y", "only one set of app arguments allowed per image"),
        ("a --exec", "flag needs an argument: --exec"),
        ("a --nosuch", "unknown flag: --nosuch"),
    ],
)
def test_what_rkt_refused_is_refused_in_its_words(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sorted_words(line)


def test_global_flags_are_hoisted_from_anywhere_but_an_apps_arguments() -> None:
    words = ["run", "--dir", "D", "a", "--debug", "--", "--dir", "E", "---", "b", "--dir=F"]
    assert hoist_global_flags(words, GLOBAL) == (
        ["--dir=D", "--debug=true", "--dir=F"], ["run", "a", "--", "--dir", "E", "---", "b"],
    )  # fmt: skip


@given(st.lists(st.sampled_from(["a", "--", "---", "--net", "--exec", "--exec=x", "-", "", "--x"])))
def test_any_words_are_sorted_or_refused(words: list[str]) -> None:
    try:
        found = sort_words(words, POD, APP)
    except UsageError:
        return
    assert all("=" in flag for app in found.apps for flag in app.flags)
