"""For all unit tests."""

from __future__ import annotations

import gc
import os
import time
from typing import TYPE_CHECKING

import pytest
import simulated_engine
import simulated_host
from simulated_host import SimulatedHost, set_up

import kvmrkt.paths
from kvmrkt import background
from kvmrkt.stage1 import engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def leaks_are_told_where_they_happen() -> Iterator[None]:
    """A socket or file left open warns when it is collected: let that be in its own test."""
    yield
    gc.collect()


@pytest.fixture
def host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[SimulatedHost]:
    """A host of its own, where the command line is root and engines run nothing."""
    monkeypatch.setattr(engine, "_ENGINES", dict(engine._ENGINES))
    simulated_engine.register()
    monkeypatch.setattr(kvmrkt.paths, "RUNTIME", tmp_path / "run")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setenv(simulated_host.VARIABLE, str(tmp_path))
    monkeypatch.setattr(background, "PROGRAM", simulated_host.SUPERVISOR)
    set_up(tmp_path)
    made = SimulatedHost(tmp_path, capsys)
    yield made
    made.close()
