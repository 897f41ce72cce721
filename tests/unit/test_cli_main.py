"""The command line as a whole: errors, exit statuses, and what `--help` costs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kvmrkt.cli.main import COMMANDS, run

HEAVY = ("asyncio", "msgspec", "qemu", "requests", "rich", "sqlite3", "subprocess", "ctypes")


def test_help_imports_no_command_and_nothing_heavy() -> None:
    program = (
        "import sys; from kvmrkt.cli.main import run; run(['--help']); "
        "print(sorted(set(sys.modules) & set(sys.argv[1].split(','))), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, ",".join(HEAVY)], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert "Usage: kvmrkt" in capsys.readouterr().out


def test_no_command_prints_help_and_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert capsys.readouterr().err.startswith("kvmrkt: missing command\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nosuch"], 'Error: unknown command "nosuch" for "kvmrkt"\n'),
        (["--insecure-options=bogus", "list"], 'unknown option "bogus"'),
        (["--nosuch", "list"], "--nosuch"),
        (["run", "--nosuch", "x"], "unknown flag: --nosuch"),
    ],
)
def test_a_wrong_command_line_ends_with_254(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 254
    assert message in capsys.readouterr().err


def test_run_without_an_image_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert run(["run", "--net=none"]) == 254
    assert "must provide at least one image" in capsys.readouterr().err


def test_run_is_for_root_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run(["run", "x"]) == 254
    assert capsys.readouterr().err == "run: cannot run as unprivileged user\n"


def test_a_prefix_of_a_command_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["vers"]) == 0
    assert capsys.readouterr().out.startswith("kvmrkt Version:")


def test_a_bug_is_one_line_and_a_traceback_only_with_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, "version", ("kvmrkt.no_such_module:command", ""))
    assert run(["version"]) == 254
    assert "Traceback" not in capsys.readouterr().err
    assert run(["--debug", "version"]) == 254
    assert "Traceback" in capsys.readouterr().err
