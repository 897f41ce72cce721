"""kill -9 at any moment: nothing runs on, and `gc` removes the rest."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from real_pods import BUSYBOX, DEADLINE_SECONDS, ROOT, Kvmrkt, processes_naming

pytestmark = pytest.mark.functional

STAGES = ("pod created", "share served", "guest booting", "app running", "app ending")


def reached(stage: str, kvmrkt: Kvmrkt, folder: Path) -> bool:
    """Whether the pod has come so far, seen from outside."""
    pods = kvmrkt.pods()
    if stage == "pod created":
        return bool(pods)
    if stage == "share served":
        return any((pod / "logs" / "virtiofsd").exists() for pod in pods)
    if stage == "guest booting":
        return any('"qemu"' in read(pod / "resources.json") for pod in pods)
    return (folder / ("ready" if stage == "app running" else "ending")).exists()


def read(file: Path) -> str:
    """A file's text; none while it does not exist, or its folder has just been renamed."""
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_supervisor_leaves_nothing_that_gc_does_not_remove(
    kvmrkt: Kvmrkt, tmp_path: Path, stage: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    pod = kvmrkt.start(
        f"--volume=data,kind=host,source={folder}", "--mount=volume=data,target=/data",
        BUSYBOX, "--exec=/bin/sh", "--", "-c",
        "touch /data/ready; sleep 1; touch /data/ending; [ -e /data/short ] || sleep 1000",
    )  # fmt: skip
    if stage == "app ending":
        (folder / "short").touch()
    wait_until(lambda: reached(stage, kvmrkt, folder) or pod.poll() is not None)
    pod.send_signal(signal.SIGKILL)
    pod.communicate(timeout=DEADLINE_SECONDS)
    assert_all_gone(kvmrkt, tmp_path)


def test_a_supervisor_killed_at_random_moments_leaves_nothing(
    kvmrkt: Kvmrkt, tmp_path: Path
) -> None:
    moments = random.Random(int(os.environ.get("KVMRKT_SEED", "1")))
    for _ in range(int(os.environ.get("KVMRKT_KILLS", "4"))):
        pod = kvmrkt.start(BUSYBOX, "--exec=/bin/sleep", "--", "1")
        time.sleep(moments.uniform(0.05, 3.0))
        pod.send_signal(signal.SIGKILL)
        pod.communicate(timeout=DEADLINE_SECONDS)
        assert_all_gone(kvmrkt, tmp_path)


def assert_all_gone(kvmrkt: Kvmrkt, folder: Path) -> None:
    """No process at once, as the kernel kills them; no file after gc; nothing in /run."""
    uuids = [pod.name for pod in kvmrkt.pods()]
    for name in (str(folder), *uuids):
        wait_until(lambda name=name: not processes_naming(name))
    done = kvmrkt("gc", "--grace-period=0s")
    assert done.returncode == 0, done.stderr
    assert kvmrkt.pods() == [], done.stderr
    for uuid in uuids:
        assert not Path("/run/kvmrkt/pods", uuid).exists()


def test_a_dead_qemu_is_named_and_the_pod_ends(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    pod = kvmrkt.start(
        f"--volume=data,kind=host,source={folder}", "--mount=volume=data,target=/data",
        BUSYBOX, "--exec=/bin/sh", "--", "-c", "touch /data/ready; sleep 1000",
    )  # fmt: skip
    wait_until(lambda: (folder / "ready").exists() or pod.poll() is not None)
    held = json.loads((kvmrkt.pods()[0] / "resources.json").read_text())["resources"]
    os.kill(next(item["process"]["pid"] for item in held if item["name"] == "qemu"), signal.SIGKILL)
    _, said = pod.communicate(timeout=DEADLINE_SECONDS)
    assert pod.returncode == 252
    assert "QEMU was ended by SIGKILL" in said


def test_a_guest_that_panics_is_told_with_its_last_words(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    folder = broken_stage1(tmp_path, initrd=b"no cpio archive")
    done = kvmrkt.run(f"--stage1-path={folder}", BUSYBOX, "--exec=/bin/true")
    assert done.returncode == 249
    assert "the guest's kernel panicked: " in done.stderr
    assert "  | " in done.stderr


def test_an_agent_that_never_says_hello_meets_the_deadline(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    # a program that sleeps for ever in the agent's place
    folder = broken_stage1(tmp_path, initrd=sleeping_initrd(tmp_path))
    done = kvmrkt.run(f"--stage1-path={folder}", "--boot-timeout=10s", BUSYBOX, "--exec=/bin/true")
    assert done.returncode == 247
    assert "the guest's agent said nothing within 10 seconds" in done.stderr


def test_a_machine_too_large_for_the_host_is_out_of_memory(kvmrkt: Kvmrkt) -> None:
    done = kvmrkt.run(BUSYBOX, "--memory=512Ti", "--exec=/bin/true")
    assert done.returncode == 251, done.stderr
    assert "Cannot allocate memory" in done.stderr


def sleeping_initrd(folder: Path) -> bytes:
    """An initrd whose init is a three-instruction program: pause, again and again."""
    source = folder / "sleep.S"
    source.write_text(
        ".globl _start\n_start: mov $34, %eax\nsyscall\njmp _start\n"  # pause(2)
    )
    program = folder / "init"
    subprocess.run(["cc", "-nostdlib", "-static", "-o", program, source], check=True)
    header = "070701" + "".join(
        f"{number:08x}"
        for number in (1, 0o100755, 0, 0, 1, 0, program.stat().st_size, 0, 0, 0, 0, 5, 0)
    )
    entry = header.encode() + b"init\0"
    entry += b"\0" * (-len(entry) % 4) + program.read_bytes()
    entry += b"\0" * (-len(entry) % 4)
    end = ("070701" + "0" * 88 + f"{11:08x}" + "0" * 8).encode() + b"TRAILER!!!\0"
    return entry + end + b"\0" * 512


def broken_stage1(folder: Path, *, initrd: bytes) -> Path:
    """The stage1 image with another initrd."""
    target = folder / "stage1.aci"
    stage1 = ROOT / "build" / "stage1-kvm.aci"
    with tarfile.open(stage1) as source, tarfile.open(target, "w") as copy:
        for member in source:
            content = source.extractfile(member) if member.isreg() else None
            if member.name == "rootfs/initrd":
                member.size = len(initrd)
                content = io.BytesIO(initrd)  # type: ignore[assignment]
            copy.addfile(member, content)
    return target


def wait_until(condition: object) -> None:
    """Poll a condition; a backstop ends the wait."""
    assert callable(condition)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
