from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.cli.values import (
    absolute_time,
    format_duration,
    parse_bool,
    parse_duration_ns,
    relative_time,
)
from kvmrkt.errors import UsageError

SECOND = 1_000_000_000


@pytest.mark.parametrize("word", ["1", "t", "T", "TRUE", "true", "True"])
def test_go_words_for_true(word: str) -> None:
    assert parse_bool(word) is True


@pytest.mark.parametrize("word", ["0", "f", "F", "FALSE", "false", "False"])
def test_go_words_for_false(word: str) -> None:
    assert parse_bool(word) is False


@pytest.mark.parametrize("word", ["", "yes", "tRUE", "2", "on"])
def test_other_words_are_no_booleans(word: str) -> None:
    with pytest.raises(UsageError, match="neither true nor false"):
        parse_bool(word)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("30m", 1800 * SECOND),
        ("1h30m", 5400 * SECOND),
        ("1.5h", 5400 * SECOND),
        ("300ms", 300_000_000),
        ("-1.5s", -1_500_000_000),
        ("+5s", 5 * SECOND),
        (".5s", 500_000_000),
        ("5.s", 5 * SECOND),
        ("1us", 1000),
        ("1µs", 1000),
        ("1μs", 1000),
        ("7ns", 7),
        ("1m1h", 3660 * SECOND),
    ],
)
def test_durations(text: str, nanoseconds: int) -> None:
    assert parse_duration_ns(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "3", "-", ".", ".s", "1d", "1h30", "1 h", "h", "1hh", "--1s", "9999999999h"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(UsageError, match="invalid duration"):
        parse_duration_ns(text)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1500, "1.5µs"),
        (1_500_000, "1.5ms"),
        (1_500_000_000, "1.5s"),
        (90 * SECOND, "1m30s"),
        (1800 * SECOND, "30m0s"),
        (86400 * SECOND, "24h0m0s"),
        (-SECOND, "-1s"),
        (3600 * SECOND + 1, "1h0m0.000000001s"),
    ],
)
def test_durations_are_written_as_go_writes_them(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_what_is_written_is_read_back(nanoseconds: int) -> None:
    assert parse_duration_ns(format_duration(nanoseconds)) == nanoseconds


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_a_usage_error(text: str) -> None:
    try:
        parse_duration_ns(text)
    except UsageError as error:
        assert text in error.message


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "now"),
        (1, "1 second ago"),
        (2, "2 seconds ago"),
        (59, "59 seconds ago"),
        (60, "1 minute ago"),
        (120, "2 minutes ago"),
        (3600, "1 hour ago"),
        (7200, "2 hours ago"),
        (86400, "1 day ago"),
        (3 * 86400, "3 days ago"),
        (7 * 86400, "1 week ago"),
        (20 * 86400, "2 weeks ago"),
        (31 * 86400, "1 month ago"),
        (100 * 86400, "3 months ago"),
        (400 * 86400, "1 year ago"),
        (600 * 86400, "2 years ago"),
        (1100 * 86400, "3 years ago"),
        (20000 * 86400, "a long while ago"),
        (-5, "5 seconds from now"),
    ],
)
def test_relative_times(seconds: int, words: str) -> None:
    now_ns = 1_700_000_000 * SECOND
    assert relative_time(now_ns - seconds * SECOND, now_ns) == words


@pytest.mark.parametrize(
    ("nanoseconds", "fraction"),
    [(0, ""), (999_999, ""), (120_000_000, ".12"), (999_999_999, ".999"), (5_000_000, ".005")],
)
def test_absolute_times(monkeypatch: pytest.MonkeyPatch, nanoseconds: int, fraction: str) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    moment_ns = 1_700_000_000 * SECOND + nanoseconds
    assert absolute_time(moment_ns) == f"2023-11-14 22:13:20{fraction} +0000 UTC"
