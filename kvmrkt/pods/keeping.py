"""Keeping a pod that has ended in existence while something of it is read."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmrkt.pods.directory import PodDirectory


@contextlib.contextmanager
def keeping(pod: PodDirectory) -> Iterator[None]:
    """Hold the pod's lock, shared: nobody deletes it meanwhile, though gc may move it.

    Who holds it exclusively keeps this from being a lock, which the pod's state then shows.
    Raises PodNotFoundError if the pod is gone.
    """
    while True:
        pod.state()  # follows a pod that has moved
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(pod.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            break
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)
