"""Moments as `--since` takes them."""

from __future__ import annotations

from kvmrkt.cli.values import parse_duration_ns
from kvmrkt.errors import UsageError


def parse_moment_ns(text: str, now_ns: int) -> int:
    """CLOCK_REALTIME in nanoseconds: a duration before now, an ISO 8601 time, or `@SECONDS`.

    A time without a zone is local time. Raises UsageError.
    """
    from datetime import UTC, datetime

    try:
        if text.startswith("@"):
            return int(float(text[1:]) * 1e9)
        if "-" in text.removeprefix("-"):
            moment = datetime.fromisoformat(text).astimezone(UTC)
            seconds = int(moment.replace(microsecond=0).timestamp())
            return seconds * 1_000_000_000 + moment.microsecond * 1000
        return now_ns - parse_duration_ns(text)
    except (ValueError, OverflowError, UsageError):
        raise UsageError(
            f'invalid moment "{text}"',
            hint="write it as in 10m, 2026-01-31T12:00:00Z, 2026-01-31 12:00 or @1769860800",
        ) from None
