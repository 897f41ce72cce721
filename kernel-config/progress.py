"""Says how far a long build is: one moving line on a terminal, a line every so often elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

_TERMINAL_INTERVAL_SECONDS = 0.2
_LOG_INTERVAL_SECONDS = 20.0


class Progress:
    """Reports steps that are counted; use as a context manager, so that the line is ended."""

    def __init__(self, what: str, total: int) -> None:
        """`total` is how many steps are expected: an estimate, the count may pass it."""
        self._what = what
        self._total = total
        self._done = 0
        self._started = time.monotonic()
        self._on_terminal = sys.stderr.isatty()
        self._interval = _TERMINAL_INTERVAL_SECONDS if self._on_terminal else _LOG_INTERVAL_SECONDS
        self._shown = 0.0

    def __enter__(self) -> Progress:
        """Start with a line that says what begins."""
        self._show()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the cursor on a line of its own."""
        if self._on_terminal:
            sys.stderr.write("\n")

    @property
    def done(self) -> int:
        """How many steps were counted."""
        return self._done

    def step(self) -> None:
        """Count one step, and say so when it is time."""
        self._done += 1
        if time.monotonic() - self._shown >= self._interval:
            self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        elapsed_seconds = round(self._shown - self._started)
        share = min(99, 100 * self._done // max(self._total, 1))
        count = f"{self._done} of about {self._total} steps"
        text = f"{self._what}: {count}, {share} %, {elapsed_seconds} s"
        sys.stderr.write(f"\r{text}\x1b[K" if self._on_terminal else f"{text}\n")
        sys.stderr.flush()
