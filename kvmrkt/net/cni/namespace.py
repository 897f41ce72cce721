"""Network namespaces of pods: made, worked in, and removed."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kvmrkt.errors import HostError, describe
from kvmrkt.net.state import state_folder
from kvmrkt.process import ProcessError, find_program, run

if TYPE_CHECKING:
    from collections.abc import Callable

_CLONE_NEWNET = 0x40000000
_MNT_DETACH = 2
_TIMEOUT_SECONDS = 30

T = TypeVar("T")


def namespace_path(uuid: str) -> Path:
    """Where the pod's network namespace is mounted."""
    return state_folder("namespaces") / uuid


def make_namespace(path: Path) -> None:
    """A network namespace at the path, its loopback up; record it first. HostError."""
    path.touch(mode=0o600)
    unshare = find_program("unshare", package="util-linux")
    try:
        run([str(unshare), f"--net={path}", "true"], timeout_seconds=_TIMEOUT_SECONDS)
    except ProcessError as error:
        raise HostError(f"cannot make a network namespace: {error.message}") from None


def remove_namespace(path: Path) -> None:
    """The namespace goes with its mount; missing is fine. HostError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if path.exists():
        libc.umount2(os.fsencode(path), _MNT_DETACH)  # one that was not mounted yet is fine
        try:
            path.unlink()
        except OSError as error:
            raise HostError(f"cannot remove {path}: {describe(error)}") from None


def is_namespace(path: Path) -> bool:
    """Whether a namespace is mounted there, and not only the file for it."""
    return path.exists() and path.stat().st_dev != path.parent.stat().st_dev


def inside(path: Path, function: Callable[[], T]) -> T:
    """What the function returns, or raises, in that network namespace: in a thread of its own."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(descriptor, _CLONE_NEWNET):
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), str(path))
            finally:
                os.close(descriptor)
            results.append(function())
        except BaseException as error:  # noqa: B036 - raised again by the caller
            errors.append(error)

    thread = threading.Thread(target=work, name="netns")
    thread.start()
    thread.join()
    if errors:
        if isinstance(errors[0], OSError):
            raise HostError(f"cannot enter {path}: {describe(errors[0])}") from None
        raise errors[0]
    return results[0]
