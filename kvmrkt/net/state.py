"""Where what networks hold on the host is written down: one folder, one lock.

It is below the runtime directory, so a reboot, after which no link or rule is left, forgets it.
Whoever changes a link, a lease or a rule holds the lock; it is held for milliseconds.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvmrkt import paths
from kvmrkt.images.locks import locked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def state_folder(name: str) -> Path:
    """A folder for one kind of state, made when missing."""
    folder = paths.RUNTIME / "net" / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextmanager
def network_lock() -> Iterator[None]:
    """One change of the host's networks at a time. Raises StoreError."""
    with locked(paths.RUNTIME / "net" / "lock"):
        yield


def replace_file(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all; the lock is held."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(content)
    temporary.replace(path)
