from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from pods_on_disk import fabricate

import kvmrkt.paths
from kvmrkt.boot import boot_id
from kvmrkt.errors import HostError
from kvmrkt.paths import DataDir
from kvmrkt.pods import leftovers, resources
from kvmrkt.pods.resources import (
    ProcessName,
    Resource,
    Resources,
    load,
    release_all,
    start_ticks,
)
from kvmrkt.pods.states import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmrkt.pods.directory import PodDirectory


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    runtime = tmp_path / "runtime"
    monkeypatch.setattr(kvmrkt.paths, "RUNTIME", runtime)
    return runtime


@pytest.fixture
def pod(tmp_path: Path) -> PodDirectory:
    return fabricate(DataDir(tmp_path), Section.RUN)


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A child process that leads its own group."""
    child = os.fork()
    if child == 0:
        os.setsid()
        while True:
            time.sleep(60)
    while os.getpgid(child) != child:
        time.sleep(0.001)
    yield child
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def ended_by(child: int) -> int | None:
    """The signal that ended the child, None if it lives."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.WTERMSIG(status) if pid else None


def put(pod: PodDirectory, *listed: Resource) -> None:
    pod.write_file("resources.json", msgspec.json.encode({"resources": listed}))


def test_the_folder_is_written_down_before_it_is_made(
    pod: PodDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(Path, "mkdir", lambda *_args, **_more: seen.append(load(pod)))
    path = Resources(pod).record_run_dir()
    assert seen == [(Resource("run-dir", str(path)),)]


def test_record_and_forget_survive_the_process(pod: PodDirectory) -> None:
    listed = Resources(pod)
    first = listed.record("mount", "/a")
    listed.record("mount", "/b")
    listed.record("mount", "/a")
    listed.forget(first)
    listed.forget(first)
    assert load(pod) == (Resource("mount", "/b"),)
    assert Resources(pod).record("mount", "/c") in load(pod)
    assert len(load(pod)) == 2


def test_a_process_is_known_by_its_start_time_and_boot(pod: PodDirectory, sleeper: int) -> None:
    recorded = Resources(pod).record_process(sleeper, "sleeper")
    assert recorded.process == ProcessName(sleeper, start_ticks(sleeper) or -1, boot_id())
    assert load(pod) == (recorded,)


def test_a_process_that_is_gone_cannot_be_recorded(pod: PodDirectory) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(HostError, match="it is gone"):
        Resources(pod).record_process(child, "x")


def test_release_kills_and_deletes(pod: PodDirectory, sleeper: int, runtime: Path) -> None:
    listed = Resources(pod)
    path = listed.record_run_dir()
    (path / "socket").write_text("")
    listed.record_process(sleeper, "sleeper")
    release_all(pod)
    assert ended_by(sleeper) == signal.SIGKILL
    assert not path.exists()
    assert runtime.exists()
    assert load(pod) == ()
    release_all(pod)


def test_release_kills_the_whole_group(pod: PodDirectory) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(reader)
        os.fork()
        os.write(writer, b"x")
        while True:
            time.sleep(60)
    os.close(writer)
    assert len(os.read(reader, 1) + os.read(reader, 1)) == 2
    Resources(pod).record_process(child, "parent and child")
    release_all(pod)
    assert os.read(reader, 1) == b""  # nobody holds the other end any more
    os.close(reader)
    os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("ticks_off", "boot"), [(1, None), (-1, None), (0, "00000000-another-boot")]
)
def test_a_reused_process_id_is_left_alone(
    pod: PodDirectory, sleeper: int, ticks_off: int, boot: str | None
) -> None:
    ticks = (start_ticks(sleeper) or 0) + ticks_off
    put(pod, Resource("process", "qemu", ProcessName(sleeper, ticks, boot or boot_id())))
    release_all(pod)
    assert ended_by(sleeper) is None
    assert load(pod) == ()


def test_a_process_that_has_ended_is_released(pod: PodDirectory, sleeper: int) -> None:
    Resources(pod).record_process(sleeper, "sleeper")
    os.kill(sleeper, signal.SIGKILL)
    os.waitpid(sleeper, 0)
    release_all(pod)
    assert load(pod) == ()


