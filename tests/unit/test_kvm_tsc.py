from __future__ import annotations

import errno
import json
import time
from itertools import count
from typing import TYPE_CHECKING

import pytest

from kvmrkt.boot import boot_id
from kvmrkt.errors import HostError
from kvmrkt.stage1.kvm import tsc
from kvmrkt.stage1.kvm.kvmfake import FakeKvm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def sources(**answers: int | None) -> tuple[tuple[str, Callable[[], int | None]], ...]:
    return tuple((name, lambda answer=answer: answer) for name, answer in answers.items())


def test_the_first_source_that_knows(tmp_path: Path) -> None:
    known = sources(kvm=None, measured=2_400_000, cpuinfo=1_000_000)
    assert tsc.tsc_khz(tmp_path, sources=known) == 2_400_000
    kept = json.loads((tmp_path / "tsc.json").read_bytes())
    assert kept == {"boot_id": boot_id(), "khz": 2_400_000, "source": "measured"}


def test_found_out_once_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tsc.tsc_khz(tmp_path, sources=sources(kvm=2_400_000)) == 2_400_000
    assert tsc.tsc_khz(tmp_path, sources=sources(kvm=3_000_000)) == 2_400_000
    monkeypatch.setattr(tsc, "boot_id", lambda: "another")
    assert tsc.tsc_khz(tmp_path, sources=sources(kvm=3_000_000)) == 3_000_000


@pytest.mark.parametrize("content", [b"", b"{", b'{"boot_id":"x","khz":-1,"source":"kvm"}'])
def test_a_damaged_cache(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tsc.json").write_bytes(content)
    assert tsc.tsc_khz(tmp_path, sources=sources(kvm=3_000_000)) == 3_000_000


@pytest.mark.parametrize("khz", [0, -5, 99, 10**9])
def test_an_absurd_answer_is_passed_over(tmp_path: Path, khz: int) -> None:
    assert tsc.tsc_khz(tmp_path, sources=sources(kvm=khz, measured=2_000_000)) == 2_000_000
    (tmp_path / "tsc.json").write_text(
        json.dumps({"boot_id": boot_id(), "khz": khz, "source": "kvm"})
    )
    assert tsc.tsc_khz(tmp_path, sources=sources(kvm=2_500_000)) == 2_500_000


def test_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot find out the frequency") as caught:
        tsc.tsc_khz(tmp_path, sources=sources(kvm=None, measured=None, cpuinfo=None))
    assert caught.value.hint
    assert not (tmp_path / "tsc.json").exists()


def test_kvm_is_asked_on_a_virtual_cpu() -> None:
    kvm = FakeKvm(khz=2_900_000)
    assert tsc.kvm_frequency(kvm) == 2_900_000
    assert kvm.code


def test_kvm_does_not_open() -> None:
    with pytest.raises(OSError, match="Permission"):
        tsc.kvm_frequency(FakeKvm(version=OSError(errno.EACCES, "Permission denied")))


def test_measuring_takes_the_quickest_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter of exactly 2.5 GHz, read by a process that is interrupted in most readings."""
    now_ns = 1_000
    reading = count()

    def clock_ns() -> int:
        return now_ns

    def read_counter() -> int:
        nonlocal now_ns
        value = now_ns * 25 // 10
        now_ns += 10 if next(reading) % 8 == 5 else 3_000_000
        return value

    def sleep(seconds: float) -> None:
        nonlocal now_ns
        now_ns += int(seconds * 1e9)

    monkeypatch.setattr(time, "sleep", sleep)
    assert tsc.measured_khz(read_counter, clock_ns) == 2_500_000


def test_this_host_can_be_measured() -> None:
    """And agrees with KVM, where both work."""
    measured = tsc.measure()
    if measured is None:
        pytest.skip("this host forbids machine code of our own")
    if (asked := tsc.ask_kvm()) is not None:
        assert measured == pytest.approx(asked, rel=0.001)


def test_a_host_that_forbids_executable_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import mmap

    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert tsc.measure() is None


def test_a_counter_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsc, "_RDTSC", b"\x0f\x0b")  # ud2: dies as with PR_TSC_SIGSEGV
    assert tsc.measure() is None


@pytest.mark.parametrize(
    ("text", "khz"),
    [
        ("processor\t: 0\ncpu MHz\t\t: 2893.202\ncpu MHz\t\t: 800.0\n", 2_893_202),
        ("processor\t: 0\n", None),
        ("", None),
    ],
)
def test_cpuinfo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, khz: int | None
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    monkeypatch.setattr(tsc, "_CPUINFO", cpuinfo)
    assert tsc.from_cpuinfo() == khz


def test_no_cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsc, "_CPUINFO", tmp_path / "nosuch")
    assert tsc.from_cpuinfo() is None
