"""Findings about this host that hold until it boots again: small JSON files under /run/kvmrkt."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


def read(path: Path, kind: type[T]) -> T | None:
    """The finding, None if there is none or it is damaged: then it is found out once more."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def write(path: Path, finding: object) -> None:
    """Keep a finding; a host that does not let us only pays for finding it out each time."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        temporary.write_bytes(msgspec.json.encode(finding) + b"\n")
        temporary.rename(path)
