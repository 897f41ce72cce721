"""Reading the apps' logs: of a pod that has ended, or as they are written.

Everything goes through open descriptors, so that a pod may move on to garbage meanwhile.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import select
from typing import TYPE_CHECKING, NamedTuple

from kvmrkt.errors import PodError
from kvmrkt.pods.logs import FILE_SUFFIX, LOGS_FOLDER, LogRecord, parse_record
from kvmrkt.pods.states import PodState
from kvmrkt.rotation import older

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from kvmrkt.inotify import FolderWatch
    from kvmrkt.pods.directory import PodDirectory

_CHUNK_BYTES = 1 << 18
_LINE_LIMIT_BYTES = 1 << 17
"""Twice what a record may have; what is longer is damage."""
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class Wanted(NamedTuple):
    """Which records to read."""

    apps: frozenset[str] | None = None
    """None for every app."""
    since_ns: int = 0
    """CLOCK_REALTIME."""


class PodLogs:
    """The logs of one pod; a context manager."""

    def __init__(self, pod: PodDirectory, wanted: Wanted) -> None:
        """Open the pod's directory; PodError if it is gone, or may not be read."""
        self._wanted = wanted
        try:
            self._pod, _ = pod.open()
        except OSError as error:
            raise PodError(f'cannot read the logs of pod "{pod.uuid}"') from error
        self._folder: int | None = None
        self._apps: dict[str, _AppFile] = {}

    def __enter__(self) -> PodLogs:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close every file."""
        for app in self._apps.values():
            app.close()
        for fd in (self._pod, self._folder):
            if fd is not None:
                os.close(fd)

    def read(self) -> Iterator[LogRecord]:
        """What has come since the last call, all apps in order of time."""
        self._look_for_apps()
        since_ns = self._wanted.since_ns
        parts = [app.read() for app in self._apps.values()]
        for record in heapq.merge(*parts, key=lambda record: record.time_ns):
            if record.time_ns >= since_ns:
                yield record

    def follow(self, watched: Iterable[int] = ()) -> Iterator[Iterator[LogRecord]]:
        """What is there, then what comes, until the pod has ended and all is read.

        Raises BrokenPipeError when one of the pipes `watched` has lost its reader.
        """
        from kvmrkt.inotify import FolderWatch
        from kvmrkt.pods.holder import open_end_of_lock

        ended = open_end_of_lock(self._pod)
        try:
            with FolderWatch() as changes:
                changes.add(self._pod)
                pipes = frozenset(watched)
                poll = _poll(changes, ended, pipes)
                while True:
                    changes.forget()
                    folder = self._open_folder()
                    if folder is not None:
                        changes.add(folder)
                    over = _is_readable(ended)  # before reading: afterwards nothing is written
                    yield self.read()
                    if over:
                        return
                    if any(fd in pipes for fd, _ in poll.poll()):
                        raise BrokenPipeError
        finally:
            os.close(ended)

    def _open_folder(self) -> int | None:
        if self._folder is None:
            with contextlib.suppress(FileNotFoundError):
                self._folder = os.open(LOGS_FOLDER, _FOLDER_FLAGS, dir_fd=self._pod)
        return self._folder

    def _look_for_apps(self) -> None:
        folder = self._open_folder()
        if folder is None:
            return
        with os.scandir(folder) as entries:
            # in the middle of a rotation there is only the older file
            names = {entry.name.removesuffix(older("")) for entry in entries}
        for name in sorted(names):
            app = name.removesuffix(FILE_SUFFIX)
            wanted = self._wanted.apps is None or app in self._wanted.apps
            if app != name and wanted and app not in self._apps:
                self._apps[app] = _AppFile(folder, name)


def check_has_run(pod: PodDirectory) -> None:
    """Raises PodError for a pod that has no logs yet."""
    if pod.state() in (PodState.PREPARED, PodState.ABORTED_PREPARE):
        raise PodError(f'pod "{pod.uuid}" has no logs: it has not run yet')


def known_apps(pod: PodDirectory, names: Iterable[str] | None) -> frozenset[str] | None:
    """The apps asked for, None for all; PodError for a name that the pod has not."""
    if names is None:
        return None
    from kvmrkt.pods.shown_manifest import read_shown_manifest

    text = pod.read_pod_manifest()
    known = [app.name for app in read_shown_manifest(text).apps] if text is not None else []
    wanted = frozenset(names)
    for name in sorted(wanted.difference(known)):
        raise PodError(
            f'pod "{pod.uuid}" has no app "{name}"', hint="its apps: " + ", ".join(known)
        )
    return wanted


def read_logs(
    pod: PodDirectory, apps: frozenset[str] | None, since_ns: int, follow: bool
) -> Iterator[LogRecord]:
    """The records of a pod as they come, everything closed at the end."""
    with PodLogs(pod, Wanted(apps, since_ns)) as logs:
        if follow:
            for batch in logs.follow():
                yield from batch
        else:
            yield from logs.read()


class _AppFile:
    """The records of one app, from the oldest kept, across rotations."""

    def __init__(self, folder: int, name: str) -> None:
        self._folder = folder
        self._name = name
        self._fd: int | None = None
        self._rest = b""

    def read(self) -> Iterator[LogRecord]:
        """Everything up to the end of the newest file, from where the last call stopped."""
        if self._fd is None:
            self._fd = self._oldest()
        while self._fd is not None:
            yield from self._records(self._fd)
            following = self._following(self._fd)
            if following is None:
                return
            yield from self._records(self._fd)  # what came between the end and the rotation
            os.close(self._fd)
            self._fd, self._rest = following, b""

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def _records(self, fd: int) -> Iterator[LogRecord]:
        while data := os.read(fd, _CHUNK_BYTES):
            *lines, self._rest = (self._rest + data).split(b"\n")
            if len(self._rest) > _LINE_LIMIT_BYTES:
                self._rest = b""
            for line in lines:
                try:
                    record = parse_record(line)
                except ValueError:
                    continue  # half a record: the disk was full, or the host lost power
                yield record

    def _oldest(self) -> int | None:
        newest = self._open(self._name)
        first = self._open(older(self._name))
        if first is None:
            return newest
        if newest is not None:
            os.close(newest)
        return first

    def _following(self, fd: int) -> int | None:
        """The file after this one, None if this is the newest, as it most often is."""
        inode = os.fstat(fd).st_ino
        try:
            if os.stat(self._name, dir_fd=self._folder).st_ino == inode:
                return None
        except FileNotFoundError:
            return None  # a rotation is under way
        full = self._open(older(self._name))
        if full is not None:
            if os.fstat(full).st_ino != inode:
                return full  # this one has been rotated away altogether
            os.close(full)
        return self._open(self._name)

    def _open(self, name: str) -> int | None:
        try:
            return os.open(name, _FILE_FLAGS, dir_fd=self._folder)
        except FileNotFoundError:
            return None


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _poll(changes: FolderWatch, ended: int, pipes: Iterable[int]) -> select.poll:
    poll = select.poll()
    poll.register(changes, select.POLLIN)
    poll.register(ended, select.POLLIN)
    for fd in pipes:
        poll.register(fd, 0)  # errors are told unasked
    return poll
