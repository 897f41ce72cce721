"""For all unit tests."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def leaks_are_told_where_they_happen() -> Iterator[None]:
    """A socket or file left open warns when it is collected: let that be in its own test."""
    yield
    gc.collect()
