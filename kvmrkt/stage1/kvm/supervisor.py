"""The life of one pod's machine: from a started QEMU to the pod's exit status.

One event loop. Tasks read what QEMU and the guest send; the conversation with the agent runs
beside them, and whichever fails first ends the pod. Why a machine went down is worked out once,
afterwards, from everything that was heard.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from kvmrkt.errors import (
    AgentSilentError,
    AppStartError,
    BootTimeoutError,
    EngineError,
    GuestError,
    KvmrktError,
    VmmError,
)
from kvmrkt.faults import reach
from kvmrkt.notify import notify
from kvmrkt.stage1.kvm.agent import (
    Agent,
    AgentFailed,
    AppExited,
    AppStarted,
    PodExited,
    SshEnded,
)
from kvmrkt.stage1.kvm.applog import AppLog
from kvmrkt.stage1.kvm.console import Console
from kvmrkt.stage1.kvm.downfall import why_down
from kvmrkt.stage1.kvm.monitor import MachineStoppedError, Monitor
from kvmrkt.stage1.kvm.ports import CONTROL_PORT, LOG_PORT, SSH_PORT
from kvmrkt.stage1.kvm.reach import Reach, Way
from kvmrkt.stage1.kvm.streams import Sink, copy_in, copy_out, window_size
from kvmrkt.stage1.kvm.vmm import CONSOLE, MONITOR, Vmm, Wires

if TYPE_CHECKING:
    from kvmrkt.stage1.kvm.activated import Activation
    from kvmrkt.stage1.kvm.podspec import PodSpec
    from kvmrkt.trace import Trace

STOP_GRACE_SECONDS = 10.0
_DRAIN_SECONDS = 5.0
"""How long output that is already on its way may take once the apps are gone."""
_LAST_WORDS_SECONDS = 2.0
_ENTROPY_BYTES = 64
_MORE_TIME = "a slower host may need a longer --boot-timeout"


class Records(Protocol):
    """Where the supervisor writes down what became of each app."""

    def app_started(self, event: AppStarted) -> None:
        """An app runs."""

    def app_exited(self, event: AppExited) -> None:
        """An app is gone."""


class Supervision(msgspec.Struct, frozen=True):
    """What the supervisor needs to know beside the machine."""

    spec: PodSpec
    logs: Path
    hello_seconds: float
    way: Way | None = None
    """The way in for those who enter the pod while it runs."""
    activations: tuple[Activation, ...] = ()
    """Sockets whose connections go to the apps once they have started."""
    tty_fd: int | None = None
    """The terminal of an interactive pod: its window's size follows."""


class _Interrupted(Exception):
    """Somebody is impatient: the pod is to end now."""


class _Heard(msgspec.Struct):
    """What the guest reported."""

    may_run: bool = False
    """The agent was told to start the apps."""
    started: bool = False
    stopping: bool = False
    """The apps were asked to stop."""
    over: bool = False
    """Nobody is left to be asked."""
    exits: list[AppExited] = msgspec.field(default_factory=list)


def pod_status(exits: list[AppExited]) -> int:
    """The status of the first app that failed on its own; 0 when none did.

    An app that was asked to stop and died of it did what it was asked.
    """
    for event in exits:
        if event.status and not (event.stopped and event.signal is not None):
            return event.status
    return 0


