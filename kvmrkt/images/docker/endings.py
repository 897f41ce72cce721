"""Layers without the block of zeros that ends a tar archive.

umoci leaves it off, and what should fill the last file's last block, too; docker saves a layer
without files as no bytes at all; and everybody's unpacking takes them. Our own reading of archives
insists on a proper end, as what lacks it may be truncated: so layers get it, unless they end
within an entry.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from kvmrkt.errors import ArchiveError
from kvmrkt.images import tar

if TYPE_CHECKING:
    from pathlib import Path

_END = bytes(2 * tar.BLOCK_BYTES)


def end_archive(path: Path, limits: tar.Limits) -> None:
    """Let an uncompressed layer end as an archive should; one that is truncated stays as it is."""
    with path.open("r+b", buffering=0) as file:
        size = file.seek(0, 2)
        file.seek(-min(size, len(_END)), 2)
        if file.read(len(_END)) != _END and _ends_after_entry(file, size, limits):
            file.seek(0, 2)
            file.write(bytes(-size % tar.BLOCK_BYTES) + _END)


def _ends_after_entry(file: IO[bytes], size: int, limits: tar.Limits) -> bool:
    try:
        for entry in tar.walk(_EndedSource(file), limits):
            if entry.content_at + entry.size_bytes > size:
                return False
    except ArchiveError:
        return False  # whoever reads it next says why
    return True


class _EndedSource(tar.FileSource):
    """A file as if zeros followed it."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._end = file.seek(0, 2)
        file.seek(0)

    def read(self, size: int) -> bytes:
        if size == tar.BLOCK_BYTES and self.position >= self._end:
            return bytes(size)
        return super().read(size)

    def seek(self, position: int) -> None:
        super().seek(min(position, self._end))
        self.position = position
