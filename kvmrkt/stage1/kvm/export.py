"""Reading an app's file system after its pod has ended, in a virtual machine made for that.

The host's kernel never mounts what a tenant wrote: a guest does, read-only, and sends what it
finds as a tar stream over a port. The machine gets the pod's disks and no network; nothing of it
is on the host's disks, and it dies with this process.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvmrkt.errors import AgentSilentError, AppStartError, EngineError, GuestError, VmmError
from kvmrkt.faults import reach
from kvmrkt.paths import RUNTIME
from kvmrkt.stage1.kvm.accel import HELLO_SECONDS, choose_accelerator, remember_bad
from kvmrkt.stage1.kvm.agent import Agent
from kvmrkt.stage1.kvm.boot import boot_of
from kvmrkt.stage1.kvm.console import Console
from kvmrkt.stage1.kvm.downfall import why_down
from kvmrkt.stage1.kvm.jail.cell import furnish
from kvmrkt.stage1.kvm.machine import DiskImage, Machine
from kvmrkt.stage1.kvm.monitor import MachineStoppedError, Monitor
from kvmrkt.stage1.kvm.podspec import Disk, ExportSpec
from kvmrkt.stage1.kvm.ports import CONTROL_PORT, EXPORT_PORT
from kvmrkt.stage1.kvm.sizing import Sizing, size_machine
from kvmrkt.stage1.kvm.translate import SCRATCH
from kvmrkt.stage1.kvm.tsc import tsc_khz
from kvmrkt.stage1.kvm.vmm import (
    CONSOLE,
    MONITOR,
    Vmm,
    find_qemu,
    machine_ports,
    make_wires,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from kvmrkt.configuration import KvmSettings
    from kvmrkt.stage1.engine import AppExport
    from kvmrkt.stage1.kvm.machine import Accelerator
    from kvmrkt.stage1.kvm.vmm import Wires

_IMAGE = "image0"
_CHUNK_BYTES = 1 << 18


def export(
    app: AppExport, settings: KvmSettings, warn: Callable[[str], None]
) -> Generator[bytes, None, None]:
    """Boot the machine and give what it sends, piece by piece; it ends with the generator.

    Raises EngineError, AgentSilentError for a guest that says nothing for long.
    """
    asked = settings.accelerator or "auto"
    choice = choose_accelerator(asked, RUNTIME)
    if choice.kind == "tcg" and asked != "tcg":
        warn(f"{choice.reason}; the file system is read under software emulation")
    patience_seconds = settings.boot_timeout_seconds or HELLO_SECONDS[choice.kind]
    try:
        yield from _boot(app, choice.kind, Sizing.of(settings), patience_seconds)
    except MachineStoppedError as error:
        if choice.kind == "tcg" or asked != "auto":
            raise
        remember_bad(error.message)
        raise VmmError(
            f"KVM broke while the guest ran ({error.message})",
            hint="this is remembered: try again, and software emulation is used",
        ) from None


def _boot(
    app: AppExport, accelerator: Accelerator, sizing: Sizing, patience_seconds: float
) -> Generator[bytes, None, None]:
    with ExitStack() as stack:
        wires = make_wires(stack, (EXPORT_PORT,))
        machine = _machine(app, accelerator, sizing, wires)
        # QEMU's words go to memory: there is no pod to keep them
        words = os.memfd_create("qemu", os.MFD_CLOEXEC)
        stack.callback(os.close, words)
        said = Path(f"/proc/{os.getpid()}/fd/{words}")
        qemu = find_qemu(accelerator, lean=True)
        jailed = not app.host.insecure.jail
        cell = furnish(machine, qemu, app.directory.uuid, stack) if jailed else None
        vmm = Vmm.start(qemu, machine, wires, said, cell=cell)
        stack.callback(vmm.kill)
        reach("export-started")
        runner = stack.enter_context(asyncio.Runner())
        session = _Session(vmm, wires, app.app, patience_seconds)
        stack.callback(lambda: runner.run(session.close()))
        runner.run(session.open())
        while chunk := runner.run(session.receive()):
            yield chunk


def _machine(app: AppExport, accelerator: Accelerator, sizing: Sizing, wires: Wires) -> Machine:
    boot = boot_of(app.stage1)
    size = size_machine([None], [1000], host_cpus=1, emulated=False, sizing=sizing)
    return Machine(
        name=f"kvmrkt-export-{app.directory.uuid}",
        accelerator=accelerator,
        cpus=size.cpus,
        memory_bytes=size.memory_bytes,
        kernel=boot.kernel_for(accelerator),
        initrd=boot.initrd,
        kernel_parameters=boot.kernel_parameters,
        tsc_khz=tsc_khz(),
        monitor_fd=wires.theirs[MONITOR].fileno(),
        console_fd=wires.theirs[CONSOLE].fileno(),
        ports=machine_ports(wires),
        disks=(
            DiskImage(_IMAGE, app.tree, read_only=True),
            DiskImage(SCRATCH, app.directory.path / "scratch.img", read_only=True),
        ),
    )


class _Session:
    """The conversation with one such guest."""

    def __init__(self, vmm: Vmm, wires: Wires, app: str, patience_seconds: float) -> None:
        self._vmm = vmm
        self._wires = wires
        self._app = app
        self._patience = patience_seconds
        self._end = wires.ours[EXPORT_PORT]
        self._console = Console(None)
        self._monitor = Monitor()
        self._tasks: list[asyncio.Task[Any]] = []
        self._agent: Agent | None = None
        self._received = 0

    async def open(self) -> None:
        """Wait for the agent and tell it what is wanted."""
        self._end.setblocking(False)
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._agent = agent = await Agent.open(self._wires.ours[CONTROL_PORT])
        self._start(self._console.read(self._wires.ours[CONSOLE]))
        self._listening = self._start(agent.listen())
        self._start(self._watch_monitor())
        await self._heed(asyncio.ensure_future(agent.hello()))
        disks = Disk(_IMAGE, "squashfs", read_only=True), Disk(SCRATCH, "ext4", read_only=True)
        spec = ExportSpec(name=self._app, disk=_IMAGE, disks=disks)
        self._answer = asyncio.ensure_future(agent.export_app(spec))
        self._tasks.append(self._answer)

    async def receive(self) -> bytes:
        """The next piece; nothing once the guest has sent as much as it says."""
        if self._answer.done() and self._received >= (size := await self._size()):
            if self._received > size:
                raise GuestError("the guest sent more than it says")
            return b""
        loop = asyncio.get_running_loop()
        piece = asyncio.ensure_future(loop.sock_recv(self._end, _CHUNK_BYTES))
        try:
            if not self._answer.done():
                await self._heed(piece, self._answer)
            else:
                await self._heed(piece)
            if not piece.done():
                return await self.receive()
            chunk = piece.result()
        finally:
            piece.cancel()
        if not chunk:
            raise await why_down(self._vmm, self._console, self._monitor)
        self._received += len(chunk)
        return chunk

    async def close(self) -> None:
        """The machine is not needed any more."""
        self._vmm.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._monitor.close()
        if self._agent is not None:
            self._agent.close()

    async def _size(self) -> int:
        try:
            return await self._answer
        except AppStartError as error:
            old = "no method" in error.message
            raise EngineError(
                f'cannot read the file system of app "{self._app}"',
                hint="the pod's stage1 image is older than this command" if old else None,
            ) from error
        except GuestError as error:
            if not self._listening.done():
                raise  # it is there, and wrong
            raise await why_down(self._vmm, self._console, self._monitor) from error

    async def _heed(self, *wanted: asyncio.Future[Any]) -> None:
        """Wait until one of these is done; raises what speaks against waiting any longer."""
        await asyncio.wait(
            (*wanted, self._failure),
            timeout=self._patience,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if self._failure.done():
            self._failure.result()
        if not any(future.done() for future in wanted):
            raise AgentSilentError(
                f"the guest said nothing within {self._patience:g} seconds",
                hint="a slower host may need a longer bootTimeoutSeconds in kvm.d",
                details=self._console.last_lines(),
            )

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self._failure.done():
            self._failure.set_exception(error)

    async def _watch_monitor(self) -> None:
        await self._monitor.connect(self._wires.ours[MONITOR])
        await self._monitor.watch()
