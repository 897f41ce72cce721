"""From inside the jail: a program in QEMU's place has its own pod, and nothing else."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest

import kvmrkt.stage1.kvm.jail.cell as cell_module
from kvmrkt.paths import DataDir
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.resources import Resources, load, release_all
from kvmrkt.stage1.kvm.jail.cell import Cell, furnish, limit
from kvmrkt.stage1.kvm.jail.enter import spawn_jailed
from kvmrkt.stage1.kvm.jail.plan import MIB, Limits
from kvmrkt.stage1.kvm.machine import DiskImage, Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.functional

DISK_BYTES = 1 << 20
NO_CAPABILITY = "0000000000000000"


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test program, compiled."""
    program = tmp_path_factory.mktemp("probe") / "probe"
    source = Path(__file__).with_name("jail_probe.c")
    subprocess.run(["cc", "-O1", "-static", "-Wall", "-Werror", "-o", program, source], check=True)
    program.parent.chmod(0o755)
    return program


class Inmate(NamedTuple):
    """A cell with the test program in QEMU's place."""

    cell: Cell
    probe: Path
    folder: Path

    def start(self, *words: str, limits: Limits | None = None) -> subprocess.Popen[bytes]:
        """Start it; what it says goes to the file `said`."""
        jail = self.cell.jail
        with (self.folder / "said").open("ab") as log:
            return spawn_jailed(
                [str(self.probe), *words],
                jail,
                self.cell.groups,
                pass_fds=self.cell.disks,
                env={},
                log=log,
            )

    def run(self, *words: str) -> list[tuple[str, str]]:
        """Run it to its end, and take its lines apart."""
        assert self.start(*words).wait(timeout=120) == 0, self.said()
        return [(word, value) for word, _, value in (line.partition(" ") for line in self.said())]

    def said(self) -> list[str]:
        """Its lines."""
        return (self.folder / "said").read_text().splitlines()


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found out about the test program is nothing for the host to keep."""
    monkeypatch.setattr(cell_module, "RUNTIME", tmp_path / "run")


@pytest.fixture
def inmate(tmp_path: Path, probe: Path) -> Iterator[Inmate]:
    yield from made(tmp_path, probe)


def made(folder: Path, probe: Path) -> Iterator[Inmate]:
    """The cell of a small machine, and afterwards nothing of it on the host."""
    for name in ("kernel", "initrd"):
        (folder / name).write_bytes(b"x")
        (folder / name).chmod(0o644)
    for name in ("image0", "scratch"):
        (folder / name).write_bytes(b"\0" * DISK_BYTES)
        (folder / name).chmod(0o600)
    pod = PodDirectory.create(DataDir(folder / "data"))
    machine = Machine(
        name=f"kvmrkt-{pod.uuid}", accelerator="tcg", cpus=1, memory_bytes=DISK_BYTES,
        kernel=folder / "kernel", initrd=folder / "initrd", kernel_parameters=(), tsc_khz=1,
        monitor_fd=0, console_fd=0, ports=(),
        disks=(
            DiskImage("image0", folder / "image0", read_only=True),
            DiskImage("scratch", folder / "scratch", read_only=False),
        ),
    )  # fmt: skip
    warnings: list[str] = []
    with ExitStack() as stack:
        cell = furnish(machine, probe, pod.uuid, stack)
        cell = limit(cell, pod.uuid, Resources(pod), warnings.append)
        assert warnings == []
        yield Inmate(cell, probe, folder)
    assert load(pod)
    release_all(pod)
    assert not any(group.exists() for group in cell.groups)
    assert list(cell.jail.root.iterdir()) == []
    pod.unlock()


def test_it_is_nobody_who_can_do_anything(inmate: Inmate) -> None:
    seen = dict(inmate.run("look", "1", "none", "1"))
    assert int(seen["uid"]) == int(seen["gid"]) == inmate.cell.jail.identity.uid >= 0x70000000
    assert seen["groups"] == "0"
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert seen[name] == NO_CAPABILITY
    assert (seen["NoNewPrivs"], seen["Seccomp"], seen["core"]) == ("1", "2", "0")


def test_it_sees_its_own_files_alone_and_can_write_none(inmate: Inmate) -> None:
    seen = inmate.run("look", "1", "none", "1")
    files = {value for word, value in seen if word == "file"}
    assert files == {str(file.target) for file in inmate.cell.jail.files}
    assert {"/boot/kernel", "/boot/initrd", "/dev/null", str(inmate.probe)} <= files
    assert not {file for file in files if file.startswith(("/etc", "/root", "/home", "/var"))}
    assert [value for word, value in seen if word == "writable"] == []


def test_it_sees_no_other_process_and_reaches_none(inmate: Inmate) -> None:
    seen = inmate.run("look", "1", "none", str(os.getpid()))
    assert [value for word, value in seen if word == "process"] == ["1"]
    assert dict(seen)["pid"] == "1"
    assert dict(seen)["kill"] == "ESRCH"


def test_it_has_no_network_but_what_was_passed(inmate: Inmate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        name = f"kvmrkt-test-{os.getpid()}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        seen = inmate.run("look", str(tcp.getsockname()[1]), name, "1")
    assert [value for word, value in seen if word == "link"] == ["lo"]
    told = dict(seen)
    assert (told["tcp"], told["udp"]) == ("ENETUNREACH", "ENETUNREACH")
    assert told["abstract"] == "ECONNREFUSED"
    assert told["hostname"] == "jail"


FORBIDDEN = {
    "setuid", "setgroups", "chroot", "mount", "umount2", "pivot_root", "unshare", "setns", "clone",
    "ptrace", "process_vm_readv", "bpf", "perf_event_open", "io_uring_setup", "userfaultfd",
    "keyctl", "kexec_load", "init_module", "reboot", "sethostname", "open_by_handle_at",
}  # fmt: skip


def test_the_system_calls_of_an_intruder_fail(inmate: Inmate) -> None:
    told = dict(inmate.run("look", "1", "none", "1"))
    assert {name: told[name] for name in FORBIDDEN} == dict.fromkeys(FORBIDDEN, "EPERM")
    assert told["clone3"] == "ENOSYS"
    assert told["mknod"] in ("EPERM", "EROFS")


def test_a_fork_bomb_ends_at_the_limit(inmate: Inmate) -> None:
    ((_, value),) = inmate.run("fork")
    children, reason = value.split()
    assert int(children) == inmate.cell.jail.limits.threads - 1
    assert reason == "EAGAIN"


def test_a_memory_bomb_is_killed_at_the_limit(
    tmp_path: Path, probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, memory_bytes=64 * MIB)
    for inmate in made(tmp_path, probe):
        assert inmate.start("memory").wait(timeout=120) == -signal.SIGKILL


def test_a_busy_loop_is_throttled(
    tmp_path: Path, probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, cpu_millis=200)
    for inmate in made(tmp_path, probe):
        assert inmate.start("burn").wait(timeout=120) == 0
        stats = "".join(
            (group / "cpu.stat").read_text()
            for group in inmate.cell.groups
            if (group / "cpu.stat").exists()
        )
        (throttled,) = re.findall(r"^nr_throttled (\d+)$", stats, re.MULTILINE)
        assert int(throttled) > 0


def test_a_disk_cannot_be_made_longer_than_the_longest(inmate: Inmate) -> None:
    scratch = inmate.cell.disks[1]
    told = dict(inmate.run("grow", str(scratch), str(inmate.cell.jail.limits.file_bytes)))
    assert told == {"inside": "ok", "beyond": "EFBIG"}


def test_two_pods_have_two_identities(inmate: Inmate, tmp_path: Path, probe: Path) -> None:
    (tmp_path / "other").mkdir()
    for other in made(tmp_path / "other", probe):
        assert other.cell.jail.identity.uid != inmate.cell.jail.identity.uid


def test_it_dies_with_its_parent(inmate: Inmate) -> None:
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            inmate.start("wait")
            while not inmate.said():
                time.sleep(0.01)
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert inmate.said() == ["waiting"]
    deadline = time.monotonic() + 60
    while any((group / "cgroup.procs").read_text() for group in inmate.cell.groups):
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.01)


def small(monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
    """Make the limits of the next cell smaller."""
    usual = cell_module.limits_of_machine

    def fewer(*sizes: int, disk_bytes: int, emulated: bool) -> Limits:
        plain = usual(*sizes, disk_bytes=disk_bytes, emulated=emulated)
        return msgspec.structs.replace(plain, **limits)

    monkeypatch.setattr(cell_module, "limits_of_machine", fewer)
