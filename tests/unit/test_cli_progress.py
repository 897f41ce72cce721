"""Progress bars: only on terminals, gone afterwards, safe with many threads and odd names."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from kvmrkt.cli.progress import Bars, terminal_progress
from kvmrkt.images.policy import no_progress


def console() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=True, width=100), file


def test_without_a_terminal_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert terminal_progress() is no_progress
    with no_progress("a", 5) as advance:
        advance(5)


def on_a_terminal(term: str) -> str:
    """What a program with a bar writes to its terminal."""
    program = (
        "from kvmrkt.cli.progress import terminal_progress\n"
        "with terminal_progress()('image.aci', 2 << 20) as advance: advance(1 << 20)\n"
    )
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": term, "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, "-c", program], stderr=child, env=environment) as run:
        os.close(child)
        output = b""
        try:
            while data := os.read(parent, 4096):
                output += data
        except OSError:  # how a terminal's end is told
            pass
        assert run.wait(60) == 0
    os.close(parent)
    return output.decode()


def test_on_a_terminal_the_bar_is_shown_and_removed() -> None:
    output = on_a_terminal("xterm")
    assert "image.aci" in output
    assert "/2.0 MiB" in output
    assert output.rpartition("image.aci")[2].count("\x1b[2K") == 1


def test_a_dumb_terminal_gets_no_bars() -> None:
    assert on_a_terminal("dumb") == ""


def test_the_display_runs_only_while_something_is_transferred() -> None:
    shown, file = console()
    bars = Bars(shown)
    assert file.getvalue() == ""
    with bars("first", 100) as first:
        first(50)
        with bars("second", None) as second:
            second(5)
            assert bars._running == 2
        assert bars._running == 1
    assert bars._display is None
    with bars("third", 1):
        assert bars._display is not None
    assert bars._display is None
    assert "first" in file.getvalue()


def test_a_failed_transfer_ends_its_bar() -> None:
    bars = Bars(console()[0])
    with pytest.raises(RuntimeError), bars("a", 100) as advance:
        advance(1)
        raise RuntimeError
    assert bars._display is None


def test_many_threads_share_the_display() -> None:
    bars = Bars(console()[0])
    together = threading.Barrier(4)

    def transfer(number: int) -> None:
        with bars(f"layer {number}", 1000) as advance:
            together.wait(60)
            for _ in range(1000):
                advance(1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(transfer, range(8)))
    assert bars._display is None


def test_a_name_cannot_give_orders_to_the_terminal() -> None:
    shown, file = console()
    with Bars(shown)("\x1b]0;evil\x07[red]x[/red]" + "y" * 100, 5) as advance:
        advance(5)
    assert "\x1b]0" not in file.getvalue()
    assert "?]0;evil?[red]x[/red]" in file.getvalue()
    assert "y..." in file.getvalue()
