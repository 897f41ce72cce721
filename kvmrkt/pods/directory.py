"""A pod's directory: its place and its lock are the pod's state.

`pods/SECTION/UUID`. Whoever prepares, runs or deletes a pod holds an exclusive flock(2) on the
directory itself, so that the kernel gives it back however the holder ends.

On durability: a killed process loses nothing it wrote, so files are written under a temporary
name and renamed, without fsync. A power cut ends every pod, and one found in an earlier folder
than it had reached is cleaned up from there all the same. So only moves outside a start, which
promise something to a person (`prepared`, and what gc decides), are flushed, by one fsync of the
folder moved to; on the way to `run` it would cost a start up to 100 ms (measured) for nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kvmrkt.errors import PodError, PodNotFoundError, describe
from kvmrkt.faults import reach
from kvmrkt.pods.locks import is_locked, lock_exclusively, wait_unlocked
from kvmrkt.pods.records import AppRecord, decode_app_record, encode_app_record
from kvmrkt.pods.states import PodState, Section, state_of

if TYPE_CHECKING:
    from kvmrkt.paths import DataDir

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE_ATTEMPTS = 20
_PAUSE_SECONDS = 0.002


class PodDirectory:
    """One pod on disk; `section` is where it was when last looked at or moved."""

    __slots__ = ("data", "lock_fd", "section", "uuid")

    def __init__(self, data: DataDir, section: Section, uuid: str) -> None:
        """Name a pod's directory without touching it."""
        self.data = data
        self.section = section
        self.uuid = uuid
        self.lock_fd: int | None = None

    @classmethod
    def create(cls, data: DataDir) -> PodDirectory:
        """Make a new pod in `embryo` with its exclusive lock held; raises PodError."""
        pod = cls(data, Section.EMBRYO, new_uuid())
        try:
            for _ in range(_CREATE_ATTEMPTS):
                pod._make_directory()
                reach("pod-made")
                # A gc that ran between mkdir and flock took the embryo for an abandoned one.
                if pod.lock():
                    reach("pod-locked")
                    pod.write_file("pod-created", b"")
                    return pod
                time.sleep(_PAUSE_SECONDS)
        except OSError as error:
            raise PodError(
                f"cannot make a pod in {data.pods}: {describe(error)}",
                hint="run as root, or choose another data directory with --dir",
            ) from error
        raise PodError(f"cannot make a pod in {data.pods}: it was removed at once, repeatedly")

    @property
    def path(self) -> Path:
        """The directory, as far as this object knows."""
        return Path(self.data.pod(self.section, self.uuid))

    def __repr__(self) -> str:
        """Where it is, for a debugger."""
        return f"PodDirectory({os.fspath(self.path)!r})"

    # -- lock and state ------------------------------------------------------------------------

    def lock(self) -> bool:
        """Take the exclusive lock; False when another process holds it or the pod has moved on.

        Not for a pod in `run`, where the lock says that the pod runs: only who moves it there
        holds it, and keeps it for the pod's life.
        """
        try:
            fd = os.open(self.path, _DIRECTORY_FLAGS)
        except FileNotFoundError:
            return False
        if lock_exclusively(fd) and _same_directory(fd, self.path):
            self.lock_fd = fd
            return True
        os.close(fd)
        return False

    def unlock(self) -> None:
        """Give the lock back, if held."""
        if self.lock_fd is not None:
            fd, self.lock_fd = self.lock_fd, None
            os.close(fd)

    def wait_unlocked(self) -> None:
        """Return once nobody holds the exclusive lock: for a running pod, when it has ended."""
        while True:
            try:
                fd = os.open(self.path, _DIRECTORY_FLAGS)
            except FileNotFoundError:
                if not self._follow():
                    return  # deleted
                continue
            try:
                wait_unlocked(fd)
            finally:
                os.close(fd)
            return

    def state(self) -> PodState:
        """The state now; follows the pod to a later section, PodNotFoundError if it is gone."""
        fd, state = self.open()
        os.close(fd)
        return state

    def open(self) -> tuple[int, PodState]:
        """The directory, open for reading what is in it, and the state now; errors as `state`."""
        while True:
            place = self.data.pod(self.section, self.uuid)
            try:
                fd = os.open(place, _DIRECTORY_FLAGS)
            except FileNotFoundError:
                if not self._follow():
                    raise PodNotFoundError(f'no matches found for "{self.uuid}"') from None
                continue
            state = state_of(self.section, locked=is_locked(fd))
            if state is not PodState.ABORTED_PREPARE or self.is_there():
                return fd, state
            os.close(fd)  # it moved on, and has come to its end, since it was opened

    def is_there(self) -> bool:
        """Whether the directory is where it was when last looked at or moved."""
        return os.access(self.data.pod(self.section, self.uuid), os.F_OK)

    def _follow(self) -> bool:
        for section in Section:
            if Path(self.data.pod(section, self.uuid)).is_dir():
                self.section = section
                return True
        return False

    # -- moves ---------------------------------------------------------------------------------

    def to_prepare(self) -> None:
        """embryo -> prepare, the lock stays held."""
        self._move(Section.PREPARE)  # nothing is promised yet: no fsync

    def to_prepared(self) -> None:
        """prepare -> prepared, and unlock: the pod waits for `run-prepared`."""
        self._move(Section.PREPARED)
        _sync_directory(self.path.parent)
        self.unlock()

    def to_run(self) -> None:
        """prepare or prepared -> run, the lock stays held for the life of the pod."""
        self._move(Section.RUN)

    def to_garbage(self) -> None:
        """Out of sight, the lock stays held: the pod is about to be deleted."""
        self._move(Section.GARBAGE)

    def move_if_there(self, target: Section) -> bool:
        """Move, and say whether this call did it: False when another process was faster."""
        try:
            self._move(target)
        except PodNotFoundError:
            return False
        _sync_directory(self.path.parent)
        return True

    def _move(self, target: Section) -> None:
        goal = self.data.pods / target / self.uuid
        for last in (False, True):
            try:
                self.path.rename(goal)
            except FileNotFoundError as error:
                if last or not self.path.exists():
                    raise PodNotFoundError(
                        f'cannot move pod "{self.uuid}" to {target}: it is gone from {self.section}'
                    ) from error
                make_sections(self.data)
            else:
                self.section = target
                reach("pod-moved")
                return

    def _make_directory(self) -> None:
        try:
            self.path.mkdir(0o750)
        except FileNotFoundError:
            make_sections(self.data)
            self.path.mkdir(0o750, exist_ok=True)
        except FileExistsError:
            pass

    # -- files ---------------------------------------------------------------------------------

    def write_file(self, name: str, content: bytes, mode: int = 0o640) -> None:
        """Write a file of the pod as a whole, or not at all; makes its folder if needed."""
        target = self.path / name
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(temporary, flags, mode)
        except FileNotFoundError:
            target.parent.mkdir(0o750, exist_ok=True)
            fd = os.open(temporary, flags, mode)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        reach("pod-file-written")
        temporary.rename(target)

    def read_file(self, name: str) -> bytes | None:
        """A file's content, None if it does not exist."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write_pod_manifest(self, manifest: bytes) -> None:
        """Write `pod`, the pod manifest's JSON."""
        self.write_file("pod", manifest)

    def read_pod_manifest(self) -> bytes | None:
        """The pod manifest's JSON, None before it was written."""
        return self.read_file("pod")

    def write_pid(self, pid: int) -> None:
        """Write `pid`, the supervisor; the file's time is the pod's start."""
        self.write_file("pid", b"%d\n" % pid)

    def read_pid(self) -> int | None:
        """The supervisor's process ID, None before the pod started."""
        return parse_number(self.read_file("pid"))

    def write_app_record(self, app: str, record: AppRecord) -> None:
        """Write `status/APP`."""
        self.write_file(f"status/{app}", encode_app_record(record))

    def read_app_record(self, app: str) -> AppRecord | None:
        """`status/APP`, None if the app has not started."""
        text = self.read_file(f"status/{app}")
        return None if text is None else decode_app_record(text)

    def write_exit(self, code: int) -> None:
        """Write `exit`, the exit status of the pod as a whole."""
        self.write_file("exit", b"%d\n" % code)

    def read_exit(self) -> int | None:
        """The exit status of the pod as a whole, None before its end or if nobody wrote it."""
        return parse_number(self.read_file("exit"))

    def write_net_info(self, networks: bytes) -> None:
        """Write `net-info.json`, a list of the pod's networks."""
        self.write_file("net-info.json", networks)

    def read_net_info(self) -> bytes | None:
        """`net-info.json`, None without networks."""
        return self.read_file("net-info.json")

    def file_time_ns(self, name: str) -> int | None:
        """When a file was last written (CLOCK_REALTIME), None if it does not exist."""
        try:
            return (self.path / name).stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None


def parse_number(text: bytes | None) -> int | None:
    """What a file of one number says; None if it says something else, or is missing."""
    return int(text) if text is not None and text.strip().isdigit() else None


def new_uuid() -> str:
    """A random UUID, version 4 (RFC 9562), without the weight of the `uuid` module."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def make_sections(data: DataDir) -> None:
    """Make the folders for pods, with rkt's access rights."""
    for section in Section:
        (data.pods / section).mkdir(mode=0o750, parents=True, exist_ok=True)


def _same_directory(fd: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), path.stat())
    return False


def _sync_directory(path: Path) -> None:
    fd = os.open(path, _DIRECTORY_FLAGS)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
