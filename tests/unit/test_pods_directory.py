from __future__ import annotations

import os
import re
import signal
import threading
from typing import TYPE_CHECKING

import pytest
from pods_on_disk import fabricate

from kvmrkt.errors import PodError, PodNotFoundError
from kvmrkt.paths import DataDir
from kvmrkt.pods import gc
from kvmrkt.pods.directory import PodDirectory, new_uuid
from kvmrkt.pods.lookup import find_pod, is_uuid, listed_pods, walk
from kvmrkt.pods.records import AppRecord
from kvmrkt.pods.states import PodState, Section, state_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path)


@pytest.mark.parametrize(
    ("section", "locked", "unlocked"),
    [
        ("embryo", "embryo", "embryo"),
        ("prepare", "preparing", "aborted prepare"),
        ("prepared", "prepared", "prepared"),
        ("run", "running", "exited"),
        ("exited-garbage", "exited deleting", "exited garbage"),
        ("garbage", "deleting", "garbage"),
    ],
)
def test_states_are_rkts(section: str, locked: str, unlocked: str) -> None:
    assert state_of(Section(section), locked=True) == locked
    assert state_of(Section(section), locked=False) == unlocked


def test_a_life(data: DataDir) -> None:
    pod = PodDirectory.create(data)
    assert pod.state() is PodState.EMBRYO
    assert pod.path.stat().st_mode & 0o777 == 0o750
    pod.to_prepare()
    assert pod.state() is PodState.PREPARING
    pod.to_run()
    assert pod.state() is PodState.RUNNING
    assert pod.path == data.pods / "run" / pod.uuid
    pod.unlock()
    assert pod.state() is PodState.EXITED


def test_prepared_gives_the_lock_back_and_can_be_run_later(data: DataDir) -> None:
    pod = PodDirectory.create(data)
    pod.to_prepare()
    pod.to_prepared()
    assert pod.lock_fd is None
    later = find_pod(data, pod.uuid)
    assert later.state() is PodState.PREPARED
    assert later.lock()
    later.to_run()
    assert find_pod(data, pod.uuid).state() is PodState.RUNNING
    later.unlock()


def test_an_aborted_preparation(data: DataDir) -> None:
    pod = PodDirectory.create(data)
    pod.to_prepare()
    pod.unlock()
    assert pod.state() is PodState.ABORTED_PREPARE


def test_the_state_survives_no_holder_of_the_lock(data: DataDir) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        pod = PodDirectory.create(data)
        pod.to_prepare()
        pod.to_run()
        os.write(writer, pod.uuid.encode())
        signal.pause()
    uuid = os.read(reader, 100).decode()
    pod = find_pod(data, uuid)
    assert pod.state() is PodState.RUNNING
    assert not pod.lock()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    assert pod.state() is PodState.EXITED


