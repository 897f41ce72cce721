from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.cli.table import render


def test_nothing_is_an_empty_text() -> None:
    assert render([]) == ""


def test_only_headings() -> None:
    assert render([["UUID", "APP", "STATE"]]) == "UUID\tAPP\tSTATE\n"


def test_columns_grow_in_steps_of_eight_with_one_character_between() -> None:
    rows = [["UUID", "APP"], ["1234567", "x"], ["12345678", "x"]]
    assert render(rows[:2]) == "UUID\tAPP\n1234567\tx\n"
    assert render(rows) == "UUID\t\tAPP\n1234567\t\tx\n12345678\tx\n"


def test_empty_cells_keep_their_column() -> None:
    assert render([["a", "b", "c"], ["", "longer-than-8", ""]]) == (
        "a\tb\t\tc\n\tlonger-than-8\t\n"
    )


def test_a_column_is_a_block_of_rows_that_go_on_after_it() -> None:
    rows = [["a", "b"], ["alone on its line, and long"], ["c", "d"]]
    assert render(rows) == "a\tb\nalone on its line, and long\nc\td\n"


def test_width_counts_characters_not_bytes() -> None:
    assert render([["é" * 7, "x"]]) == "é" * 7 + "\tx\n"


_cells = st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=30)
_tables = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(_cells, min_size=width, max_size=width), min_size=1)
)


@given(_tables)
def test_cells_of_a_column_begin_at_the_same_place(rows: list[list[str]]) -> None:
    lines = [line.expandtabs(8) for line in render(rows).splitlines()]
    assert len(lines) == len(rows)
    start = 0
    for column in range(len(rows[0])):
        for row, line in zip(rows, lines, strict=True):
            assert line[start : start + len(row[column])] == row[column]
        widest = max(len(row[column]) for row in rows)
        start += (widest + 1 + 7) // 8 * 8
