"""What libraries import and a start has no use for: together a tenth of its processor time.

Only in processes that are kvmrkt's own: a program that uses kvmrkt as a library has its modules as
it wants them.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_process = {"is_own": False}


def own_process() -> None:
    """This process is kvmrkt's from its start to its end: call it before anything is imported."""
    _process["is_own"] = True
    # Nothing here needs it, but where it is installed msgspec asks it for what `typing` has too:
    # 10 ms.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]


@contextmanager
def without_tls() -> Iterator[None]:
    """Import asyncio and, in the block, qemu.qmp, without `ssl` and OpenSSL behind it: 15 ms.

    asyncio does without, as in a Python that was built so; qemu.qmp names a class of it in type
    hints. Afterwards everyone else gets the real one. Nothing changes where that is imported
    already.
    """
    if not _process["is_own"] or "ssl" in sys.modules:
        yield
        return
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    stand_in = ModuleType("ssl")
    stand_in.SSLContext = object  # type: ignore[attr-defined]
    try:
        modules["ssl"] = None
        import asyncio  # noqa: F401 - it is there now

        modules["ssl"] = stand_in
        yield
    finally:
        del modules["ssl"]