def test_create_outlives_a_gc_between_mkdir_and_lock(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = PodDirectory._make_directory
    calls = []

    def make_then_collect(pod: PodDirectory) -> None:
        make(pod)
        calls.append(pod.uuid)
        if len(calls) == 1:
            gc.mark(data, lambda step, uuid, error=None: None)
            assert not pod.path.exists()

    monkeypatch.setattr(PodDirectory, "_make_directory", make_then_collect)
    pod = PodDirectory.create(data)
    assert len(calls) == 2
    assert pod.path.is_dir()
    pod.unlock()


def test_create_says_where_it_failed(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(PodError, match="cannot make a pod in .*Not a directory"):
        PodDirectory.create(DataDir(blocked))


def test_a_lost_race_of_moves_is_no_error(data: DataDir) -> None:
    pod = fabricate(data, Section.RUN)
    other = PodDirectory(data, Section.RUN, pod.uuid)
    assert pod.move_if_there(Section.EXITED_GARBAGE)
    assert not other.move_if_there(Section.EXITED_GARBAGE)


def test_a_required_move_of_a_pod_that_is_gone(data: DataDir) -> None:
    pod = fabricate(data, Section.PREPARE)
    pod.path.rmdir()
    with pytest.raises(PodNotFoundError, match="it is gone from prepare"):
        pod.to_run()


def test_state_follows_a_pod_that_moved(data: DataDir) -> None:
    pod = fabricate(data, Section.RUN)
    PodDirectory(data, Section.RUN, pod.uuid).move_if_there(Section.EXITED_GARBAGE)
    assert pod.state() is PodState.EXITED_GARBAGE
    assert pod.section is Section.EXITED_GARBAGE


def test_state_of_a_deleted_pod(data: DataDir) -> None:
    pod = fabricate(data, Section.RUN)
    pod.path.rmdir()
    with pytest.raises(PodNotFoundError, match="no matches found"):
        pod.state()


def test_a_lock_taken_on_a_moved_directory_is_refused(data: DataDir) -> None:
    pod = fabricate(data, Section.PREPARED)
    PodDirectory(data, Section.PREPARED, pod.uuid).move_if_there(Section.GARBAGE)
    assert not pod.lock()
    assert pod.lock_fd is None


def test_lock_is_patient_with_those_who_only_look(data: DataDir) -> None:
    import fcntl

    pod = fabricate(data, Section.PREPARED)
    fd = os.open(pod.path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    timer = threading.Timer(0.02, os.close, [fd])
    timer.start()
    assert pod.lock()
    timer.join()
    pod.unlock()


def test_waiting_for_the_end(data: DataDir) -> None:
    pod = PodDirectory.create(data)
    pod.to_prepare()
    watcher = PodDirectory(data, Section.EMBRYO, pod.uuid)  # looked before it moved
    pod.to_run()
    ended = threading.Thread(target=watcher.wait_unlocked)
    ended.start()
    ended.join(0.05)
    assert ended.is_alive()
    pod.unlock()
    ended.join(5)
    assert not ended.is_alive()


def test_waiting_for_a_deleted_pod_ends(data: DataDir) -> None:
    pod = fabricate(data, Section.RUN)
    pod.path.rmdir()
    pod.wait_unlocked()


A = "aaaa0000-0000-4000-8000-000000000000"
B = "aaaabbbb-0000-4000-8000-000000000000"
C = "cccc0000-0000-4000-8000-000000000000"


def test_a_unique_prefix_is_enough_in_any_case(data: DataDir) -> None:
    fabricate(data, Section.RUN, A)
    fabricate(data, Section.PREPARED, B)
    assert find_pod(data, "AAAAB").uuid == B
    assert find_pod(data, f" {A}\n").uuid == A


def test_several_matches_are_listed(data: DataDir) -> None:
    fabricate(data, Section.RUN, A)
    fabricate(data, Section.PREPARED, B)
    with pytest.raises(PodNotFoundError, match=r"^ambiguous uuid, 2 matches$") as caught:
        find_pod(data, "aaaa")
    assert caught.value.hint == f"they are {A}, {B}"


@pytest.mark.parametrize("prefix", ["b", "/", "..", "aaaa0000-0000-4000-8000-000000000000x"])
def test_no_match(data: DataDir, prefix: str) -> None:
    fabricate(data, Section.RUN, A)
    with pytest.raises(PodNotFoundError, match=f'^no matches found for "{re.escape(prefix)}"$'):
        find_pod(data, prefix)


@pytest.mark.parametrize("prefix", ["", " ", "\n"])
def test_an_empty_uuid(data: DataDir, prefix: str) -> None:
    with pytest.raises(PodNotFoundError, match="^UUID cannot be empty$"):
        find_pod(data, prefix)


def test_garbage_and_embryos_are_not_found(data: DataDir) -> None:
    fabricate(data, Section.GARBAGE, A)
    fabricate(data, Section.EMBRYO, C)
    with pytest.raises(PodNotFoundError):
        find_pod(data, "a")
    assert listed_pods(data) == []


def test_list_is_in_rkts_order(data: DataDir) -> None:
    for section, uuid in (
        (Section.PREPARED, A),
        (Section.EXITED_GARBAGE, B),
        (Section.RUN, C),
    ):
        fabricate(data, section, uuid)
    assert [pod.uuid for pod in listed_pods(data)] == [C, B, A]


def test_a_pod_seen_in_two_sections_is_listed_once(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it moves while the sections are read."""
    fabricate(data, Section.PREPARE, A)
    fabricate(data, Section.RUN, A)
    assert [pod.section for pod in listed_pods(data)] == [Section.RUN]
    assert find_pod(data, A).section is Section.RUN


def test_walk_passes_over_what_is_no_pod(data: DataDir) -> None:
    fabricate(data, Section.RUN, A)
    (data.pods / "run" / "lost+found").mkdir()
    assert [pod.uuid for pod in walk(data)] == [A]


def test_a_host_that_never_ran_a_pod(data: DataDir) -> None:
    assert list(walk(data)) == []


def test_new_uuids() -> None:
    uuids = {new_uuid() for _ in range(200)}
    assert len(uuids) == 200
    assert all(is_uuid(uuid) for uuid in uuids)
    assert all(re.fullmatch(r".{14}4.{4}[89ab].{16}", uuid) for uuid in uuids)


def test_files(data: DataDir) -> None:
    pod = fabricate(data, Section.RUN)
    assert pod.read_file("pod") is None
    assert pod.read_pid() is None
    assert pod.file_time_ns("pid") is None
    assert pod.read_app_record("app") is None
    pod.write_pod_manifest(b"{}")
    pod.write_pid(42)
    pod.write_exit(7)
    record = AppRecord(code=7, started_ns=1, finished_ns=2)
    pod.write_app_record("app", record)
    assert pod.read_pod_manifest() == b"{}"
    assert pod.read_pid() == 42
    assert pod.read_file("exit") == b"7\n"
    assert pod.read_app_record("app") == record
    left = {str(path.relative_to(pod.path)) for path in pod.path.rglob("*") if path.is_file()}
    assert left == {"pod", "pid", "exit", "status/app"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"code":"x"}', b"\xff"])
def test_damaged_records_read_as_missing(data: DataDir, content: bytes) -> None:
    pod = fabricate(data, Section.RUN)
    pod.write_file("status/app", content)
    pod.write_file("pid", content)
    assert pod.read_app_record("app") is None
    assert pod.read_pid() is None


def test_a_crash_while_writing_leaves_the_old_file(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = fabricate(data, Section.RUN)
    pod.write_file("resources.json", b"old")

    def crash(fd: int, content: bytes) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", crash)
    with pytest.raises(KeyboardInterrupt):
        pod.write_file("resources.json", b"new")
    assert pod.read_file("resources.json") == b"old"
