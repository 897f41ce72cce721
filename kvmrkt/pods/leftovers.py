"""Getting rid of what a dead pod left behind, and of nothing else."""

from __future__ import annotations

import os
import re
import select
import signal
from pathlib import Path

from kvmrkt.errors import HostError, describe
from kvmrkt.faults import reach
from kvmrkt.pods.resources import start_ticks

_KILL_DEADLINE_MILLISECONDS = 5000
_MOUNTINFO = Path("/proc/self/mountinfo")
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8


def kill_process(pid: int, started_ticks: int) -> None:
    """Kill the process and wait for its end; does nothing if the ID is another process by now.

    Its process group goes with it (every helper leads its own). Raises HostError if it does not
    end in 5 seconds.
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor pins the process: what the start time says now stays true.
        if start_ticks(pid) != started_ticks:
            return
        try:
            if os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            reach("leftover-killed")
        except ProcessLookupError:
            return
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(_KILL_DEADLINE_MILLISECONDS):
            raise HostError(
                f"process {pid} does not end after SIGKILL",
                hint=f"it waits inside the kernel: see /proc/{pid}/stack",
            )
    finally:
        os.close(fd)


def remove_tree(path: Path) -> None:
    """Unmount what is mounted below and delete the folder; missing is fine.

    Never deletes through a mount: a volume of the host may be bound there.
    """
    unmount_below(path)
    reach("tree-unmounted")
    if _remove_flat(path):
        reach("tree-removed")
        return
    import shutil  # three milliseconds that the end of a run can do without

    try:
        shutil.rmtree(path)
        reach("tree-removed")
    except FileNotFoundError:
        if path.exists():  # someone else deletes the same tree: finish what he leaves
            shutil.rmtree(path, ignore_errors=True)
    except OSError as error:
        raise HostError(f"cannot delete {path}: {describe(error)}") from error


def _remove_flat(path: Path) -> bool:
    """Delete a folder that holds nothing but files, as a pod's below /run, and say whether."""
    try:
        with os.scandir(path) as entries:
            if any(entry.is_dir(follow_symlinks=False) for entry in entries):
                return False
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    except OSError:
        return False  # whatever it is, the thorough way meets it again
    return True


def unmount_below(path: Path) -> None:
    """Detach every mount at or below the path, deepest first; HostError if one stays."""
    for mount in reversed(mounts_below(path)):
        _unmount(mount)
    if left := mounts_below(path):
        raise HostError(f"cannot unmount {left[-1]}, so {path} is not deleted")


def mounts_below(path: Path) -> list[Path]:
    """The mount points at or below the path, in the order they were mounted."""
    root = os.path.realpath(path)
    found: list[Path] = []
    for line in _MOUNTINFO.read_text(errors="surrogateescape").splitlines():
        place = _unescape(line.split(" ")[4]).removesuffix("//deleted")
        if place == root or place.startswith(root + "/"):
            found.append(Path(place))
    return found


def _unescape(text: str) -> str:
    """proc(5) writes blank, tab, newline and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _unmount(path: Path) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW):
        error = ctypes.get_errno()
        raise HostError(f"cannot unmount {path}: {os.strerror(error)}")
