"""Running mksquashfs on a tar stream, as nobody.

The archive is a tenant's, so the program that takes it apart runs without privileges: it gets the
archive on its standard input and the file to write as an open descriptor, and can reach nothing
else of the store.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from kvmrkt import process
from kvmrkt.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_UNPRIVILEGED_ID = 65534
_SHOWN_LINES = 5

_OPTIONS = (
    "-tar",
    "-noappend",  # the file exists already, empty
    "-comp", "lz4",
    "-no-exports",  # nobody serves it by NFS
    "-root-mode", "0755",  # the top folder is in no archive; its owner stays nobody in 4.5.1
    "-no-progress",
    "-quiet",
)  # fmt: skip


def squash_file(out: Path, archive: IO[bytes], newest_seconds: int) -> None:
    """Make the squashfs `out`, which must exist, of a whole archive file; no byte passes here."""
    with _mksquashfs(out, archive, newest_seconds):
        pass


@contextmanager
def squashing(out: Path, newest_seconds: int) -> Iterator[IO[bytes]]:
    """A pipe: what the body writes to it, a tar stream, becomes the squashfs `out`."""
    with _mksquashfs(out, subprocess.PIPE, newest_seconds) as child:
        assert child.stdin is not None
        try:
            yield child.stdin
            child.stdin.close()
        except BrokenPipeError:
            pass  # it died; how is told by its exit status


@contextmanager
def _mksquashfs(
    out: Path, stdin: IO[bytes] | int, newest_seconds: int
) -> Iterator[subprocess.Popen[bytes]]:
    program = process.find_program(
        "mksquashfs", package="squashfs-tools", also=("/usr/bin/mksquashfs",)
    )
    with out.open("r+b") as target, tempfile.TemporaryFile() as said:
        privileged = os.geteuid() == 0
        if privileged:
            os.fchown(target.fileno(), _UNPRIVILEGED_ID, _UNPRIVILEGED_ID)
        argv = [os.fspath(program), "-", f"/proc/self/fd/{target.fileno()}", *_OPTIONS]
        child = process.spawn(
            [*argv, "-processors", str(len(os.sched_getaffinity(0)))],
            stdin=stdin,
            stdout=said,
            stderr=said,
            pass_fds=(target.fileno(),),
            env={"SOURCE_DATE_EPOCH": str(newest_seconds), "PATH": os.defpath},
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
            text = said.read().decode(errors="replace").strip()
            raise StoreError(
                "cannot make the root filesystem of an image",
                details="\n".join(text.splitlines()[-_SHOWN_LINES:]),
            ) from process.ProcessError(argv, status, text)
        if privileged:
            os.fchown(target.fileno(), 0, 0)
        os.fsync(target.fileno())


def _close_quietly(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return


def _drop_privileges() -> None:
    os.setgroups([])
    os.setresgid(_UNPRIVILEGED_ID, _UNPRIVILEGED_ID, _UNPRIVILEGED_ID)
    os.setresuid(_UNPRIVILEGED_ID, _UNPRIVILEGED_ID, _UNPRIVILEGED_ID)
