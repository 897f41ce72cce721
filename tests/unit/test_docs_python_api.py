"""The examples of docs/python-api.md, run on the simulated engine as they stand there."""

from __future__ import annotations

import doctest
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import kvmrkt

if TYPE_CHECKING:
    import pytest
    from simulated_host import SimulatedHost

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python-api.md"


def test_the_examples_do_what_they_say(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.image()
    monkeypatch.chdir(host.folder)
    paths = {"dir": "data", "system_config": "usr", "local_config": "etc"}
    here = {name: host.folder / folder for name, folder in paths.items()}
    monkeypatch.setattr(kvmrkt, "Host", functools.partial(kvmrkt.Host, **here), raising=False)
    lines = PAGE.read_text().splitlines()
    # a fence would be taken for output; a blank line keeps the numbers of the others
    text = "\n".join("" if line.startswith("```") else line for line in lines)
    example = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, os.fspath(PAGE), 0)
    assert len(example.examples) > 20
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert "".join(said) == ""


def test_every_exported_name_is_on_the_page() -> None:
    text = PAGE.read_text()
    missing = [name for name in kvmrkt.__all__ if name not in text and not name.startswith("_")]
    assert missing == []
