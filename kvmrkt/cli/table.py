"""Tables whose columns are aligned with tabs, the way rkt's were (Go's text/tabwriter)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_TAB_WIDTH = 8
_PADDING = 1


def render(rows: Sequence[Sequence[str]]) -> str:
    """The rows as lines of text, each ending with a newline.

    A cell is followed by as many tabs as carry it to its column's width: the longest cell of a
    run of neighbouring rows that all go on after that column, plus one, rounded up to a tab stop
    of 8. The last cell of a row has no padding. Widths count characters, as Go does.
    """
    widths = [_column_widths(rows, column) for column in range(max(map(len, rows), default=0))]
    lines: list[str] = []
    for number, row in enumerate(rows):
        cells = [
            cell + "\t" * _tabs(len(cell), widths[column][number])
            for column, cell in enumerate(row[:-1])
        ]
        lines.append("".join(cells) + "".join(row[-1:]) + "\n")
    return "".join(lines)


def _column_widths(rows: Sequence[Sequence[str]], column: int) -> list[int]:
    """For each row the width of the block of rows it shares this column with."""
    widths = [0] * len(rows)
    start = 0
    while start < len(rows):
        end = start
        while end < len(rows) and len(rows[end]) > column + 1:
            end += 1
        if end > start:
            width = max(len(rows[number][column]) for number in range(start, end)) + _PADDING
            widths[start:end] = [width] * (end - start)
        start = max(end, start + 1)
    return widths


def _tabs(text_width: int, cell_width: int) -> int:
    missing = -(-cell_width // _TAB_WIDTH) * _TAB_WIDTH - text_width
    return -(-missing // _TAB_WIDTH)
