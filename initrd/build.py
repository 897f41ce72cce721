#!/usr/bin/env python3
"""Build the initrd: the agent as ``/init`` in a deterministic cpio archive.

``build.py --agent FILE --output FILE`` writes the archive; the same agent gives the same bytes.
Without ``--agent`` the agent is built first with cargo (``CARGO_TARGET_DIR`` is honoured). It
prints both sizes and fails when one is over its limit, since a boot pays for every byte it copies.

The archive is uncompressed "newc" (the kernel's driver-api/early-userspace/buffer-format.rst):
unpacking costs an emulated processor more than reading.
"""

from __future__ import annotations

import argparse
import os
import stat
import subprocess  # the build has no part in the kvmrkt package and its door for processes
import sys
from dataclasses import dataclass
from pathlib import Path

AGENT_LIMIT_BYTES = 900_000
INITRD_LIMIT_BYTES = 1_500_000
SOURCE = Path(__file__).resolve().parent / "agent"

DIRECTORY = stat.S_IFDIR | 0o755
PROGRAM = stat.S_IFREG | 0o755
CONSOLE = stat.S_IFCHR | 0o600
TRAILER = "TRAILER!!!"
BLOCK_BYTES = 512


@dataclass(frozen=True)
class Entry:
    """One file of the archive; ``device`` is major and minor number."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def entries(agent: bytes) -> list[Entry]:
    """What the initrd holds, in the order of the archive.

    ``/base`` is where the agent assembles its root; the kernel opens ``/dev/console`` before it
    starts the agent, so that a panic message has somewhere to go.
    """
    return [
        Entry("base", DIRECTORY),
        Entry("dev", DIRECTORY),
        Entry("dev/console", CONSOLE, device=(5, 1)),
        Entry("init", PROGRAM, agent),
        Entry("proc", DIRECTORY),
        Entry("sys", DIRECTORY),
    ]


def _padded(data: bytes, to_bytes: int) -> bytes:
    return data + bytes(-len(data) % to_bytes)


def _record(entry: Entry, inode: int) -> bytes:
    """Header, name and content of one entry: owner root, time 0."""
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        links,
        0,  # mtime
        len(entry.content),
        0,  # device the file is on, major
        0,  # and minor
        *entry.device,
        len(name),
        0,  # checksum, unused in this format
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name, 4) + _padded(entry.content, 4)


def archive(agent: bytes) -> bytes:
    """The whole archive for one agent."""
    records = [_record(entry, number) for number, entry in enumerate(entries(agent), start=1)]
    records.append(_record(Entry(TRAILER, 0), 0))
    return _padded(b"".join(records), BLOCK_BYTES)


def build_agent() -> Path:
    """Compile the agent and return its path."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", SOURCE / "target"))
    command = ["cargo", "build", "--release", "--locked"]
    subprocess.run(command, cwd=SOURCE, check=True)
    return target / "release" / "kvmrkt-agent"


def _within(what: str, size_bytes: int, limit_bytes: int) -> bool:
    sys.stdout.write(f"{what}: {size_bytes} bytes (limit {limit_bytes})\n")
    return size_bytes <= limit_bytes


def main() -> int:
    """Write the initrd; 1 when a size is over its limit."""
    parser = argparse.ArgumentParser(description="Build the guest's initrd.")
    parser.add_argument("--agent", type=Path, help="the compiled agent; built when not given")
    parser.add_argument("--output", type=Path, required=True, help="the initrd to write")
    arguments = parser.parse_args()
    agent = (arguments.agent or build_agent()).read_bytes()
    initrd = archive(agent)
    good = _within("agent", len(agent), AGENT_LIMIT_BYTES)
    good = _within("initrd", len(initrd), INITRD_LIMIT_BYTES) and good
    if not good:
        sys.stderr.write("initrd/build.py: a size is over its limit; nothing was written\n")
        return 1
    output: Path = arguments.output
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    temporary.write_bytes(initrd)
    temporary.replace(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
