"""A file as a stream under a path, for a library that would map the whole of it into memory."""

from __future__ import annotations

import fcntl
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvmrkt import process
from kvmrkt.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PIPE_BYTES = 1 << 20


@contextmanager
def streamed(file: Path, action: str) -> Iterator[str]:
    """A path that can be opened once and then gives the file's bytes, from a pipe.

    Another process feeds the pipe: Sequoia holds the interpreter while it reads. Raises
    ImageError, "<action>: why", if the file cannot be read to its end.
    """
    try:
        with file.open("rb") as content:
            child = process.spawn(
                ["cat"], stdin=content, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
    except OSError as error:
        raise ImageError(action) from error
    assert child.stdout is not None
    with child:
        fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        yield f"/proc/self/fd/{child.stdout.fileno()}"
    if child.returncode > 0:  # not by SIGPIPE, which only says that nobody read to the end
        raise ImageError(f"{action}: {file}: reading it failed")
