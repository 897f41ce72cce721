"""A pod's QEMU: its sockets, its start, and its end."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from kvmrkt.errors import VmmError, describe
from kvmrkt.process import find_program, spawn
from kvmrkt.stage1.kvm.machine import Accelerator, Machine, Port, qemu_argv
from kvmrkt.stage1.kvm.ports import CONTROL_PORT, LOG_PORT, SSH_PORT

if TYPE_CHECKING:
    from kvmrkt.stage1.kvm.jail.cell import Cell

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_STDERR_LIMIT_BYTES = 4096
_KILL_SECONDS = 10


class Wires(msgspec.Struct):
    """Socket pairs between this process and QEMU; nothing is named in a filesystem."""

    ours: dict[str, socket.socket] = {}
    theirs: dict[str, socket.socket] = {}

    def add(self, name: str) -> None:
        """A new pair; QEMU's end is handed over at its start."""
        self.ours[name], self.theirs[name] = socket.socketpair()

    def lend(self, name: str, end: socket.socket) -> None:
        """A socket that leads elsewhere than to this process, for QEMU to inherit."""
        self.theirs[name] = end

    def close_theirs(self) -> None:
        """After the start: an end that only QEMU holds tells when QEMU is gone."""
        for end in self.theirs.values():
            end.close()
        self.theirs.clear()

    def close(self) -> None:
        """Close all that is still open."""
        self.close_theirs()
        for end in self.ours.values():
            end.close()


MONITOR, CONSOLE, SHARE = "monitor", "console", "share"


def make_wires(stack: ExitStack, app_ports: tuple[str, ...]) -> Wires:
    """A pair for the monitor, the console, the agent's ports and the apps' streams."""
    wires = Wires()
    stack.callback(wires.close)
    for name in (MONITOR, CONSOLE, CONTROL_PORT, LOG_PORT, SSH_PORT, *app_ports):
        wires.add(name)
    return wires


def machine_ports(wires: Wires) -> tuple[Port, ...]:
    """The virtio-serial ports among the wires, the agent's own first."""
    return tuple(
        Port(name, end.fileno())
        for name, end in wires.theirs.items()
        if name not in (MONITOR, CONSOLE, SHARE)
    )


def find_qemu(accelerator: Accelerator, *, lean: bool) -> Path:
    """The QEMU to start: the lean microvm build where KVM and the pod's devices allow it."""
    if accelerator == "kvm" and lean:
        small = Path("/usr/bin/qemu-system-x86_64-microvm")
        if small.exists():
            return small
    return find_program(
        "qemu-system-x86_64", package="qemu-system-x86", also=("/usr/bin/qemu-system-x86_64",)
    )


class Vmm:
    """A started QEMU."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        """`said` is the file that got QEMU's standard error."""
        self.process = process
        self._said = said

    @classmethod
    def start(
        cls, qemu: Path, machine: Machine, wires: Wires, said: Path, *,
        setup: Callable[[], None] | None = None, cell: Cell | None = None,
    ) -> Vmm:  # fmt: skip
        """Start QEMU with QEMU's ends of the wires; it dies when this process does.

        With a cell it is jailed there, and the machine is the cell's. `setup` runs before exec.
        """
        inherited = [end.fileno() for end in wires.theirs.values()]
        inherited += [card.fd for card in machine.cards]
        with said.open("ab") as log:
            if cell is None:
                process = _spawn(qemu_argv(qemu, machine), inherited, log, setup)
            else:
                process = _spawn_jailed(qemu_argv(qemu, cell.machine), inherited, log, setup, cell)
        wires.close_theirs()
        return cls(process, said)

    def kill(self) -> None:
        """End it now, and wait until it is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait(_KILL_SECONDS)

    def wait(self, timeout_seconds: float) -> int | None:
        """Its status as `subprocess` counts, None when it still runs."""
        if self.process.poll() is None:
            ended = select.poll()
            pidfd = os.pidfd_open(self.process.pid)  # subprocess would look every few milliseconds
            try:
                ended.register(pidfd, select.POLLIN)
                ended.poll(timeout_seconds * 1000)
            finally:
                os.close(pidfd)
        return self.process.poll()

    def last_words(self) -> str:
        """The end of what QEMU wrote to standard error."""
        with self._said.open("rb") as file:
            file.seek(max(0, self._said.stat().st_size - _STDERR_LIMIT_BYTES))
            return file.read().decode(errors="replace").strip()


def _spawn_jailed(
    argv: list[str],
    inherited: list[int],
    log: IO[bytes],
    setup: Callable[[], None] | None,
    cell: Cell,
) -> subprocess.Popen[bytes]:
    from kvmrkt.stage1.kvm.jail.enter import spawn_jailed

    try:
        return spawn_jailed(
            argv,
            cell.jail,
            cell.groups,
            pass_fds=(*inherited, *cell.disks),
            env=_ENVIRONMENT,
            log=log,
            before=setup,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise VmmError(
            f"cannot jail {argv[0]}: {describe(error)}",
            hint="a jail needs root with the right to mount; without it, where nothing else on "
            "the host is worth protecting, use --insecure-options=jail",
        ) from error


def _spawn(
    argv: list[str], inherited: list[int], log: IO[bytes], setup: Callable[[], None] | None
) -> subprocess.Popen[bytes]:
    try:
        return spawn(
            argv,
            stdout=log,
            stderr=log,
            pass_fds=inherited,
            env=_ENVIRONMENT,
            die_with_parent=True,
            setup=setup,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise VmmError(f"cannot start {argv[0]}: {describe(error)}") from error
