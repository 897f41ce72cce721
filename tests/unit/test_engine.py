"""Which accelerator a pod gets, and what happens when it breaks while the guest runs."""

from __future__ import annotations

from typing import Any

import pytest

from kvmrkt.errors import GuestError, VmmError
from kvmrkt.stage1.kvm import engine
from kvmrkt.stage1.kvm.accel import Accelerator
from kvmrkt.stage1.kvm.launch import Launch
from kvmrkt.stage1.kvm.monitor import MachineStoppedError
from kvmrkt.trace import Trace


class Host:
    """A host whose probe says `kind`, and whose machines end as told, one after the other."""

    def __init__(self, patch: pytest.MonkeyPatch, kind: str, *endings: int | Exception) -> None:
        self.started: list[str] = []
        self.warnings: list[str] = []
        self.remembered: list[str] = []
        self._endings = list(endings)
        choice = Accelerator(kind, "the reason", None)  # type: ignore[arg-type]
        patch.setattr(engine, "choose_accelerator", lambda *_: choice)
        patch.setattr(engine, "remember_bad", self.remembered.append)
        patch.setattr(engine, "run_machine", self._run)

    def _run(self, launch: Launch) -> int:
        self.started.append(launch.accelerator)
        ending = self._endings.pop(0)
        if isinstance(ending, Exception):
            raise ending
        return ending

    def run(self, requested: str = "auto") -> int:
        """Run a pod of which only the request for an accelerator matters."""
        plain: dict[str, Any] = dict.fromkeys(("directory", "spec", "images", "folders", "boot"))
        pod = engine.KvmPod(accelerator=requested, **plain)
        return pod.run(Trace(0), self.warnings.append)


def test_a_working_kvm_is_used_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, "kvm", 7)
    assert host.run() == 7
    assert (host.started, host.warnings) == (["kvm"], [])


def test_emulation_is_announced_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, "tcg", 0)
    assert host.run() == 0
    assert host.warnings == ["the reason; the pod runs under software emulation, which is slow"]


def test_emulation_that_was_asked_for_is_not_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, "tcg", 0)
    host.run("tcg")
    assert host.warnings == []


def test_a_kvm_that_breaks_is_remembered_and_the_pod_starts_once_more_under_emulation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(monkeypatch, "kvm", MachineStoppedError("internal-error"), 3)
    assert host.run() == 3
    assert host.started == ["kvm", "tcg"]
    assert host.remembered == ["internal-error"]
    assert "once more under emulation" in host.warnings[0]


def test_a_second_failure_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = MachineStoppedError("internal-error")
    host = Host(monkeypatch, "kvm", stopped, GuestError("silent"))
    with pytest.raises(GuestError, match="silent"):
        host.run()
    assert host.started == ["kvm", "tcg"]


def test_kvm_by_name_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, "kvm", MachineStoppedError("internal-error"))
    with pytest.raises(MachineStoppedError):
        host.run("kvm")
    assert host.remembered == []


@pytest.mark.parametrize("error", [VmmError("QEMU ended"), GuestError("panic")])
def test_other_failures_say_nothing_about_the_accelerator(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    host = Host(monkeypatch, "kvm", error)
    with pytest.raises(type(error)):
        host.run()
    assert host.started == ["kvm"]
