"""The benchmark's arithmetic: medians, ratios, and what a missed budget looks like."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def _load() -> ModuleType:
    # tests/bench is a program of its own, no package
    file = Path(__file__).parents[1] / "bench" / "figures.py"
    spec = importlib.util.spec_from_file_location("bench_figures", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


figures = _load()


def test_one_slow_sample_moves_neither_median_nor_spread_far() -> None:
    samples = figures.Samples((1.0, 1.1, 1.2, 1.3, 60.0))
    assert samples.median == 1.2
    assert samples.spread < 0.2


def test_one_sample_has_no_spread() -> None:
    assert figures.Samples((3.0,)).spread == 0.0


def test_a_ratio_is_that_of_the_medians_and_names_both() -> None:
    ours, base = figures.Samples((0.6, 0.7, 0.8)), figures.Samples((0.5, 0.5, 0.6))
    figure = figures.ratio("start", ours, base, 1.6)
    assert figure.value == 1.4
    assert figure.note == "700 ms over 500 ms"
    assert figure.is_met


def test_the_table_says_what_was_missed() -> None:
    lines = figures.table(
        [
            figures.Figure("quick", 1.0, 0.1, "s", 2.0),
            figures.Figure("slow", 3.0, 0.1, "s", 2.0, "why"),
            figures.Figure("free", 250.0, 0.0, "MiB", None),
        ]
    ).splitlines()
    assert lines[1].split() == ["quick", "1.00", "s", "0.10", "s", "2.00", "s", "met"]
    assert lines[2].endswith("MISSED why")
    assert lines[3].split() == ["free", "250", "MiB", "0.00", "MiB", "-"]
