"""Values as rkt's command line spelled them: Go's durations, booleans and times."""

from __future__ import annotations

import re
import time

from kvmrkt.errors import UsageError

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})

_UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # micro sign
    "μs": 1_000,  # Greek mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_TERM = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")
_MAX_NS = 2**63 - 1


def parse_bool(text: str) -> bool:
    """Go's strconv.ParseBool; raises UsageError."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise UsageError(f'"{text}" is neither true nor false')


def parse_duration_ns(text: str) -> int:
    """Go's time.ParseDuration, in nanoseconds: `1h30m`, `1.5h`, `-300ms`, `0`.

    Raises UsageError.
    """
    from fractions import Fraction  # with decimal behind it: not for every command

    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total = Fraction(0)
    position = 0
    while position < len(rest):
        term = _TERM.match(rest, position)
        if term is None or not (term[1] or term[2]):
            break
        number = Fraction(int(term[1] or "0"))
        if term[2]:
            number += Fraction(int(term[2]), 10 ** len(term[2]))
        total += number * _UNIT_NS[term[3]]
        position = term.end()
    if not rest or position < len(rest):
        raise UsageError(
            f'invalid duration "{text}"', hint="write it as in 30m, 1h30m, 1.5h or 300ms"
        )
    if total > _MAX_NS:
        raise UsageError(f'invalid duration "{text}": longer than 292 years')
    return sign * int(total)


def format_duration(duration_ns: int) -> str:
    """Go's Duration.String: `30m0s`, `1h0m0.5s`, `1.5ms`, `0s`."""
    if duration_ns < 0:
        return "-" + format_duration(-duration_ns)
    if duration_ns == 0:
        return "0s"
    if duration_ns < 1_000_000_000:
        unit = next(unit for unit in ("ms", "µs", "ns") if duration_ns >= _UNIT_NS[unit])
        return _decimal(duration_ns, _UNIT_NS[unit]) + unit
    minutes, rest_ns = divmod(duration_ns, _UNIT_NS["m"])
    text = _decimal(rest_ns, _UNIT_NS["s"]) + "s"
    if minutes:
        text = f"{minutes % 60}m{text}"
    return f"{minutes // 60}h{text}" if minutes >= 60 else text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    fraction = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)


_SECOND = 1
_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_WEEK = 7 * _DAY
_MONTH = 30 * _DAY
_YEAR = 12 * _MONTH
_AGES = (  # below this many seconds: the words, and what {n} counts
    (_SECOND, "now", _SECOND),
    (2 * _SECOND, "1 second {}", _SECOND),
    (_MINUTE, "{n} seconds {}", _SECOND),
    (2 * _MINUTE, "1 minute {}", _MINUTE),
    (_HOUR, "{n} minutes {}", _MINUTE),
    (2 * _HOUR, "1 hour {}", _HOUR),
    (_DAY, "{n} hours {}", _HOUR),
    (2 * _DAY, "1 day {}", _DAY),
    (_WEEK, "{n} days {}", _DAY),
    (2 * _WEEK, "1 week {}", _WEEK),
    (_MONTH, "{n} weeks {}", _WEEK),
    (2 * _MONTH, "1 month {}", _MONTH),
    (_YEAR, "{n} months {}", _MONTH),
    (18 * _MONTH, "1 year {}", _YEAR),
    (2 * _YEAR, "2 years {}", _YEAR),
    (37 * _YEAR, "{n} years {}", _YEAR),
)


def relative_time(moment_ns: int, now_ns: int | None = None) -> str:
    """How long ago in words, as rkt said it: `now`, `1 second ago`, `3 weeks ago`.

    Both times are CLOCK_REALTIME in nanoseconds.
    """
    difference_ns = (time.time_ns() if now_ns is None else now_ns) - moment_ns
    direction = "ago" if difference_ns >= 0 else "from now"
    seconds = abs(difference_ns) // 1_000_000_000
    for limit, words, unit in _AGES:
        if seconds < limit:
            return words.format(direction, n=seconds // unit)
    return f"a long while {direction}"


def absolute_time(moment_ns: int) -> str:
    """The moment in local time as Go's layout `2006-01-02 15:04:05.999 -0700 MST` prints it."""
    seconds, rest_ns = divmod(moment_ns, 1_000_000_000)
    local = time.localtime(seconds)
    milliseconds = f"{rest_ns // 1_000_000:03d}".rstrip("0")
    fraction = f".{milliseconds}" if milliseconds else ""
    return time.strftime("%Y-%m-%d %H:%M:%S", local) + fraction + time.strftime(" %z %Z", local)