class Supervisor:
    """Runs one machine to its end."""

    def __init__(
        self, vmm: Vmm, wires: Wires, plan: Supervision, records: Records, trace: Trace
    ) -> None:
        """The supervisor takes over `wires`; the caller still kills `vmm` on every path."""
        self._vmm = vmm
        self._wires = wires
        self._plan = plan
        self._records = records
        self._trace = trace
        self._console = Console(plan.logs / "console")
        self._monitor = Monitor()
        self._heard = _Heard()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sinks: list[Sink] = []

    async def run(self) -> int:
        """Return the pod's exit status; raises what ended the pod instead."""
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._agent = await Agent.open(self._wires.ours[CONTROL_PORT])
        self._output = self._sink(1)
        names = frozenset(app.name for app in self._plan.spec.apps)
        self._log = AppLog(self._plan.logs, names, self._output.write)
        self._start(self._console.read(self._wires.ours[CONSOLE]))
        self._start(self._agent.listen())
        log = self._start(self._log.read(self._wires.ours[LOG_PORT]))
        self._start(self._watch_monitor())
        self._output_tasks = (log, *self._start_streams())
        self._reach: Reach | None = None
        if self._plan.way is not None:
            self._reach = Reach(self._plan.way, self._wires.ours[SSH_PORT], self._agent)
            self._start(self._reach.serve())
        self._listen_to_signals()
        conversation = asyncio.ensure_future(self._converse())
        try:
            await asyncio.wait((conversation, self._failure), return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            conversation.result()
            await self._drain()
            return pod_status(self._heard.exits)
        except MachineStoppedError as error:
            if self._heard.may_run:
                raise VmmError(f"{error.message}, while its apps may have run") from None
            raise  # nothing was lost: the pod may be started once more
        except _Interrupted:
            # a pod that ran keeps its records, as after any failure of the engine
            kind = EngineError if self._heard.started else KvmrktError
            raise kind("the pod was killed on request, before its apps had ended") from None
        finally:
            conversation.cancel()
            await self._close()

    # -- tasks ---------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    async def _watch_monitor(self) -> None:
        try:
            await self._monitor.connect(self._wires.ours[MONITOR])
        except VmmError:
            # a QEMU that is gone is reported by the control port, with its last words
            await asyncio.sleep(_LAST_WORDS_SECONDS)
            raise
        self._trace.end("qmp")
        await self._monitor.watch()

    def _start_streams(self) -> list[asyncio.Task[None]]:
        outputs: list[asyncio.Task[None]] = []
        for app in self._plan.spec.apps:
            for port in app.ports:
                end = self._wires.ours[port]
                stream = port.rpartition(".")[2]
                if stream in ("stdin", "tty"):
                    self._start(copy_in(0, end))
                if stream in ("stdout", "tty"):
                    outputs.append(self._start(copy_out(end.dup(), self._output)))
                elif stream == "stderr":
                    outputs.append(self._start(copy_out(end.dup(), self._sink(2))))
        return outputs

    def _sink(self, fd: int) -> Sink:
        sink = Sink(fd)
        self._sinks.append(sink)
        return sink

    async def _drain(self) -> None:
        """The apps are gone: what they wrote is on its way, and QEMU's end closes behind it.

        Whoever reads our output may take his time over it; a signal ends that.
        """
        log = asyncio.ensure_future(self._log.ended.wait())
        await asyncio.wait(
            (log, self._failure), timeout=_DRAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        self._vmm.kill()
        reach("qemu-killed")
        self._heard.over = True
        notify("STOPPING=1", "STATUS=The apps have ended")
        output = asyncio.ensure_future(asyncio.wait(self._output_tasks))
        await asyncio.wait((output, self._failure), return_when=asyncio.FIRST_COMPLETED)
        self._trace.end("end")

    async def _hear_out(self) -> None:
        """However the pod ended: what QEMU had handed over by then is read, shown and kept."""
        self._vmm.kill()
        await asyncio.wait(self._output_tasks, timeout=_LAST_WORDS_SECONDS)
        for sink in self._sinks:
            sink.give_up()  # a reader that does not read must not cost the records
        await asyncio.wait(self._output_tasks, timeout=_LAST_WORDS_SECONDS)

    async def _close(self) -> None:
        await self._hear_out()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._monitor.close()  # after its task: one session has one user
        self._agent.close()
        for sink in self._sinks:
            sink.close()
        if self._failure.done():
            self._failure.exception()

    # -- the conversation ----------------------------------------------------------------------

    async def _converse(self) -> None:
        notify("STATUS=The guest boots")
        await self._hear_hello()
        reach("guest-heard")
        self._trace.end("kernel")
        spec = msgspec.structs.replace(
            self._plan.spec,
            realtime_ns=time.time_ns(),
            entropy=base64.b64encode(os.urandom(_ENTROPY_BYTES)).decode(),
        )
        self._heard.may_run = True
        await self._start_pod(spec)
        self._heard.started = True
        if self._reach is not None:
            self._reach.open()
        reach("apps-started")
        self._activate()
        notify("READY=1", "STATUS=The apps run")
        self._trace.end("agent")
        while (event := await self._agent.events.get()) is not None:
            if isinstance(event, AppStarted):
                self._records.app_started(event)
                reach("app-start-recorded")
            elif isinstance(event, AppExited):
                self._heard.exits.append(event)
                self._records.app_exited(event)
                reach("app-exit-recorded")
            elif isinstance(event, AgentFailed):
                raise GuestError(f"the guest's agent failed: {event.message}")
            elif isinstance(event, SshEnded) and self._reach is not None:
                self._reach.server_ended()
            elif isinstance(event, PodExited):
                reach("apps-ended")
                self._trace.end("app")
                return
        raise await self._why_down()

    def _activate(self) -> None:
        if self._plan.activations:
            from kvmrkt.stage1.kvm.activated import serve

            for activation in self._plan.activations:
                self._start(serve(activation))

    async def _hear_hello(self) -> None:
        try:
            async with asyncio.timeout(self._plan.hello_seconds):
                await self._agent.hello()
        except TimeoutError:
            raise BootTimeoutError(
                f"the guest's agent said nothing within {self._plan.hello_seconds:g} seconds",
                hint=_MORE_TIME,
                details=self._console.last_lines(),
            ) from None
        except GuestError as error:
            raise await self._why_down() from error

    async def _start_pod(self, spec: PodSpec) -> None:
        try:
            async with asyncio.timeout(self._plan.hello_seconds):
                await self._agent.start_pod(spec)
        except TimeoutError:
            raise AgentSilentError(
                "the guest's agent did not answer the order to start the apps within "
                f"{self._plan.hello_seconds:g} seconds",
                hint=_MORE_TIME,
                details=self._console.last_lines(),
            ) from None
        except GuestError as error:
            raise await self._why_down() from error

    async def _why_down(self) -> EngineError:
        """The control port closed before the pod had ended: say what went down."""
        return await why_down(self._vmm, self._console, self._monitor)

    # -- signals -------------------------------------------------------------------------------

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop, number)
        if self._plan.tty_fd is not None:
            loop.add_signal_handler(signal.SIGWINCH, self._resize)

    def _stop(self, number: signal.Signals) -> None:
        """Ask the apps to stop, or end the pod when there is nobody to ask, or at a second Ctrl-C.

        A second SIGTERM is no impatience: two may run `kvmrkt stop` without knowing of each other.
        """
        impatient = self._heard.stopping and number == signal.SIGINT
        if impatient or self._heard.over or not self._heard.started:
            self._fail(_Interrupted())
            return
        if self._heard.stopping:
            return
        self._heard.stopping = True
        notify("STOPPING=1", "STATUS=The apps were asked to stop")
        self._start(self._agent.stop_pod(STOP_GRACE_SECONDS))

    def _resize(self) -> None:
        if self._plan.tty_fd is not None and self._heard.started:
            rows, columns = window_size(self._plan.tty_fd)
            self._start(self._tell_size(rows, columns))

    async def _tell_size(self, rows: int, columns: int) -> None:
        with contextlib.suppress(AppStartError):  # an app that has just ended has no window
            await self._agent.resize(self._plan.spec.apps[0].name, rows, columns)
