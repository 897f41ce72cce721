"""What a jail is made of, worked out without one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from kvmrkt.errors import HostError
from kvmrkt.stage1.kvm.jail import cgroups, libraries
from kvmrkt.stage1.kvm.jail.cgroups import Hierarchy, find_hierarchies, settings_of
from kvmrkt.stage1.kvm.jail.plan import MIB, Limits, limits_of_machine
from kvmrkt.stage1.kvm.jail.users import take_uid

UUID = "00000000-0000-4000-8000-000000000002"
LIMITS = Limits(memory_bytes=300 * MIB, threads=200, cpu_millis=1500, file_bytes=1)
V1 = """\
30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
"""
V2 = "35 24 0:31 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
UNIFIED = "36 30 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def test_version_1_has_a_hierarchy_for_each_controller() -> None:
    found = find_hierarchies(V1, {})
    assert [(str(h.mount_point), h.unified, h.controllers) for h in found] == [
        ("/sys/fs/cgroup/cpu,cpuacct", False, ("cpu",)),
        ("/sys/fs/cgroup/memory", False, ("memory",)),
        ("/sys/fs/cgroup/pids", False, ("pids",)),
    ]


def test_version_2_has_one_for_all() -> None:
    found = find_hierarchies(V2, {Path("/sys/fs/cgroup"): "cpuset cpu io memory pids\n"})
    assert found == [Hierarchy(Path("/sys/fs/cgroup"), True, ("memory", "pids", "cpu"))]


def test_a_hybrid_host_has_each_controller_where_it_is() -> None:
    mounts = V1.replace(" - cgroup cgroup rw,pids", " - cgroup cgroup rw,devices") + UNIFIED
    found = find_hierarchies(mounts, {Path("/sys/fs/cgroup/unified"): "pids memory\n"})
    assert [(h.mount_point.name, h.unified, h.controllers) for h in found] == [
        ("cpu,cpuacct", False, ("cpu",)),
        ("memory", False, ("memory",)),
        ("unified", True, ("pids",)),
    ]


def test_a_host_without_controllers_has_none() -> None:
    assert find_hierarchies("36 30 0:32 / / rw - ext4 /dev/vda rw\n" + UNIFIED, {}) == []


def test_the_limits_in_the_words_of_version_2(tmp_path: Path) -> None:
    assert settings_of(LIMITS, Hierarchy(tmp_path, True, ("memory", "pids", "cpu"))) == {
        "memory.max": f"{300 * MIB}", "pids.max": "200", "cpu.max": "150000 100000",
    }  # fmt: skip


def test_the_limits_in_the_words_of_version_1(tmp_path: Path) -> None:
    assert settings_of(LIMITS, Hierarchy(tmp_path, False, ("memory",))) == {
        "memory.limit_in_bytes": f"{300 * MIB}"
    }
    assert settings_of(LIMITS, Hierarchy(tmp_path, False, ("cpu",))) == {
        "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000",
    }  # fmt: skip


def test_a_group_of_version_2_is_handed_its_controllers(tmp_path: Path) -> None:
    hierarchy = Hierarchy(tmp_path, True, ("memory", "cpu"))
    folder = cgroups.make_group(hierarchy, UUID, LIMITS)
    assert folder == tmp_path / "kvmrkt" / UUID
    for above in (tmp_path, tmp_path / "kvmrkt"):
        assert (above / "cgroup.subtree_control").read_text() == "+memory +cpu"
    assert (folder / "memory.max").read_text() == f"{300 * MIB}"


def test_a_group_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "kvmrkt").write_text("in the way")
    with pytest.raises(HostError, match=f"cannot make the control group {tmp_path}/kvmrkt/{UUID}"):
        cgroups.make_group(Hierarchy(tmp_path, False, ("pids",)), UUID, LIMITS)


def test_removing_a_group_that_is_gone_is_fine(tmp_path: Path) -> None:
    cgroups.remove_group(tmp_path / "gone")


def test_a_machine_may_use_its_memory_and_what_qemu_needs_beside_it() -> None:
    size = {"disk_bytes": 8 << 30}
    native = limits_of_machine(256 * MIB, 2, emulated=False, **size)
    emulated = limits_of_machine(256 * MIB, 2, emulated=True, **size)
    assert 256 * MIB < native.memory_bytes < emulated.memory_bytes < 2048 * MIB
    assert native.cpu_millis == 3000
    assert native.file_bytes == 8 << 30


def test_a_user_id_is_taken_once_and_given_back(tmp_path: Path) -> None:
    file = tmp_path / "run" / "uids"
    first = take_uid(file, UUID, first=1000, count=3)
    second = take_uid(file, UUID, first=1000, count=3)
    third = take_uid(file, UUID, first=1000, count=3)
    assert {first.uid, second.uid, third.uid} == {1000, 1001, 1002}
    with pytest.raises(HostError, match="all 3 user IDs from 1000 on are in use"):
        take_uid(file, UUID, first=1000, count=3)
    second.close()
    again = take_uid(file, UUID, first=1000, count=3)
    assert again.uid == second.uid
    for lock in (first, third, again):
        lock.close()


def test_the_locks_of_a_process_that_is_killed_are_free(tmp_path: Path) -> None:
    file = tmp_path / "uids"
    child = os.fork()
    if child == 0:
        take_uid(file, UUID, first=1000, count=1)
        os._exit(9)
    os.waitpid(child, 0)
    take_uid(file, UUID, first=1000, count=1).close()
    assert file.stat().st_size == 0
    assert hasattr(fcntl, "F_OFD_SETLK")


LDD = """\
\tlinux-vdso.so.1 (0x00007ffc1a5f2000)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f1f0d1d5000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1f0cff4000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f1f0d220000)
"""


def test_what_the_loader_would_load() -> None:
    assert libraries.parse_ldd(LDD, Path("/bin/x")) == [
        Path("/lib/x86_64-linux-gnu/libz.so.1"),
        Path("/lib/x86_64-linux-gnu/libc.so.6"),
        Path("/lib64/ld-linux-x86-64.so.2"),
    ]


def test_a_library_that_is_missing_is_named() -> None:
    with pytest.raises(HostError, match=r"/bin/x needs the library libz\.so\.1"):
        libraries.parse_ldd("\tlibz.so.1 => not found\n", Path("/bin/x"))


def test_the_files_of_a_program_are_found_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Path("/bin/sh").resolve()
    files = libraries.files_of(shell, tmp_path)
    assert files[0] == shell
    assert any(file.name == "libc.so.6" for file in files)
    monkeypatch.setattr(libraries, "run", lambda argv: pytest.fail(f"{argv} was run again"))
    assert libraries.files_of(shell, tmp_path) == files
