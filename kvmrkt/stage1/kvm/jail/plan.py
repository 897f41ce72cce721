"""What a jailed process has: pure, from the machine to a list of files, limits and an identity."""

from __future__ import annotations

from pathlib import Path

import msgspec

MIB = 1 << 20
_OVERHEAD_BYTES = 512 * MIB
"""QEMU itself: 50 MiB were measured for an idle pod; device rings and threads come on top."""
_TRANSLATION_BYTES = 1024 * MIB
"""Under emulation: QEMU's buffer for translated code grows to this (accel/tcg, `tb-size`)."""
_THREADS = 256
"""QEMU has one for each processor, and up to 64 for disks."""
_OPEN_FILES = 1024
_CPU_SHARE_OF_DEVICES = 1000
"""Thousandths of a processor, beside the guest's own, for QEMU's devices and disks."""


class Bind(msgspec.Struct, frozen=True):
    """A file of the host that the jail shows, read-only; a device can be opened for writing."""

    source: Path
    target: Path


class Limits(msgspec.Struct, frozen=True):
    """What the process and its children may use of the host together."""

    memory_bytes: int
    threads: int
    cpu_millis: int
    file_bytes: int
    """No file, wherever it is, may become longer than the longest disk."""
    open_files: int = _OPEN_FILES


class Identity(msgspec.Struct, frozen=True):
    """Who the process is on the host."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    """For a device file that only a group may open."""
    capabilities: tuple[int, ...] = ()
    """Those it can have at all; only user 0 gets them."""


class Jail(msgspec.Struct, frozen=True):
    """A root of its own in namespaces of its own."""

    root: Path
    """An empty folder of the host to build it in: what is mounted there only the jail sees."""
    files: tuple[Bind, ...]
    identity: Identity
    limits: Limits
    filter: bytes = b""
    """A seccomp filter, as an array of `struct sock_filter`."""
    volumes: Path | None = None
    """A tree of mounts, made in the jail's own mount namespace; it keeps its path."""


def limits_of_machine(memory_bytes: int, cpus: int, *, disk_bytes: int, emulated: bool) -> Limits:
    """For the QEMU of a machine of this size: what it can need, and not what a bomb would."""
    translation = _TRANSLATION_BYTES if emulated else 0
    return Limits(
        memory_bytes=memory_bytes + _OVERHEAD_BYTES + translation,
        threads=_THREADS + cpus,
        cpu_millis=cpus * 1000 + _CPU_SHARE_OF_DEVICES,
        file_bytes=max(disk_bytes, memory_bytes),  # a memfd is a file as well
    )