def test_a_process_that_does_not_end_is_reported_and_kept(
    pod: PodDirectory, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Resources(pod).record_process(sleeper, "qemu")
    monkeypatch.setattr(leftovers, "_KILL_DEADLINE_MILLISECONDS", 10)
    monkeypatch.setattr(os, "killpg", lambda *_: None)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)
    with pytest.raises(HostError, match=f"process {sleeper} does not end after SIGKILL"):
        release_all(pod)
    assert len(load(pod)) == 1


def test_only_the_pods_own_folder_is_deleted(pod: PodDirectory, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    put(pod, Resource("run-dir", str(precious)))
    with pytest.raises(HostError, match="is not the pod's folder"):
        release_all(pod)
    assert precious.is_dir()


def test_one_failure_does_not_keep_the_rest(pod: PodDirectory, sleeper: int) -> None:
    recorded = Resources(pod).record_process(sleeper, "sleeper")
    unknown = Resource("wormhole", "w0")
    put(pod, unknown, recorded)
    with pytest.raises(HostError, match="wormhole w0: no way to release this kind is known"):
        release_all(pod)
    assert ended_by(sleeper) == signal.SIGKILL
    assert load(pod) == (unknown,)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"resources":[{"kind":1}]}', b"\0" * 99])
def test_a_damaged_list_counts_as_empty(pod: PodDirectory, content: bytes, runtime: Path) -> None:
    pod.write_file("resources.json", content)
    left = runtime / "pods" / pod.uuid
    left.mkdir(parents=True)
    release_all(pod)
    assert load(pod) == ()
    assert not left.exists()


def test_mount_points_are_read_as_the_kernel_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    root = os.path.realpath(tmp_path)
    table.write_text(
        "22 1 8:1 / / rw - ext4 /dev/root rw\n"
        f"23 22 8:1 /x {root}/a rw - ext4 /dev/root rw\n"
        f"24 23 8:1 /x {root}/a/with\\040blank\\134 rw - ext4 /dev/root rw\n"
        f"25 22 8:1 /x {root}/ab rw - ext4 /dev/root rw\n"
        f"26 22 8:1 /x {root}/a/gone//deleted rw - ext4 /dev/root rw\n"
    )
    monkeypatch.setattr(leftovers, "_MOUNTINFO", table)
    assert leftovers.mounts_below(tmp_path / "a") == [
        Path(f"{root}/a"),
        Path(f"{root}/a/with blank\\"),
        Path(f"{root}/a/gone"),
    ]


def test_nothing_is_deleted_below_a_mount_that_stays(
    pod: PodDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Resources(pod).record_run_dir()
    (path / "volumes").mkdir()
    monkeypatch.setattr(leftovers, "mounts_below", lambda _: [path / "volumes"])
    monkeypatch.setattr(leftovers, "_unmount", lambda _: None)
    with pytest.raises(HostError, match="cannot unmount"):
        release_all(pod)
    assert (path / "volumes").is_dir()


def _bind(source: Path, target: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    ms_bind = 4096
    return not libc.mount(bytes(source), bytes(target), None, ms_bind, None)


def test_a_volume_of_the_host_is_unmounted_not_deleted(pod: PodDirectory, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "precious").write_text("data")
    target = Resources(pod).record_run_dir() / "volumes" / "a b"
    target.mkdir(parents=True)
    if not _bind(volume, target):
        pytest.skip("this process may not mount")
    release_all(pod)
    assert not target.exists()
    assert (volume / "precious").read_text() == "data"


def test_field_2_of_stat_may_hold_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "7" / "stat"
    stat.parent.mkdir()
    fields = " ".join(["S", *map(str, range(4, 22)), "12345", "23"])
    stat.write_text(f"7 (a) b (c)) {fields}\n")
    monkeypatch.setattr(resources, "_PROC", tmp_path)
    assert start_ticks(7) == 12345
    assert start_ticks(8) is None
