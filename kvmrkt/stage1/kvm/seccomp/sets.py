"""The named sets of system calls, from the data files beside this module.

A file holds names, several a line, and rules, one a line: `NAME: arg0 [& MASK] in VALUE...`
(allowed for those values alone) or `NAME: ERRNO` (answered so instead of allowed). `#` begins a
comment.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "sets"

FILES = {
    **{f"@{scope}/default-{kind}": f"default-{kind}"
       for scope in ("docker", "rkt") for kind in ("whitelist", "blacklist")},
    **{f"@systemd/{name}": f"systemd-{name}"
       for name in ("clock", "default-whitelist", "mount", "network-io", "obsolete", "privileged",
                    "process", "raw-io")},
}  # fmt: skip
"""The sets rkt knew, less those of @appc.io, which are no lists (appc/spec, ace.md)."""


class Call(NamedTuple):
    """A system call of a set, and what of it a filter retains or removes."""

    name: str
    values: tuple[int, ...] = ()
    """The values of the first argument that are meant; all when empty."""
    mask: int | None = None
    """The bits of the first argument that are compared; None for all."""
    errno: int | None = None
    """Answered with this error in either case."""


def read_set(name: str) -> tuple[Call, ...]:
    """The calls of a set in `FILES`."""
    text = (FOLDER / f"{FILES[name]}.txt").read_text()
    return tuple(call for line in text.splitlines() for call in _calls(line))


def _calls(line: str) -> list[Call]:
    if line.startswith("#"):
        return []
    name, colon, rule = line.partition(":")
    if not colon:
        return [Call(word) for word in line.split()]
    test, word, values = rule.strip().partition(" in ")
    if not word:
        return [Call(name, errno=int(getattr(errno, test)))]
    _, ampersand, mask = test.partition("&")
    numbers = tuple(int(value, 16) for value in values.split())
    return [Call(name, numbers, int(mask, 16) if ampersand else None)]
