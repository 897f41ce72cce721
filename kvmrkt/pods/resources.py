"""The list of what a pod holds on the host, kept so that anyone can clean up after a dead pod.

`resources.json` in the pod's directory, replaced as a whole before a thing is made and after it
is gone. A process has no name before it starts: it is written down at once after the start, and
the kernel ends it with its parent (PDEATHSIG) in the moment between.

Releasing is idempotent: what is already gone counts as released.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.boot import boot_id
from kvmrkt.errors import HostError
from kvmrkt.faults import reach
from kvmrkt.paths import RUNTIME, runtime_pod_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmrkt.pods.directory import PodDirectory

_FILE = "resources.json"
_PROC = Path("/proc")


class ProcessName(msgspec.Struct, frozen=True):
    """A process beyond doubt: IDs are reused, the start time and the boot are not.

    `start_ticks` is field 22 of /proc/PID/stat, clock ticks since boot (proc(5)).
    """

    pid: int
    start_ticks: int
    boot_id: str


class Resource(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing on the host: `kind` says how it is released, `name` which one it is."""

    kind: str
    name: str
    process: ProcessName | None = None


class _Document(msgspec.Struct, frozen=True):
    resources: tuple[Resource, ...] = ()


_DECODER = msgspec.json.Decoder(_Document)


class Resources:
    """The resources of one pod, for its supervisor; not to be shared between processes."""

    def __init__(self, pod: PodDirectory) -> None:
        """Read what is already written down."""
        self._pod = pod
        self._list = list(load(pod))

    def record(self, kind: str, name: str) -> Resource:
        """Write a thing down; call this before making it. Kinds: `run-dir`, `mount`, …."""
        return self._add(Resource(kind, name))

    def record_run_dir(self) -> Path:
        """Write down and make the pod's folder for sockets, which is returned."""
        path = runtime_pod_dir(self._pod.uuid)
        self.record("run-dir", os.fspath(path))
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        reach("run-dir-made")
        return path

    def record_process(self, pid: int, program: str) -> Resource:
        """Write a child process down, at once after its start."""
        stat = start_ticks(pid)
        if stat is None:
            raise HostError(f"cannot read the start time of {program} (process {pid}): it is gone")
        return self._add(Resource("process", program, ProcessName(pid, stat, boot_id())))

    def forget(self, resource: Resource) -> None:
        """Strike a thing out after it is gone; unknown things are ignored."""
        if resource in self._list:
            self._list.remove(resource)
            self._write()

    def _add(self, resource: Resource) -> Resource:
        if resource not in self._list:
            self._list.append(resource)
            self._write()
            reach("resource-recorded")
        return resource

    def _write(self) -> None:
        document = msgspec.json.encode(_Document(tuple(self._list)))
        self._pod.write_file(_FILE, msgspec.json.format(document) + b"\n")


def load(pod: PodDirectory) -> tuple[Resource, ...]:
    """What is written down; a damaged file, as a power cut may leave, counts as empty.

    After a power cut nothing that could be listed is left but files below the pod itself.
    """
    text = pod.read_file(_FILE)
    if not text:
        return ()
    try:
        return _DECODER.decode(text).resources
    except msgspec.MsgspecError:
        return ()


def release_all(pod: PodDirectory) -> None:
    """Release everything, last made first, and strike it out; raises HostError if something stays.

    The pod's folder under the runtime directory goes too, listed or not.
    """
    listed = Resources(pod)
    failures: list[str] = []
    for resource in reversed(load(pod)):
        try:
            _release(pod, resource)
        except (HostError, OSError) as error:
            failures.append(f"{resource.kind} {resource.name}: {error}")
        else:
            reach("resource-released")
            listed.forget(resource)
    if not failures and runtime_pod_dir(pod.uuid).exists():
        _release_run_dir(pod, Resource("run-dir", os.fspath(runtime_pod_dir(pod.uuid))))
    if failures:
        raise HostError(
            f'cannot release what pod "{pod.uuid}" holds on the host: {failures[0]}',
            details="\n".join(failures[1:]) or None,
            hint=f"it is listed in {pod.path / _FILE}; the next gc tries again",
        )


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none of this ID."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in field 2 may hold blanks and parentheses: count from the last one.
    return int(text[text.rindex(b")") + 2 :].split()[19])


def _release(pod: PodDirectory, resource: Resource) -> None:
    try:
        release = _RELEASE[resource.kind]
    except KeyError:
        raise HostError("no way to release this kind is known: a newer kvmrkt made it") from None
    release(pod, resource)


def _release_process(_pod: PodDirectory, resource: Resource) -> None:
    from kvmrkt.pods.leftovers import kill_process

    process = resource.process
    if process is not None and process.boot_id == boot_id():
        kill_process(process.pid, process.start_ticks)


def _release_run_dir(pod: PodDirectory, resource: Resource) -> None:
    from kvmrkt.pods.leftovers import remove_tree

    path = Path(resource.name)
    if path != runtime_pod_dir(pod.uuid):
        raise HostError(f"{path} is not the pod's folder below {RUNTIME}")
    remove_tree(path)


def _release_mount(_pod: PodDirectory, resource: Resource) -> None:
    from kvmrkt.pods.leftovers import unmount_below

    unmount_below(Path(resource.name))


def _release_network(pod: PodDirectory, resource: Resource) -> None:
    from kvmrkt.net.release import release

    release(resource.kind, resource.name, pod.uuid)


def _release_chain(pod: PodDirectory, resource: Resource) -> None:
    from kvmrkt.net.cni.calls import delete

    delete(pod, resource.name)


def _release_cgroup(pod: PodDirectory, resource: Resource) -> None:
    from kvmrkt.stage1.kvm.jail.cgroups import PARENT, remove_group

    path = Path(resource.name)
    if path.parts[-2:] != (PARENT, pod.uuid):
        raise HostError(f"{path} is not a control group of the pod's")
    remove_group(path)


_RELEASE: dict[str, Callable[[PodDirectory, Resource], None]] = {
    "process": _release_process,
    "run-dir": _release_run_dir,
    "mount": _release_mount,
    "cni": _release_chain,
    "netns": _release_network,
    "lease": _release_network,
    "link": _release_network,
    "bridge": _release_network,
    "rules": _release_network,
    "cgroup": _release_cgroup,
}
