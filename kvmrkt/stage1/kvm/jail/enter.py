"""Going to jail: what a child process does between fork and exec.

Every call is looked up before the fork; afterwards only system calls are made. What fails raises,
and the program is not started.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, NamedTuple

from kvmrkt.process import spawn

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from kvmrkt.stage1.kvm.jail.plan import Identity, Jail, Limits

_CLONE_NEWNS, _CLONE_NEWCGROUP = 0x00020000, 0x02000000
_CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x04000000, 0x08000000, 0x40000000
_CLONE_NEWPID = 0x20000000
_NAMESPACES = _CLONE_NEWNS | _CLONE_NEWCGROUP | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWNET
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_SYS_PIVOT_ROOT, _SYS_MOUNT_SETATTR = 155, 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID = 1, 2
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
_SECCOMP_MODE_FILTER = 2
_FILTER_INSTRUCTION_BYTES = 8
_LAST_CAPABILITY = 63
"""No kernel knows so many: dropping one that there is not ends the loop."""


class _FilterProgram(ctypes.Structure):
    """`struct sock_fprog` (linux/filter.h)."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


class Kernel:
    """System calls that Python has no functions for; each raises OSError."""

    def __init__(self) -> None:
        """Look the functions up, while there is still time."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        for name in ("unshare", "setns", "mount", "umount2", "syscall", "prctl", "sethostname"):
            getattr(self._libc, name)

    def _check(self, result: int, what: str) -> None:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), what)

    def unshare(self, flags: int) -> None:
        """unshare(2)."""
        self._check(self._libc.unshare(flags), "unshare")

    def setns(self, fd: int, flags: int) -> None:
        """setns(2)."""
        self._check(self._libc.setns(fd, flags), "setns")

    def mount(self, source: str, target: str, kind: str, flags: int, data: str = "") -> None:
        """mount(2)."""
        words = source.encode(), target.encode(), kind.encode(), flags, data.encode()
        self._check(self._libc.mount(*words), target)

    def set_mounts_read_only(self, target: str) -> None:
        """mount_setattr(2), for the mount and all below it."""
        attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID, 0, 0, 0)
        arguments = _AT_FDCWD, target.encode(), _AT_RECURSIVE, ctypes.byref(attributes), 32
        self._check(self._libc.syscall(_SYS_MOUNT_SETATTR, *arguments), target)

    def pivot(self, root: str) -> None:
        """Make the folder the root, and let go of the old one (pivot_root(2), notes)."""
        os.chdir(root)
        self._check(self._libc.syscall(_SYS_PIVOT_ROOT, b".", b"."), "pivot_root")
        self._check(self._libc.umount2(b".", _MNT_DETACH), "umount2")
        os.chdir("/")

    def name_host(self, name: bytes) -> None:
        """sethostname(2)."""
        self._check(self._libc.sethostname(name, len(name)), "sethostname")

    def drop_capabilities(self, keep: tuple[int, ...]) -> None:
        """No other may ever be gained; those that are held change with the user ID and at exec."""
        for number in range(_LAST_CAPABILITY + 1):
            if number in keep:
                continue
            if self._libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
                return

    def die_with(self, parent: int) -> None:
        """Be killed when the parent's thread ends; `parent` reads as ended if it already has."""
        self._check(self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
        if select.select([parent], [], [], 0)[0]:
            os._exit(1)  # the first process of a PID namespace does not die of its own SIGKILL

    def install(self, filter: bytes) -> None:
        """seccomp(2), SECCOMP_SET_MODE_FILTER."""
        program = _FilterProgram(len(filter) // _FILTER_INSTRUCTION_BYTES, filter)
        arguments = _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
        self._check(self._libc.prctl(_PR_SET_SECCOMP, *arguments), "seccomp")

    def forbid_new_privileges(self) -> None:
        """prctl(2), PR_SET_NO_NEW_PRIVS."""
        self._check(self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def spawn_jailed(
    argv: Sequence[str],
    jail: Jail,
    groups: Sequence[Path] = (),
    *,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str],
    log: IO[bytes],
    before: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in its jail; it dies when the calling thread does. `log` gets what it says.

    `groups` are control groups to join. `before` runs in the jail's mount namespace, where the
    host is still to be seen. Raises OSError or SubprocessError where the jail cannot be built.
    """
    kernel = Kernel()
    with ExitStack() as stack:
        ended, alive = os.pipe()
        stack.callback(os.close, ended)
        stack.callback(os.close, alive)
        members = []
        for group in groups:
            members.append(os.open(group / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
            stack.callback(os.close, members[-1])
        entrance = _Entrance(kernel, jail, tuple(members), before, ended, alive)
        with _Gate(kernel):
            return spawn(
                argv,
                stdout=log,
                stderr=log,
                pass_fds=pass_fds,
                env=env,
                setup=entrance.go_in,
            )


class _Gate:
    """Around the fork of one child: it is the first process of a PID namespace of its own."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def __enter__(self) -> None:
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._kernel.unshare(_CLONE_NEWPID)

    def __exit__(self, *_: object) -> None:
        self._kernel.setns(self._own, _CLONE_NEWPID)
        os.close(self._own)


class _Entrance(NamedTuple):
    """The child's way in."""

    kernel: Kernel
    jail: Jail
    members: tuple[int, ...]
    """The open `cgroup.procs` of the groups to join."""
    before: Callable[[], None] | None
    ended: int
    alive: int
    """A pipe whose writing end only the parent has: it reads as ended when the parent is gone."""

    def go_in(self) -> None:
        """In the child, before exec."""
        kernel, jail = self.kernel, self.jail
        os.close(self.alive)
        for group in self.members:
            os.write(group, b"0")
        kernel.unshare(_NAMESPACES)
        kernel.mount("none", "/", "", _MS_REC | _MS_PRIVATE)
        if self.before is not None:
            self.before()
        _build_root(kernel, jail)
        kernel.pivot(str(jail.root))
        kernel.name_host(b"jail")
        _limit(jail.limits)
        kernel.drop_capabilities(jail.identity.capabilities)
        _become(jail.identity)
        kernel.forbid_new_privileges()
        if jail.filter:
            kernel.install(jail.filter)
        kernel.die_with(self.ended)  # last: a change of identity takes it back


def _build_root(kernel: Kernel, jail: Jail) -> None:
    root = str(jail.root)
    kernel.mount("jail", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m,nr_inodes=1k")
    made = set()
    for file in jail.files:
        target = f"{root}{file.target}"
        folder = os.path.dirname(target)  # noqa: PTH120 - fifty times, in every start of a pod
        if folder not in made:
            os.makedirs(folder, mode=0o755, exist_ok=True)  # noqa: PTH103
            made.add(folder)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
        kernel.mount(str(file.source), target, "", _MS_BIND)
    os.mkdir(f"{root}/proc")  # noqa: PTH102
    kernel.mount(
        "proc", f"{root}/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "subset=pid,hidepid=2"
    )
    if jail.volumes is not None:
        os.makedirs(f"{root}{jail.volumes}")  # noqa: PTH103
    kernel.set_mounts_read_only(root)
    if jail.volumes is not None:
        kernel.mount(str(jail.volumes), f"{root}{jail.volumes}", "", _MS_BIND | _MS_REC)


def _limit(limits: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits.open_files, limits.open_files))


def _become(identity: Identity) -> None:
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
