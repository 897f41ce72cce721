"""What is in an image, told by two readers: kvmrkt's own walker, and mksquashfs' result."""

from __future__ import annotations

import io
import re
import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from kvmrkt.images import tar

_LINE = re.compile(
    rb"(?P<mode>[-dlcbps][-rwxsStT]{9}) (?P<owner>\d+/\d+) +(?P<size>\d+(?:, *\d+)?)"
    rb" (?P<time>[\d-]+ [\d:]+) squashfs-root(?P<name>.*)"
)
_TYPES = {
    tar.REGULAR: stat.S_IFREG, tar.SYMLINK: stat.S_IFLNK, tar.CHARACTER: stat.S_IFCHR,
    tar.BLOCK: stat.S_IFBLK, tar.DIRECTORY: stat.S_IFDIR, tar.FIFO: stat.S_IFIFO,
}  # fmt: skip
Facts = tuple[str, str, str, str]
"""Mode, owner, size or device, time: as unsquashfs prints them."""


def squashfs_listing(tree: Path) -> dict[bytes, Facts]:
    """Path -> facts; a symbolic link's path has ` -> TARGET` after it."""
    lines = subprocess.run(
        ["unsquashfs", "-no-progress", "-UTC", "-llnumeric", tree], capture_output=True, check=True
    ).stdout.splitlines()
    found = {}
    for line in lines:
        if match := _LINE.fullmatch(line):
            mode, owner, size, time = (match[n].decode() for n in ("mode", "owner", "size", "time"))
            if match["name"]:  # the top is mksquashfs' own
                size = "0" if mode.startswith("d") else size.replace(" ", "")
                found[match["name"][1:]] = (mode, owner, size, time)
    return found


def archive_listing(archive: bytes) -> dict[bytes, Facts]:
    """The same, of what the walker says is in an archive."""
    source = tar.FileSource(io.BytesIO(archive))
    members: dict[bytes, tar.Member] = {}
    for entry in tar.walk(source, tar.Limits()):
        headers = tar.FileSource(io.BytesIO(archive[entry.header_at : entry.content_at]))
        member = tar.read_member(headers, tar.Limits())
        if entry.kind == tar.HARD_LINK:
            parts = [part for part in entry.link.split(b"/") if part not in (b"", b".")]
            member = members[b"/".join(parts)]
        members[entry.name] = member
    members.pop(b"", None)
    return {
        name + (b" -> " + m.entry.link if m.entry.kind == tar.SYMLINK else b""): _facts(m)
        for name, m in members.items()
    }


def _facts(member: tar.Member) -> Facts:
    kind = member.entry.kind
    if kind in (tar.CHARACTER, tar.BLOCK):
        size = f"{member.device[0]},{member.device[1]}"
    elif kind == tar.SYMLINK:
        size = str(len(member.entry.link))
    else:
        size = str(member.entry.size_bytes)
    return (
        stat.filemode(_TYPES[kind] | (0o777 if kind == tar.SYMLINK else member.mode)),
        f"{member.uid}/{member.gid}",
        size,
        datetime.fromtimestamp(member.entry.mtime_seconds, UTC).strftime("%Y-%m-%d %H:%M"),
    )
