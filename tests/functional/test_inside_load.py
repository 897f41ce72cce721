"""Reaching into pods that are hard pressed, and much data at once.

`KVMRKT_BULK_MIB` makes the amount larger: scripts/soak asks for a gibibyte.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from inside_pod import running

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.functional

BULK_MIB = int(os.environ.get("KVMRKT_BULK_MIB", "8"))
BULK_SECONDS = 120 + 6 * BULK_MIB
"""A backstop: software emulation on a busy host copies a mebibyte in some seconds."""


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_pod_under_full_load_can_be_entered(
    tmp_path_factory: pytest.TempPathFactory, store: Path
) -> None:
    busy = "(while :; do :; done) & (while :; do echo flood; done) & "
    fill = "tail /dev/zero & "  # it is killed for memory again and again
    script = f"for i in 1 2 3 4 5 6 7 8 9 10; do {busy} done; while :; do {fill} sleep 1; done"
    folder = tmp_path_factory.mktemp("load")
    with running(folder, store, "--memory=64M", script=script) as inside:
        done = inside.run("enter", inside.uuid, "sh", "-c", "ps | grep -c while; echo answered")
        assert done.stdout.endswith(b"answered\n"), done.stderr
        assert done.returncode == 0


@pytest.mark.timeout(3 * BULK_SECONDS + 300)
def test_much_data_goes_through_exec_and_cp_unchanged(
    tmp_path_factory: pytest.TempPathFactory, store: Path
) -> None:
    folder = tmp_path_factory.mktemp("bulk")
    sent, echoed, back = (folder / name for name in ("sent", "echoed", "back"))
    with sent.open("wb") as file:
        for _ in range(BULK_MIB):
            file.write(os.urandom(1 << 20))
    with running(folder, store) as inside:
        argv = inside.kvmrkt.argv("app", "exec", inside.uuid, "cat")
        with sent.open("rb") as source, echoed.open("wb") as goal:
            done = subprocess.run(
                argv, stdin=source, stdout=goal, check=False, timeout=BULK_SECONDS
            )
        assert done.returncode == 0
        assert digest(echoed) == digest(sent)
        for source_word, goal_word in (
            (sent, f"{inside.uuid}:/root/sent"),
            (f"{inside.uuid}:/root/sent", back),
        ):
            copied = subprocess.run(
                inside.kvmrkt.argv("cp", source_word, goal_word), check=False, timeout=BULK_SECONDS
            )
            assert copied.returncode == 0
        assert digest(back) == digest(sent)
