"""What pods have left on the host, and what a process holds: nothing may grow, nothing may stay."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kvmrkt.paths import RUNTIME
from kvmrkt.stage1.kvm.jail.cgroups import group_folder, host_hierarchies

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def residue(folder: Path, uuids: Iterable[str]) -> list[str]:
    """Everything on the host that has to do with pods of a data directory in `folder`.

    Processes that name it, mounts, sockets, folders below /run, locks on files below it, temporary
    files, links of networks, control groups.
    """
    names = [str(folder), *uuids]
    return [
        *_lines_naming(names, "process", _command_lines()),
        *_lines_naming(names, "mount", _lines("/proc/self/mountinfo")),
        *_lines_naming(names, "socket", _lines("/proc/net/unix")),
        *_lines_naming(names, "network", _lines("/proc/net/dev")),
        *(f"folder {path}" for path in _run_folders(names[1:])),
        *(f"group {path}" for path in _control_groups(names[1:])),
        *_locks_below(folder),
    ]


def files_below(folder: Path) -> list[Path]:
    """Every file of the data directory but those of the image store."""
    return sorted(
        path
        for path in folder.rglob("*")
        if "cas" not in path.parts and not path.is_dir() and path.parent.name != "locks"
    )


class Held(NamedTuple):
    """What this process holds."""

    descriptors: int
    children: int
    memory_bytes: int


def held() -> Held:
    """What this process holds now that rubbish is collected."""
    gc.collect()
    status = Path("/proc/self/status").read_text().splitlines()
    resident = next(line for line in status if line.startswith("VmRSS:"))
    children = [
        child
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return Held(len(os.listdir("/proc/self/fd")), len(children), int(resident.split()[1]) * 1024)


def _lines(file: str) -> list[str]:
    return Path(file).read_text(errors="replace").splitlines()


def _lines_naming(names: list[str], kind: str, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if any(name in line for name in names):
            yield f"{kind} {line}"


def _command_lines() -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield f"{entry.name} {command.replace(bytes(1), b' ').decode(errors='replace')}"


def _control_groups(uuids: list[str]) -> Iterator[Path]:
    for hierarchy in host_hierarchies():
        yield from (path for uuid in uuids if (path := group_folder(hierarchy, uuid)).exists())


def _run_folders(uuids: list[str]) -> Iterator[Path]:
    present = {path.name: path for path in (RUNTIME / "pods").glob("*")}
    for uuid in uuids:
        if uuid in present:
            yield present[uuid]


def _locks_below(folder: Path) -> Iterator[str]:
    inodes = {os.lstat(path).st_ino: path for path in (folder, *folder.rglob("*"))}
    for line in _lines("/proc/locks"):
        inode = int(line.split()[-3].rpartition(":")[2])
        if inode in inodes and " -> " not in line:
            yield f"lock {inodes[inode]}: {line}"
