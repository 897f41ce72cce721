"""The scratch disk: where a pod's apps write.

Formatting takes tens of milliseconds, so it is done once: each size has a formatted template in
the data directory, and a pod's disk is a copy of the template's few used blocks.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from kvmrkt.errors import StoreError, describe
from kvmrkt.faults import reach
from kvmrkt.process import find_program, run

DEFAULT_BYTES = 8 << 30
"""How much a pod may write; the file is sparse and takes only what was written."""
_FICLONE = 0x40049409  # linux/fs.h: share the blocks, where the filesystem can
_FEATURES = "^has_journal,^resize_inode,sparse_super2"
# no journal: the disk never outlives the pod, and a crash loses what was lost anyway
_EXTENDED = "assume_storage_prezeroed=1,nodiscard"
# a new sparse file is zeros: without being told, each guest would write 128 MiB of them


def make_scratch(cas: Path, target: Path, size_bytes: int = DEFAULT_BYTES) -> None:
    """Make `target` a formatted ext4 image; raises StoreError when the disk is full.

    Its template is kept in the store whose folder is `cas`.
    """
    template = cas / "scratch" / f"scratch-{size_bytes}.ext4"
    try:
        if not template.exists():
            _format(cas, template, size_bytes)
        _copy_sparse(template, target)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise StoreError(f"cannot make the scratch disk {target}: {describe(error)}") from error


def _format(cas: Path, template: Path, size_bytes: int) -> None:
    from kvmrkt.images.disk import temporary

    mke2fs = find_program("mke2fs", package="e2fsprogs", also=("/usr/sbin/mke2fs", "/sbin/mke2fs"))
    template.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    # another process may do the same at the same time: each has a name of its own, the last wins
    with temporary(cas, "scratch") as fresh:
        os.truncate(fresh, size_bytes)
        run([
            str(mke2fs), "-q", "-F", "-t", "ext4", "-O", _FEATURES, "-m", "0",
            "-E", _EXTENDED, "-I", "256", str(fresh),
        ])  # fmt: skip
        reach("scratch-formatted")
        fresh.rename(template)


def _copy_sparse(source: Path, target: Path) -> None:
    read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    write = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.ioctl(write, _FICLONE, read)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
                raise
        size = os.fstat(read).st_size
        os.truncate(write, size)
        position = 0
        while position < size:
            try:
                start = os.lseek(read, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # only a hole is left
                    raise
                return
            position = os.lseek(read, start, os.SEEK_HOLE)
            _copy_range(read, write, start, position)
    finally:
        os.close(read)
        os.close(write)


def _copy_range(read: int, write: int, start: int, end: int) -> None:
    while start < end:
        copied = os.pwrite(write, os.pread(read, min(end - start, 1 << 20), start), start)
        start += copied
