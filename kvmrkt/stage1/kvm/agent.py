"""The host's end of the control port: requests to the agent, and what it reports.

The guest is hostile until proven otherwise: lines are bounded, every message is decoded into a
type, and whatever breaks the protocol of `docs/protocol.md` raises GuestError, which ends the pod.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Literal, TypeVar

import msgspec

from kvmrkt.errors import AppStartError, GuestError
from kvmrkt.stage1.kvm.lines import open_stream, read_lines
from kvmrkt.stage1.kvm.podspec import PROTOCOL, ExportSpec, PodSpec
from kvmrkt.stage1.kvm.ports import CONTROL_PORT

_T = TypeVar("_T")

_LINE_LIMIT_BYTES = 1 << 20
_WAITING_EVENTS = 4096
"""More unread events than any pod of 1,000 apps sends in a row."""


class Hello(msgspec.Struct, frozen=True):
    """The agent's first message."""

    protocol: int
    agent: str
    kernel: str
    uptime_ns: int


class AppStarted(msgspec.Struct, frozen=True):
    """An app's program runs."""

    name: str
    pid: int
    time_ns: int


class AppExited(msgspec.Struct, frozen=True):
    """An app's process is gone: by its own `code`, or by a `signal`."""

    name: str
    time_ns: int
    stopped: bool = False
    code: int | None = None
    signal: int | None = None
    oom_kills: int = 0
    """How many of its processes the guest's kernel killed for want of memory."""

    @property
    def status(self) -> int:
        """As a shell has it: the code, or 128 and the signal's number."""
        return self.code if self.code is not None else 128 + (self.signal or 0)


class PodExited(msgspec.Struct, frozen=True):
    """Every app is gone and every filesystem is synced."""


class AgentFailed(msgspec.Struct, frozen=True):
    """The agent cannot go on."""

    message: str


class SshEnded(msgspec.Struct, frozen=True):
    """The guest's SSH server is gone."""


Event = AppStarted | AppExited | PodExited | AgentFailed | SshEnded
EVENTS: dict[str, type[Event]] = {
    "app.started": AppStarted,
    "app.exited": AppExited,
    "pod.exited": PodExited,
    "agent.failed": AgentFailed,
    "ssh.ended": SshEnded,
}
"""What the agent reports, by method."""


class _ErrorData(msgspec.Struct, frozen=True):
    kind: str = "internal"
    app: str | None = None


class _Error(msgspec.Struct, frozen=True):
    code: int
    message: str
    data: _ErrorData = _ErrorData()


class _Message(msgspec.Struct, frozen=True):
    jsonrpc: Literal["2.0"]
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"{}")
    id: int | None = None
    result: msgspec.Raw = msgspec.Raw(b"{}")
    error: _Error | None = None


class AppStatus(msgspec.Struct, frozen=True):
    """One app in `pod.status`."""

    name: str
    state: Literal["created", "running", "exited"]
    pid: int | None = None
    code: int | None = None
    signal: int | None = None


class GuestStatus(msgspec.Struct, frozen=True):
    """The answer to `pod.status`."""

    apps: tuple[AppStatus, ...]
    memory_available_bytes: int
    uptime_ns: int


class _Exported(msgspec.Struct, frozen=True):
    """The answer to `app.export`."""

    bytes: int


