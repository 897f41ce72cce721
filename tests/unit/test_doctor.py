from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvmrkt import doctor
from kvmrkt.cli import main
from kvmrkt.doctor import Check, Facts, Level, Space, Tool, diagnose, look_at_space, worst
from kvmrkt.stage1.kvm.verdict import ProbeVerdict

HEALTHY = Facts(
    effective_user=0,
    kernel="6.12.48+deb13-amd64",
    verdict=ProbeVerdict(True, "20000 rounds of a loop in guest kernel code took 21 µs", 21.0),
    cpu_virtualisation=True,
    tsc_khz=2_900_000,
    qemu=Tool(Path("/usr/bin/qemu-system-x86_64"), "10.0.3"),
    virtiofsd=Path("/usr/libexec/virtiofsd"),
    mksquashfs=Tool(Path("/usr/bin/mksquashfs"), "4.6.1"),
    nft=Path("/usr/sbin/nft"),
    tun=True,
    runtime=Space(Path("/run/kvmrkt"), True, 1 << 28),
    data=Space(Path("/var/lib/kvmrkt"), True, 10 << 30),
    stage1=Path("/usr/lib/kvmrkt/stage1-images/stage1-kvm.aci"),
    stage1_searched=(Path("/usr/lib/kvmrkt/stage1-images/stage1-kvm.aci"),),
    cgroup_v2=True,
)


def found(name: str, **changes: Any) -> Check:
    checks = diagnose(msgspec.structs.replace(HEALTHY, **changes))
    assert [check.name for check in checks if check.level is not Level.OK] in ([], [name])
    return next(check for check in checks if check.name == name)


def test_a_healthy_host() -> None:
    checks = diagnose(HEALTHY)
    assert worst(checks) is Level.OK
    assert not any(check.remedy for check in checks)
    assert len({check.name for check in checks}) == len(checks)


BAD_KVM = ProbeVerdict(False, "guest kernel code does not run: KVM internal error 1")


@pytest.mark.parametrize(
    ("name", "changes", "level", "text"),
    [
        ("root", {"effective_user": 1000}, Level.FAILURE, "running as user 1000"),
        ("kernel", {"kernel": "4.19.0-amd64"}, Level.FAILURE, "Linux 4.19.0-amd64 is too old"),
        ("kernel", {"kernel": "5.3"}, Level.OK, "Linux 5.3"),
        ("accelerator", {"verdict": BAD_KVM}, Level.WARNING, "KVM internal error 1"),
        ("accelerator", {"verdict": BAD_KVM}, Level.WARNING, "auto chooses tcg"),
        ("accelerator", {}, Level.OK, "auto chooses kvm: 20000 rounds"),
        ("clock", {"tsc_khz": None}, Level.FAILURE, "cannot be found out"),
        ("qemu", {"qemu": Tool()}, Level.FAILURE, "not found; version 7.2 or later is needed"),
        ("qemu", {"qemu": Tool(Path("/q"), "6.2.0")}, Level.FAILURE, "/q is version 6.2.0: too"),
        ("qemu", {"qemu": Tool(Path("/q"), "7.2.22")}, Level.OK, "/q, version 7.2.22"),
        ("qemu", {"qemu": Tool(Path("/q"))}, Level.WARNING, "/q does not tell its version"),
        ("volumes", {"virtiofsd": None}, Level.WARNING, "over 9p"),
        ("mksquashfs", {"mksquashfs": Tool()}, Level.FAILURE, "not found"),
        ("mksquashfs", {"mksquashfs": Tool(Path("/m"), "4.4")}, Level.FAILURE, "too old"),
        ("mksquashfs", {"mksquashfs": Tool(Path("/m"), "4.5.1")}, Level.OK, "4.5.1"),
        ("runtime folder", {"runtime": Space(Path("/r"), False, 1)}, Level.FAILURE, "write to /r"),
        ("data folder", {"data": Space(Path("/d"), True, 1 << 20)}, Level.FAILURE, "0.0 GiB free"),
        ("data folder", {"data": Space(Path("/d"), True, 1 << 30)}, Level.WARNING, "1.0 GiB free"),
        ("data folder", {"data": Space(Path("/d"), False, 9 << 40)}, Level.FAILURE, "cannot write"),
        ("stage1", {"stage1": None}, Level.FAILURE, "no stage1-kvm.aci in /usr/lib/kvmrkt"),
        ("cgroups", {"cgroup_v2": False}, Level.WARNING, "no cgroup v2"),
    ],
)
def test_findings(name: str, changes: dict[str, Any], level: Level, text: str) -> None:
    check = found(name, **changes)
    assert check.level is level
    assert text in check.text
    assert bool(check.remedy) is (level is not Level.OK)


def test_missing_cpu_flags_are_a_hint_and_decide_nothing() -> None:
    assert (
        "neither vmx nor svm"
        in found("accelerator", verdict=BAD_KVM, cpu_virtualisation=False).text
    )
    assert found("accelerator", cpu_virtualisation=False).level is Level.OK


def test_space_of_a_folder_still_to_be_made(tmp_path: Path) -> None:
    space = look_at_space(tmp_path / "a" / "b")
    assert space.path == tmp_path / "a" / "b"
    assert space.writable
    assert space.free_bytes > 0


def test_versions_are_read_from_what_the_programs_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\necho 'QEMU emulator version 7.2.22 (Debian 1:7.2)'\n")
    program.chmod(0o755)
    broken = tmp_path / "mksquashfs"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert doctor._tool("qemu-system-x86_64", "--version", "q") == Tool(program, "7.2.22")
    assert doctor._tool("mksquashfs", "-version", "m") == Tool(broken)
    assert doctor._tool("no-such-program", "--version", "n") == Tool()


@pytest.mark.parametrize(
    ("changes", "status"),
    [({}, 0), ({"cgroup_v2": False}, 1), ({"cgroup_v2": False, "stage1": None}, 254)],
)
def test_the_command(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    status: int,
) -> None:
    facts = msgspec.structs.replace(HEALTHY, **changes)
    monkeypatch.setattr(doctor, "gather", lambda _options: facts)
    assert main.run(["doctor"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "remedy: " not in line]) == len(doctor.CHECKS)
    assert lines[0] == "ok      root: running as root"
    assert main.run(["doctor", "--format=json"]) == status
    document = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in document] == [check.name for check in diagnose(facts)]
    assert document[0] == {"name": "root", "level": "ok", "text": "running as root"}


def test_looking_at_this_host(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Whatever it lacks: a report, never a crash."""
    assert main.run([f"--dir={tmp_path}", "doctor"]) in {0, 1, 254}
    assert "accelerator: auto chooses " in capsys.readouterr().out


def test_without_nft_or_taps_pods_have_loopback_alone() -> None:
    for changes in ({"nft": None}, {"tun": False}):
        check = found("networks", **changes)
        assert check.level is Level.WARNING
        assert "--net=none only" in check.text
        assert check.remedy
