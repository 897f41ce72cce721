from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec
import pytest

from kvmrkt.errors import HostError, UsageError
from kvmrkt.stage1.kvm import accel
from kvmrkt.stage1.kvm.accel import CachedVerdict, choose_accelerator, remember_bad, verdict_for
from kvmrkt.stage1.kvm.verdict import ProbeVerdict

GOOD = ProbeVerdict(True, "it ran", 21.0, 2_900_000)
BAD = ProbeVerdict(False, "it crawls", 20_000.0)


class Probe:
    """Gives a verdict and counts how often it was asked."""

    def __init__(self, verdict: ProbeVerdict) -> None:
        self.verdict = verdict
        self.runs = 0

    def __call__(self) -> ProbeVerdict:
        self.runs += 1
        return self.verdict


@pytest.fixture
def device(tmp_path: Path) -> Path:
    device = tmp_path / "kvm"
    device.write_text("")
    return device


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "run" / "kvmrkt"


@pytest.mark.parametrize("requested", ["auto", "kvm"])
def test_a_good_host_gets_kvm(cache: Path, device: Path, requested: str) -> None:
    choice = choose_accelerator(requested, cache, device=device, run_probe=Probe(GOOD))
    assert (choice.kind, choice.verdict) == ("kvm", GOOD)
    assert choice.warning is None


def test_auto_on_a_bad_host(cache: Path, device: Path) -> None:
    choice = choose_accelerator("auto", cache, device=device, run_probe=Probe(BAD))
    assert choice.kind == "tcg"
    assert choice.warning == (
        "pods run under emulation (TCG), about 5 to 20 times slower than with KVM: "
        "KVM is not usable: it crawls"
    )


def test_kvm_on_a_bad_host_is_a_clear_error(cache: Path, device: Path) -> None:
    with pytest.raises(HostError, match="^cannot use the accelerator kvm: it crawls$") as caught:
        choose_accelerator("kvm", cache, device=device, run_probe=Probe(BAD))
    assert "--accel=tcg" in (caught.value.hint or "")
    assert str(cache / "accel.json") in (caught.value.hint or "")


def test_tcg_asks_nobody(cache: Path, device: Path) -> None:
    probe = Probe(GOOD)
    choice = choose_accelerator("tcg", cache, device=device, run_probe=probe)
    assert (choice.kind, choice.verdict, probe.runs) == ("tcg", None, 0)


def test_an_unknown_word(cache: Path, device: Path) -> None:
    with pytest.raises(UsageError, match='unknown accelerator "xen"'):
        choose_accelerator("xen", cache, device=device)


def test_no_device(cache: Path, tmp_path: Path) -> None:
    probe = Probe(GOOD)
    choice = choose_accelerator("auto", cache, device=tmp_path / "nosuch", run_probe=probe)
    assert choice.kind == "tcg"
    assert choice.reason.endswith("(No such file or directory)")
    assert probe.runs == 0
    assert not cache.exists()
    with pytest.raises(HostError, match="there is no ") as caught:
        choose_accelerator("kvm", cache, device=tmp_path / "nosuch", run_probe=probe)
    assert "nested virtualisation" in (caught.value.hint or "")


def test_no_permission(cache: Path, device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(GOOD)
    monkeypatch.setattr(os, "access", lambda *_args, **_more: False)
    choice = choose_accelerator("auto", cache, device=device, run_probe=probe)
    assert choice.kind == "tcg"
    assert "no permission" in choice.reason
    assert probe.runs == 0
    monkeypatch.undo()
    assert choose_accelerator("auto", cache, device=device, run_probe=probe).kind == "kvm"


@pytest.mark.parametrize("verdict", [GOOD, BAD])
def test_the_verdict_is_kept(cache: Path, device: Path, verdict: ProbeVerdict) -> None:
    probe = Probe(verdict)
    first = verdict_for(cache, device=device, run_probe=probe)
    assert verdict_for(cache, device=device, run_probe=probe) == first == verdict
    assert probe.runs == 1


def test_a_passing_trouble_is_not_kept(cache: Path, device: Path) -> None:
    probe = Probe(ProbeVerdict(False, "no child process", lasting=False))
    verdict_for(cache, device=device, run_probe=probe)
    verdict_for(cache, device=device, run_probe=probe)
    assert probe.runs == 2


def test_another_boot_probes_again(
    cache: Path, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Probe(BAD)
    verdict_for(cache, device=device, run_probe=probe)
    monkeypatch.setattr(accel, "boot_id", lambda: "another")
    verdict_for(cache, device=device, run_probe=probe)
    assert probe.runs == 2


def test_a_device_made_anew_is_probed_again(cache: Path, device: Path) -> None:
    probe = Probe(BAD)
    verdict_for(cache, device=device, run_probe=probe)
    time.sleep(0.01)
    device.unlink()
    device.write_text("")
    verdict_for(cache, device=device, run_probe=probe)
    assert probe.runs == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"verdict":1}', b"\xff" * 100])
def test_a_damaged_cache_is_replaced(cache: Path, device: Path, content: bytes) -> None:
    cache.mkdir(parents=True)
    (cache / "accel.json").write_bytes(content)
    probe = Probe(GOOD)
    for _ in range(2):
        assert verdict_for(cache, device=device, run_probe=probe) == GOOD
    assert probe.runs == 1
    kept = msgspec.json.decode((cache / "accel.json").read_bytes(), type=CachedVerdict)
    assert kept.verdict == GOOD


def test_a_cache_that_cannot_be_written_costs_a_probe_each_time(
    tmp_path: Path, device: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    probe = Probe(GOOD)
    for _ in range(2):
        assert verdict_for(blocked / "kvmrkt", device=device, run_probe=probe) == GOOD
    assert probe.runs == 2


def test_a_failure_at_run_time_is_remembered(cache: Path, device: Path) -> None:
    probe = Probe(GOOD)
    assert choose_accelerator("auto", cache, device=device, run_probe=probe).kind == "kvm"
    remember_bad("internal error", cache, device=device)
    choice = choose_accelerator("auto", cache, device=device, run_probe=probe)
    assert choice.kind == "tcg"
    assert choice.reason.endswith("it failed a pod that ran: internal error")
    assert probe.runs == 1


def test_remembering_without_a_device(cache: Path, tmp_path: Path) -> None:
    remember_bad("gone", cache, device=tmp_path / "nosuch")
    assert not cache.exists()


def test_a_start_with_a_kept_verdict_is_quick(cache: Path, device: Path) -> None:
    probe = Probe(GOOD)
    choose_accelerator("auto", cache, device=device, run_probe=probe)
    spent = []
    for _ in range(20):
        started = time.thread_time()
        choose_accelerator("auto", cache, device=device, run_probe=probe)
        spent.append(time.thread_time() - started)
    assert min(spent) < 0.001


def test_a_start_with_a_kept_verdict_imports_little() -> None:
    import subprocess

    code = (
        "import sys, kvmrkt.stage1.kvm.accel, kvmrkt.stage1.kvm.tsc;"
        "print(*[m for m in ('ctypes', 'mmap', 'kvmrkt.stage1.kvm.kvmprobe') if m in sys.modules])"
    )
    root = Path(__file__).parent.parent.parent
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True
    )
    assert said.stdout.strip() == ""
