"""A pod that runs on while tests reach into it."""

from __future__ import annotations

import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from real_pods import BUSYBOX, DEADLINE_SECONDS, Kvmrkt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Inside:
    """The pod, and what is started in it."""

    def __init__(self, kvmrkt: Kvmrkt, uuid: str) -> None:
        self.kvmrkt = kvmrkt
        self.uuid = uuid

    def exec(
        self, *words: str, flags: tuple[str, ...] = (), stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """`app exec`."""
        return self.run("app", "exec", *flags, self.uuid, *words, stdin=stdin)

    def run(self, *words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Any command."""
        return subprocess.run(
            self.kvmrkt.argv(*words), input=stdin, capture_output=True, check=False,
            timeout=DEADLINE_SECONDS,
        )  # fmt: skip


@contextmanager
def running(
    folder: Path, store: Path, *flags: str, script: str = "exec sleep 100000"
) -> Iterator[Inside]:
    """A pod of busybox with the flags, that runs the script until it is stopped."""
    (folder / "cas").symlink_to(store)
    kvmrkt = Kvmrkt(folder)
    words = (*flags, "--", "-c", f"echo up; {script}")
    pod = kvmrkt.start(BUSYBOX, "--exec=/bin/sh", *words)
    assert pod.stdout is not None
    line = pod.stdout.readline()
    assert line.endswith("up\n"), pod.communicate()
    # A pod whose output nobody reads waits for its reader.
    reader = threading.Thread(target=_read_out, args=(pod,), daemon=True)
    reader.start()
    (path,) = kvmrkt.pods()
    yield Inside(kvmrkt, path.name)
    done = kvmrkt("stop", path.name)
    reader.join(DEADLINE_SECONDS)
    pod.wait(DEADLINE_SECONDS)
    assert done.returncode == 0, done.stderr


def _read_out(pod: subprocess.Popen[str]) -> None:
    assert pod.stdout is not None and pod.stderr is not None
    with pod.stdout, pod.stderr:
        while pod.stdout.read(1 << 16):
            pass
        pod.stderr.read()
