"""Who holds a pod's lock, as something to wait for: descriptors, so that nobody need look again."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from kvmrkt.pods.locks import wait_unlocked
from kvmrkt.pods.states import PodState

if TYPE_CHECKING:
    from kvmrkt.pods.directory import PodDirectory

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def open_supervisor(pod: PodDirectory) -> int | None:
    """A pidfd of the process that runs the pod; None if it does not run or its `pid` is damaged.

    In `run` nobody but the process whose number is in `pid` ever takes the lock: if that is held
    still after the descriptor was opened, it is that process and no later one of the same number.
    """
    if pod.state() is not PodState.RUNNING:
        return None
    pid = pod.read_pid()
    if pid is None:
        return None
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if pod.state() is PodState.RUNNING:
        return fd
    os.close(fd)
    return None


def open_end_of_lock(folder: int | str) -> int:
    """A descriptor that hangs up once nobody holds the exclusive lock of a pod's directory.

    The directory is open, or named by its path (FileNotFoundError), and may move meanwhile. Who
    closes the descriptor early leaves a thread behind that ends with the lock.
    """
    if isinstance(folder, int):
        own = os.open(".", _FOLDER_FLAGS, dir_fd=folder)  # a lock of its own, not the caller's
    else:
        own = os.open(folder, _FOLDER_FLAGS)
    reader, writer = os.pipe()

    def wait() -> None:
        try:
            wait_unlocked(own)
        finally:
            os.close(own)
            os.close(writer)

    threading.Thread(target=wait, daemon=True).start()
    return reader
