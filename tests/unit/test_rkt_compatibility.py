"""docs/rkt-compatibility.md is whole and true: every word of rkt has a row, every row its test."""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from rkt_words import COMMANDS, GLOBAL

from kvmrkt.cli import main
from kvmrkt.cli.app_flags import APP_FLAGS

if TYPE_CHECKING:
    from simulated_host import SimulatedHost

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "rkt-compatibility.md"
STATES = ("works", "differs", "refused", "not yet")


@dataclass(frozen=True)
class Row:
    """One row: what it is about, in which section, and what is claimed."""

    section: str
    word: str
    state: str
    remark: str
    tests: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command the row is about."""
        return "" if self.section == "Global flags" else self.section


@functools.cache
def rows() -> tuple[Row, ...]:
    """All rows of the document's tables."""
    found = []
    section = ""
    for line in DOCUMENT.read_text().splitlines():
        if heading := re.fullmatch(r"## (?:`(.*)`|(.*))", line):
            section = heading[1] or heading[2]
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0].startswith("`"):
            tests = tuple(re.findall(r"`([^`]+)`", cells[3]))
            found.append(Row(section, cells[0].strip("`"), cells[1], cells[2], tests))
    return tuple(found)


@functools.cache
def functions_in(path: str) -> frozenset[str]:
    """The names of the tests in a file."""
    tree = ast.parse((ROOT / "tests" / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def flags_of(command: str) -> set[str]:
    """The flags that a command of kvmrkt takes, hidden ones too."""
    found: click.Command = main.root
    for name in command.split():
        assert isinstance(found, click.Group)
        next_command = found.get_command(click.Context(found), name)
        assert next_command is not None, f"there is no command {command}"
        found = next_command
    options = [*found.params, *(APP_FLAGS if command in ("run", "prepare") else ())]
    return {name for option in options for name in option.opts}


def test_every_command_and_flag_of_rkt_has_a_row() -> None:
    wanted = {("", word) for word in GLOBAL}
    for command, flags in COMMANDS.items():
        wanted |= {(command, command), *((command, flag) for flag in flags)}
    there = [(row.command, row.word) for row in rows()]
    assert wanted - set(there) == set()
    assert len(there) == len(set(there)), "a row is there twice"


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.command} {row.word}".strip())
def test_a_row_is_whole(row: Row) -> None:
    assert row.state in STATES
    assert row.remark or row.state == "works", "why does it differ, or what is the error?"
    assert row.tests or row.state == "not yet", "which test shows it?"
    for name in row.tests:
        path, _, test = name.partition("::")
        assert test in functions_in(path), f"there is no test {name}"


@pytest.mark.parametrize(
    "row",
    [row for row in rows() if row.state in ("works", "differs") and row.word.startswith("--")],
    ids=lambda row: f"{row.command} {row.word}".strip(),
)
def test_a_flag_that_works_is_a_flag_of_the_command(row: Row) -> None:
    assert row.word in flags_of(row.command)


@pytest.mark.parametrize(
    "row",
    [row for row in rows() if row.state == "refused"],
    ids=lambda row: f"{row.command} {row.word}".strip(),
)
def test_what_is_refused_says_so(host: SimulatedHost, row: Row) -> None:
    (error,) = re.findall(r": `([^`]+)`", row.remark)
    words = [row.word, "list"] if not row.command else [row.command, row.word, host.image()]
    done = host(*words)
    assert done.status == 254
    assert error in done.errors


@pytest.mark.parametrize(
    "row",
    [row for row in rows() if row.state == "not yet" and row.word == row.command],
    ids=lambda row: row.command,
)
def test_what_is_not_there_yet_is_no_command(host: SimulatedHost, row: Row) -> None:
    done = host(*row.command.split())
    assert done.status == 254
    group, _, name = row.command.rpartition(" ")
    above = "kvmrkt"
    if group in main.GROUPS:
        above = f"kvmrkt {group}"
    else:
        name = row.command.split()[0]
    assert f'unknown command "{name}" for "{above}"' in done.errors
