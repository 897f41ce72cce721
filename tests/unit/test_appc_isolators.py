"""Isolators: quantities, limits, capabilities."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.appc import isolators
from kvmrkt.appc.image_manifest import App, Isolator
from kvmrkt.errors import ManifestError


def app(**values: Any) -> App:
    return App(user="0", group="0", isolators=[Isolator(*item) for item in values["of"].items()])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("128974848", 128974848), ("125952Ki", 128974848), ("123Mi", 128974848), ("1G", 10**9),
        ("0.3", Fraction(3, 10)), ("300m", Fraction(3, 10)), ("1e3", 1000), ("1E3", 1000),
        ("1E", 10**18), ("1.5Gi", 3 << 29), (".5", Fraction(1, 2)), ("5.", 5), ("2k", 2000),
        ("100n", Fraction(1, 10**7)), ("12e-1", Fraction(12, 10)),
    ],
)  # fmt: skip
def test_quantities(text: str, value: Fraction | int) -> None:
    assert isolators.parse_quantity(text) == value


@pytest.mark.parametrize(
    "text", ["", "M", ".", "1KiB", "1 M", "-1", "+1", "1e", "1e9999", "9" * 41, "١"]
)
def test_bad_quantities(text: str) -> None:
    with pytest.raises(ManifestError, match="^here: "):
        isolators.parse_quantity(text, "here")


@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_refused(text: str) -> None:
    with contextlib.suppress(ManifestError):
        assert isolators.parse_quantity(text) >= 0


def test_limits() -> None:
    both = app(of={"resource/memory": {"limit": "1G"}, "resource/cpu": {"limit": "0.0005"}})
    assert isolators.memory_limit_bytes(both) == 10**9
    assert isolators.cpu_limit_millis(both) == 1
    assert isolators.memory_limit_bytes(app(of={})) is None
    assert isolators.memory_limit_bytes(app(of={"resource/memory": {"request": "5"}})) is None
    assert isolators.cpu_limit_millis(app(of={"resource/cpu": {"request": "5"}})) is None


def test_a_later_isolator_of_the_same_name_wins() -> None:
    twice = App("0", "0", isolators=[Isolator("resource/memory", {"limit": text}) for text in "12"])
    assert isolators.memory_limit_bytes(twice) == 2


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("resource/memory", "1G", isolators.memory_limit_bytes),
        ("resource/memory", {"limit": []}, isolators.memory_limit_bytes),
        ("os/linux/cpu-shares", 1, isolators.cpu_shares),
        ("os/linux/oom-score-adj", 1001, isolators.oom_score_adj),
        ("os/linux/oom-score-adj", True, isolators.oom_score_adj),
        ("os/linux/no-new-privileges", "true", isolators.no_new_privileges),
        ("os/linux/capabilities-retain-set", {"set": ["CAP_FLY"]}, isolators.capabilities),
        ("os/linux/capabilities-retain-set", {}, isolators.capabilities),
    ],
)
def test_bad_values_name_the_field(name: str, value: Any, read: Any) -> None:
    with pytest.raises(ManifestError, match=r"^app\.isolators\[0\]\.value"):
        read(app(of={name: value}))


def test_capabilities() -> None:
    assert set(isolators.capabilities(app(of={}))) == set(isolators.DEFAULT_CAPABILITIES)
    retain = app(of={"os/linux/capabilities-retain-set": {"set": ["CAP_SYS_ADMIN", "CAP_KILL"]}})
    assert isolators.capabilities(retain) == ("CAP_KILL", "CAP_SYS_ADMIN")
    remove = app(of={"os/linux/capabilities-remove-set": {"set": ["CAP_KILL", "CAP_SYS_ADMIN"]}})
    assert len(isolators.capabilities(remove)) == 13
    with pytest.raises(ManifestError, match="cannot stand beside"):
        isolators.capabilities(App("0", "0", isolators=[*retain.isolators, *remove.isolators]))


def test_what_nothing_applies_is_told() -> None:
    assert isolators.ignored(app(of={"resource/cpu": {}, "x/y": 1})) == ("x/y",)
