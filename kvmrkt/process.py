"""The one door through which kvmrkt starts other programs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from kvmrkt.errors import HostError, KvmrktError

_PR_SET_PDEATHSIG = 1


class ProcessError(KvmrktError):
    """A program ended with a failure; holds its status and what it said."""

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        """`status` is the exit code, negative for a signal, as `subprocess` counts."""
        ending = f"exit status {status}" if status >= 0 else f"signal {-status}"
        last = stderr.strip().splitlines()[-1] if stderr.strip() else "no message"
        super().__init__(f"{Path(argv[0]).name} failed with {ending}: {last}")
        self.argv = tuple(argv)
        self.status = status
        self.stderr = stderr


def find_program(name: str, *, package: str, also: Sequence[str] = ()) -> Path:
    """The program's path, from PATH or the full paths in `also`.

    Raises HostError that names the Debian package.
    """
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    for candidate in (*(Path(folder, name) for folder in folders), *map(Path, also)):
        # os.path.isfile says no, where Path.is_file raises: a folder on PATH that we may not read
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):  # noqa: PTH113
            return candidate
    raise HostError(
        f"cannot find the program {name}", hint=f"install it: apt-get install {package}"
    )


def run(
    argv: Sequence[str],
    *,
    stdin: IO[bytes] | int | None = None,
    timeout_seconds: float | None = None,
) -> bytes:
    """Run to the end and return standard output; raises ProcessError on failure.

    A program that takes longer than the timeout is killed, and has failed.
    """
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            capture_output=True,
            check=False,
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired:
        said = f"it did not end within {timeout_seconds} seconds"
        raise ProcessError(argv, -signal.SIGKILL, said) from None
    if done.returncode:
        raise ProcessError(argv, done.returncode, done.stderr.decode(errors="replace"))
    return done.stdout


def spawn(
    argv: Sequence[str],
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    die_with_parent: bool = False,
    setup: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program and return at once.

    With `die_with_parent` the kernel kills it when the calling thread ends, however that ends
    (prctl(2), PR_SET_PDEATHSIG). `setup` runs in the child before exec and must not take locks.
    """
    parent = os.getpid()
    prctl = _libc_prctl() if die_with_parent else None

    def in_child() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it ended before the request was made
                os.kill(os.getpid(), signal.SIGKILL)
        if setup is not None:
            setup()

    return subprocess.Popen(
        argv,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        env=env,
        start_new_session=True,
        preexec_fn=in_child if prctl is not None or setup is not None else None,
    )


def _libc_prctl() -> Callable[..., int]:
    import ctypes

    prctl: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl
    return prctl
