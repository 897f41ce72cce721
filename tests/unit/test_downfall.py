"""Why a machine went down, from what it left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kvmrkt.errors import (
    AgentSilentError,
    EngineError,
    GuestError,
    GuestPanicError,
    OutOfMemoryError,
    VmmError,
)
from kvmrkt.stage1.kvm.downfall import Remains, explain, killed_for_memory

if TYPE_CHECKING:
    from pathlib import Path

ENDED: dict[str, Any] = {
    "status": 0, "panic": None, "console": "the console", "last_words": "",
    "shutdown_reason": "guest-reset",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({}, GuestError, "the guest went down by itself (guest-reset)"),
        ({"shutdown_reason": None}, GuestError, "(no reason given)"),
        ({"panic": "No init found"}, GuestPanicError, "the guest's kernel panicked: No init found"),
        ({"panic": "No init found", "status": None}, GuestPanicError, "No init found"),
        (
            {"panic": "System is deadlocked on memory"},
            OutOfMemoryError,
            "the guest ran out of memory: its kernel panicked: System is deadlocked on memory",
        ),
        ({"panic": "Out of memory: compulsory"}, OutOfMemoryError, "Out of memory: compulsory"),
        ({"status": None}, AgentSilentError, "the guest's agent closed its control port"),
        ({"status": -9}, VmmError, "QEMU was ended by SIGKILL"),
        ({"status": -11}, VmmError, "QEMU was ended by SIGSEGV"),
        (
            {"status": -9, "host_out_of_memory": True},
            OutOfMemoryError,
            "the host ran out of memory: its kernel ended QEMU by SIGKILL",
        ),
        ({"status": 1, "last_words": "no such option"}, VmmError, "QEMU ended with status 1"),
        (
            {"status": 1, "last_words": "cannot set up guest memory: Cannot allocate memory"},
            OutOfMemoryError,
            "QEMU ended with status 1",
        ),
    ],
)
def test_what_is_left_says_what_happened(
    changes: dict[str, Any], kind: type[EngineError], words: str
) -> None:
    error = explain(Remains(**{**ENDED, **changes}))
    assert type(error) is kind
    assert words in error.message
    assert error.details == changes.get("last_words") or error.details == "the console"


def test_the_kernels_log_names_who_was_killed_for_memory(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("4,9,1,-;Memory cgroup out of memory: Killed process 4711 (qemu-system-x86)\n")
    assert killed_for_memory(4711, str(log))
    assert not killed_for_memory(471, str(log))
    assert not killed_for_memory(4711, str(tmp_path / "missing"))
