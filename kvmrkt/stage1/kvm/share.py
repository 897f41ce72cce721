"""Host volumes: one tree of bind mounts, served to the guest by one process.

The tree exists in a mount namespace that only the serving process has (virtiofsd, or QEMU itself
for 9p): it is never visible on the host, and is gone when that process is, however it ends.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec

from kvmrkt.errors import HostError
from kvmrkt.process import spawn

TAG = "volumes"
_VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")
"""Debian 13's (the Rust one), and Debian 12's (QEMU's own)."""

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_SYS_MOUNT_SETATTR = 442
_AT_RECURSIVE = 0x8000
_MOUNT_ATTR_RDONLY = 1


class HostFolder(msgspec.Struct, frozen=True):
    """A folder or file of the host that becomes the volume `name`."""

    name: str
    source: Path
    read_only: bool
    recursive: bool


def find_virtiofsd() -> Path | None:
    """This host's virtiofsd; without one, 9p serves."""
    return next((Path(path) for path in _VIRTIOFSD if os.access(path, os.X_OK)), None)


def make_tree(mount_point: Path, folders: tuple[HostFolder, ...]) -> Callable[[], None]:
    """A function for a child process to run before exec: it builds the tree at `mount_point`.

    `mount_point` must exist. What the function raises makes the child's start fail.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int, what: str) -> None:
        if result:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), what)

    def mount(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
        arguments = (source.encode(), bytes(target), kind.encode(), flags, data.encode())
        check(libc.mount(*arguments), str(target))

    def set_read_only(target: Path, *, recursive: bool) -> None:
        attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
        flags = _AT_RECURSIVE if recursive else 0
        result = libc.syscall(
            _SYS_MOUNT_SETATTR, -100, bytes(target), flags, ctypes.byref(attributes), 32
        )
        check(result, str(target))

    def build() -> None:
        check(libc.unshare(_CLONE_NEWNS), "unshare")
        mount("none", Path("/"), "", _MS_REC | _MS_PRIVATE)
        mount("volumes", mount_point, "tmpfs", 0, "mode=0755,size=1m")
        for folder in folders:
            target = mount_point / folder.name
            if folder.source.is_dir():
                target.mkdir()
            else:
                target.touch()
            recursion = _MS_REC if folder.recursive else 0
            mount(str(folder.source), target, "", _MS_BIND | recursion)
            if folder.read_only:
                set_read_only(target, recursive=folder.recursive)
        mount("volumes", mount_point, "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY)

    return build


def start_virtiofsd(
    program: Path, mount_point: Path, folders: tuple[HostFolder, ...], log: IO[bytes]
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the server of the tree; returns it and a connection for QEMU to inherit."""
    address = mount_point.with_name("virtiofsd.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen(1)
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(address))
        address.unlink()  # the connection is made; nobody else shall make one
        try:
            process = spawn(
                virtiofsd_argv(program, listener.fileno(), mount_point),
                stdout=log,
                stderr=log,
                pass_fds=(listener.fileno(),),
                die_with_parent=True,
                setup=make_tree(mount_point, folders),
            )
        except (OSError, subprocess.SubprocessError) as error:
            client.close()
            raise HostError(
                f"cannot start {program} to serve the volumes",
                hint="bind mounts need root; some filesystems refuse them",
            ) from error
    return process, client


def virtiofsd_argv(program: Path, listener: int, folder: Path) -> list[str]:
    """The command line: the Rust virtiofsd and QEMU 7.2's C one spell their options differently."""
    if program.parent.name == "libexec":
        return [
            str(program), f"--fd={listener}", f"--shared-dir={folder}", "--sandbox=namespace",
            "--cache=auto", "--xattr", "--announce-submounts",
        ]  # fmt: skip
    return [
        str(program), f"--fd={listener}", "-o", f"source={folder}", "-o", "sandbox=namespace",
        "-o", "cache=auto", "-o", "xattr", "-o", "announce_submounts", "-f",
    ]  # fmt: skip