class Agent:
    """A connected agent; make it with `Agent.open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use `open`."""
        self._writer = writer
        self._reader = reader
        self._pending: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._next_id = 1
        self._hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self.events: asyncio.Queue[Event | None] = asyncio.Queue(_WAITING_EVENTS)
        """What the agent reports, in order; None once the port has closed."""

    @classmethod
    async def open(cls, end: socket.socket) -> Agent:
        """Wrap the host's end of the control port."""
        return cls(*await open_stream(end, limit_bytes=_LINE_LIMIT_BYTES))

    async def hello(self) -> Hello:
        """Wait for the agent's first message."""
        return await asyncio.shield(self._hello)

    async def listen(self) -> None:
        """Read until the port closes; run it as a task. Raises GuestError on a broken protocol."""
        try:
            async for line in read_lines(self._reader, port=CONTROL_PORT):
                self._take(line)
        finally:
            gone = GuestError("the agent closed the control port")
            waiting: list[asyncio.Future[Any]] = [*self._pending.values(), self._hello]
            for future in waiting:
                if not future.done():
                    future.set_exception(gone)
                    future.exception()  # whoever waits gets it; nobody waiting is no fault
            self._put(None)

    async def start_pod(self, spec: PodSpec) -> None:
        """Hand over the pod; returns once every app runs. Raises AppStartError with the reason."""
        await self._request("pod.start", spec)

    async def stop_pod(self, grace_seconds: float) -> None:
        """Ask every app to end; after the grace they are killed."""
        await self._request("pod.stop", {"grace_seconds": int(grace_seconds)})

    async def halt(self) -> None:
        """Sync and power off at once."""
        await self._request("pod.halt", {})

    async def signal_app(self, name: str, number: int) -> None:
        """Send an app a signal."""
        await self._request("app.signal", {"name": name, "signal": number})

    async def resize(self, name: str, rows: int, columns: int) -> None:
        """Tell an app's pseudo-terminal the size of the window."""
        await self._request("app.resize", {"name": name, "rows": rows, "columns": columns})

    async def start_ssh(self, program_bytes: int, *, host_key: str, client_key: str) -> None:
        """Have the SSH server started that the port kvmrkt.ssh carries, `program_bytes` long."""
        keys = {"host_key": host_key, "client_key": client_key}
        await self._request("ssh.start", {"program_bytes": program_bytes, **keys})

    async def status(self) -> GuestStatus:
        """The state of the pod's apps, and the guest's free memory."""
        answer = await self._request("pod.status", {})
        return _decode(answer, GuestStatus, "the answer to pod.status")

    async def export_app(self, spec: ExportSpec) -> int:
        """Have an app's root sent as an archive, and return how many bytes that was."""
        answer = await self._request("app.export", spec)
        return _decode(answer, _Exported, "the answer to app.export").bytes

    def close(self) -> None:
        """Close the port."""
        self._writer.close()

    async def _request(
        self, method: str, params: PodSpec | ExportSpec | dict[str, Any]
    ) -> msgspec.Raw:
        number, self._next_id = self._next_id, self._next_id + 1
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        try:
            self._writer.write(msgspec.json.encode(message) + b"\n")
            await self._writer.drain()
            return await future
        except ConnectionError as error:
            raise GuestError(f"could not send {method}: the guest is gone") from error
        finally:
            self._pending.pop(number, None)

    def _take(self, line: bytes) -> None:
        message = _decode(line, _Message, "a message")
        if message.method is None:
            self._take_answer(message)
        elif message.method == "hello":
            self._take_hello(_decode(message.params, Hello, "hello"))
        elif kind := EVENTS.get(message.method):
            self._put(_decode(message.params, kind, message.method))
        # an event this version does not know is a newer agent's; its pod still runs

    def _take_hello(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            raise GuestError(
                f"the agent speaks protocol {hello.protocol}, and this kvmrkt speaks {PROTOCOL}",
                hint="use a stage1 image of the same version as kvmrkt",
            )
        if self._hello.done():
            raise GuestError("the agent said hello twice")
        self._hello.set_result(hello)

    def _take_answer(self, message: _Message) -> None:
        future = self._pending.get(-1 if message.id is None else message.id)
        if future is None or future.done():
            raise GuestError("the agent answered a request that nobody made")
        if message.error is None:
            future.set_result(message.result)
            return
        app, reason = message.error.data.app, message.error.message
        where = f'cannot start app "{app}": ' if app else "the agent refused: "
        future.set_exception(AppStartError(f"{where}{reason}"))

    def _put(self, event: Event | None) -> None:
        try:
            self.events.put_nowait(event)
        except asyncio.QueueFull as error:
            raise GuestError("the agent floods the host with events") from error


def _decode(raw: bytes | msgspec.Raw, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GuestError(f"the agent broke the protocol with {what}: {error}") from error
