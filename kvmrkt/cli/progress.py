"""Progress bars for downloads, on a terminal; several at once where several threads download."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvmrkt.images.policy import no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.progress import Progress as Display

    from kvmrkt.images.policy import Progress

_MAX_LABEL = 40
_STEP_SECONDS = 0.1


def terminal_progress() -> Progress:
    """Bars on standard error if that is a terminal, else nothing."""
    if not sys.stderr.isatty():
        return no_progress
    from rich.console import Console

    console = Console(stderr=True)
    return no_progress if console.is_dumb_terminal else Bars(console)


class Bars:
    """A `Progress`: a display that is there as long as anything is transferred."""

    def __init__(self, console: Console) -> None:
        """Show the bars on this console."""
        self._console = console
        self._lock = threading.Lock()
        self._display: Display | None = None
        self._running = 0

    @contextmanager
    def __call__(self, label: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
        """One more bar while the body runs."""
        display = self._enter()
        task = display.add_task(_printable(label), total=total_bytes)
        waiting, shown_at = 0, 0.0

        def advance(count: int) -> None:
            nonlocal waiting, shown_at
            waiting += count
            now = time.monotonic()
            if now - shown_at >= _STEP_SECONDS:  # each step costs more than a chunk of a download
                display.advance(task, waiting)
                waiting, shown_at = 0, now

        try:
            yield advance
            display.advance(task, waiting)
        finally:
            display.remove_task(task)
            self._leave(display)

    def _enter(self) -> Display:
        with self._lock:
            if self._display is None:
                self._display = _make_display(self._console)
                self._display.start()
            self._running += 1
            return self._display

    def _leave(self, display: Display) -> None:
        with self._lock:
            self._running -= 1
            if self._running == 0:
                self._display = None
                display.stop()


def _make_display(console: Console) -> Display:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,  # rich would send it to the console, which is standard error
    )


def _printable(label: str) -> str:
    """The label without anything that a terminal would obey."""
    text = "".join(letter if letter.isprintable() else "?" for letter in label)
    return text if len(text) <= _MAX_LABEL else f"{text[: _MAX_LABEL - 3]}..."
