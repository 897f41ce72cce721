"""What a benchmark found: samples, their median and spread, and a budget they are held to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Samples:
    """Measurements of one thing in one unit."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value: what one run costs when nothing else happens."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles."""
        if len(self.values) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return (high - low) / 2


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    spread: float
    unit: str
    budget: float | None
    note: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the value is within its budget; a figure without one is only shown."""
        return self.budget is None or self.value <= self.budget


def ratio(name: str, ours: Samples, base: Samples, budget: float) -> Figure:
    """A figure that says how many times `base` something of ours took, sample by sample."""
    pairs = zip(ours.values, base.values, strict=True)
    ratios = Samples(tuple(our / other for our, other in pairs))
    note = f"{ours.median * 1000:.0f} ms over {base.median * 1000:.0f} ms"
    return Figure(name, ours.median / base.median, ratios.spread, "x", budget, note)


def table(figures: Sequence[Figure]) -> str:
    """The figures as text, one a line, with what each was held to."""
    rows = [("figure", "median", "spread", "budget", "")]
    for figure in figures:
        budget = "-" if figure.budget is None else _number(figure.budget, figure.unit)
        verdict = "" if figure.budget is None else ("met" if figure.is_met else "MISSED")
        value, spread = _number(figure.value, figure.unit), _number(figure.spread, figure.unit)
        rows.append((figure.name, value, spread, budget, f"{verdict:6} {figure.note}".strip()))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [row[column].rjust(widths[column]) for column in (1, 2, 3)]
        lines.append("  ".join([*cells, row[4]]).rstrip())
    return "\n".join(lines)


def _number(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}" if value < 100 else f"{value:.0f} {unit}"
