"""The example units name commands and flags that exist."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from kvmrkt.cli.main import root

UNITS = sorted((Path(__file__).resolve().parents[2] / "docs" / "units").iterdir())
PROGRAM = "/usr/bin/kvmrkt"


def command_lines(unit: Path) -> list[list[str]]:
    text = unit.read_text()
    return [line.partition(PROGRAM)[2].split() for line in text.splitlines() if PROGRAM in line]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_every_command_and_flag_of_a_unit_exists(unit: Path) -> None:
    for words in command_lines(unit):
        command: click.Command = root
        context = click.Context(root)
        for word in words:
            if word.startswith("-"):
                known = {name for option in command.params for name in option.opts}
                assert word.partition("=")[0] in known
            elif isinstance(command, click.Group):
                found = command.get_command(context, word)
                assert found is not None
                command = found
        assert command is not root


def test_pods_are_units_that_notify_and_stop_by_kvmrkts_own_hand() -> None:
    pods = [unit for unit in UNITS if unit.name.startswith("example") and unit.suffix == ".service"]
    assert len(pods) == 2
    for unit in pods:
        text = unit.read_text()
        assert "Type=notify" in text
        assert "KillMode=mixed" in text
