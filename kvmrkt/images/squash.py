"""Running mksquashfs on a tar stream, as nobody.

The archive is a tenant's, so the program that takes it apart runs without privileges: it gets the
archive on its standard input and the file to write as an open descriptor, and can reach nothing
else of the store.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from kvmrkt import process
from kvmrkt.errors import ArchiveError, KvmrktError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPTIONS = (
    "-tar",
    "-noappend",  # the file exists already, empty
    "-comp", "lz4",
    "-no-exports",  # nobody serves it by NFS
    "-root-mode", "0755",  # the top folder is in no archive; its owner stays nobody in 4.5.1
    "-no-progress",
    "-quiet",
)  # fmt: skip
_UNPRIVILEGED_ID = 65534
_SHOWN_LINES = 5
_PIPE_BYTES = 1 << 20
_EPOCH_AT = 8
"""Where the superblock has the file system's time (kernel, fs/squashfs/squashfs_fs.h)."""


def epoch_for(newest_seconds: int) -> int:
    """The moment a new tree is made at: now, but no time of the image may lie after it."""
    return max(int(time.time()), newest_seconds)


def epoch_of(tree: Path) -> int:
    """The moment an existing tree was made at."""
    with tree.open("rb") as file:
        return int.from_bytes(file.read(_EPOCH_AT + 4)[_EPOCH_AT:], "little")


def squash_file(out: Path, archive: IO[bytes], epoch_seconds: int) -> None:
    """Make the squashfs `out`, which must exist, of a whole archive file; no byte passes here."""
    with _mksquashfs(out, archive, epoch_seconds):
        pass


@contextmanager
def squashing(out: Path, epoch_seconds: int) -> Iterator[SquashPipe]:
    """A pipe: what the body writes to it, a tar stream, becomes the squashfs `out`.

    mksquashfs cuts all times to the epoch, its own root folder's too: the same stream and epoch
    give the same bytes. Raises StoreError if it fails; if the body raises, that goes first.
    """
    with _mksquashfs(out, subprocess.PIPE, epoch_seconds) as child:
        assert child.stdin is not None
        fcntl.fcntl(child.stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        pipe = SquashPipe(child.stdin)
        yield pipe
        pipe.close()


class SquashPipe:
    """The way into mksquashfs. When it has died, its exit status tells; writing goes on."""

    def __init__(self, pipe: IO[bytes]) -> None:
        """`pipe` is closed with this."""
        self._pipe = pipe
        self._broken = False

    def write(self, piece: bytes) -> None:
        """Hand a piece over."""
        if not self._broken:
            try:
                self._pipe.write(piece)
            except BrokenPipeError:
                self._broken = True

    def close(self) -> None:
        """Say that the stream is whole."""
        try:
            self._pipe.close()
        except BrokenPipeError:
            self._broken = True


@contextmanager
def _mksquashfs(
    out: Path, stdin: IO[bytes] | int, epoch_seconds: int
) -> Iterator[subprocess.Popen[bytes]]:
    program = process.find_program(
        "mksquashfs", package="squashfs-tools", also=("/usr/bin/mksquashfs",)
    )
    with out.open("r+b") as target, tempfile.TemporaryFile() as said:
        target.truncate()
        privileged = os.geteuid() == 0
        if privileged:
            os.fchown(target.fileno(), _UNPRIVILEGED_ID, _UNPRIVILEGED_ID)
        argv = [os.fspath(program), "-", f"/proc/self/fd/{target.fileno()}", *OPTIONS]
        child = process.spawn(
            [*argv, "-processors", str(len(os.sched_getaffinity(0)))],
            stdin=stdin,
            stdout=said,
            stderr=said,
            pass_fds=(target.fileno(),),
            env={"SOURCE_DATE_EPOCH": str(epoch_seconds), "PATH": os.defpath},
            die_with_parent=True,
            setup=_drop_privileges if privileged else None,
        )
        try:
            yield child
            status = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            if child.stdin is not None and not child.stdin.closed:
                _close_quietly(child.stdin)
        if status:
            said.seek(0)
            raise _failure(argv, status, said.read().decode(errors="replace").strip())
        if privileged:
            os.fchown(target.fileno(), 0, 0)
        os.fsync(target.fileno())


def _failure(argv: list[str], status: int, text: str) -> KvmrktError:
    if "tar " in text.lower():  # it stumbled over what it read
        said = next(line for line in text.splitlines() if line.strip())
        return ArchiveError(f"mksquashfs cannot read it: {said.removeprefix('FATAL ERROR: ')}")
    if -status in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE):
        return ArchiveError("mksquashfs crashed when it read it")
    full = "No space left on device" in text
    error = StoreError(
        "cannot make the root filesystem of an image",
        hint="free some space, or use another --dir" if full else None,
        details="\n".join(text.splitlines()[-_SHOWN_LINES:]),
    )
    error.__cause__ = process.ProcessError(argv, status, text)
    return error


def _close_quietly(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return


def _drop_privileges() -> None:
    os.setgroups([])
    os.setresgid(_UNPRIVILEGED_ID, _UNPRIVILEGED_ID, _UNPRIVILEGED_ID)
    os.setresuid(_UNPRIVILEGED_ID, _UNPRIVILEGED_ID, _UNPRIVILEGED_ID)
