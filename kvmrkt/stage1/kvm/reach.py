"""The way into a running pod: clients at a socket, the guest's SSH server at a port.

SSH runs between the client's process and the guest; this side only carries bytes, each client's in
a stream of its own. Whoever does not read, or dies, holds up nobody else: every stream has a
bounded credit in both directions, and what the guest sends beyond it ends the pod.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.errors import GuestError, HostError, KvmrktError, describe
from kvmrkt.stage1.kvm.frames import (
    CREDIT_BYTES,
    DATA_BYTES,
    Frame,
    FrameReader,
    Kind,
    credit,
)

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from kvmrkt.stage1.kvm.agent import Agent

CLIENTS = 128
"""At once; the next one is told so."""
BEGIN_SECONDS = 120.0
"""For a guest to take the SSH server and start it, under whatever load."""
_READ_BYTES = 1 << 18
_STALE_STREAMS = "a stream that nobody opened"


class Way(msgspec.Struct, frozen=True):
    """What the way into a pod is made of."""

    socket: Path
    """Where clients come, in the pod's runtime folder."""
    keys: Path
    """The pod's keys, made by its first client (kvmrkt/pods/keys.py)."""
    program: Path
    """The guest's SSH server."""


class _Stream:
    """One client."""

    def __init__(self) -> None:
        self.may_send_bytes = CREDIT_BYTES
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        """What the guest sent; bounded by its credit. None: it closed the stream."""
        self.arrived_bytes = 0


class Reach:
    """Serves one pod's clients; `serve` is its task."""

    def __init__(self, way: Way, port: socket.socket, agent: Agent) -> None:
        """`port` is the host's end of the port kvmrkt.ssh."""
        self._way = way
        self._port = port
        self._agent = agent
        self._streams: dict[int, _Stream] = {}
        self._last = 0
        self._clients: set[asyncio.Task[None]] = set()
        self._started: asyncio.Future[None] | None = None
        self._is_open = False

    def open(self) -> None:
        """The apps have started: clients are let through from now on."""
        self._is_open = True

    async def serve(self) -> None:
        """Listen until cancelled; raises GuestError when the guest breaks the protocol."""
        from kvmrkt.stage1.kvm.lines import open_stream

        self._reader, self._writer = await open_stream(self._port, limit_bytes=_READ_BYTES)
        server = await asyncio.start_unix_server(self._meet, self._way.socket)
        self._way.socket.chmod(0o600)  # in a folder that only its owner may enter
        frames = FrameReader()
        try:
            while data := await self._reader.read(_READ_BYTES):
                for frame in frames.feed(data):
                    self._take(frame)
        except ConnectionError:
            pass  # QEMU is gone; the supervisor says why
        finally:
            server.close()
            for task in self._clients:
                task.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)
            self._writer.close()

    def server_ended(self) -> None:
        """The guest's SSH server is gone: so are its clients, and there is no second one."""
        self._started = asyncio.get_running_loop().create_future()
        self._started.set_exception(GuestError("the SSH server of the pod has ended"))
        self._started.exception()  # whoever asks gets it; nobody asking is no fault
        for stream in self._streams.values():
            stream.arrived.put_nowait(None)

    # -- the guest's side ----------------------------------------------------------------------

    def _take(self, frame: Frame) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None:
            if not 0 < frame.stream <= self._last:
                raise _broken(_STALE_STREAMS)
            return  # it was closed here while this was under way
        if frame.kind == Kind.DATA:
            stream.arrived_bytes += len(frame.payload)
            if stream.arrived_bytes > CREDIT_BYTES:
                raise _broken("more of a stream than it had credit for")
            stream.arrived.put_nowait(frame.payload)
        elif frame.kind == Kind.CREDIT:
            stream.may_send_bytes += frame.amount
            if stream.may_send_bytes > CREDIT_BYTES:
                raise _broken("credit for what was never sent")
            stream.may_send.set()
        else:
            stream.arrived.put_nowait(None)

    async def _send(self, frame: Frame) -> None:
        self._writer.write(frame.encode())
        await self._writer.drain()

    async def _begin(self) -> None:
        """Hand the SSH server over to the guest, and its keys."""
        try:
            program = self._way.program.read_bytes()
            host_key = (self._way.keys / "host_key").read_text()
            client_key = (self._way.keys / "client_key.pub").read_text()
        except OSError as error:
            raise HostError(f"cannot start the pod's SSH server: {describe(error)}") from error
        answer = asyncio.ensure_future(
            self._agent.start_ssh(len(program), host_key=host_key, client_key=client_key)
        )
        await asyncio.sleep(0)  # the request goes first
        self._writer.write(program)
        try:
            async with asyncio.timeout(BEGIN_SECONDS):
                await asyncio.gather(answer, self._writer.drain())
        except TimeoutError:
            raise GuestError(
                f"the guest did not start its SSH server within {BEGIN_SECONDS:g} seconds"
            ) from None

    # -- the clients' side ---------------------------------------------------------------------

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            await self._serve_client(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client is gone, or the pod
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve_client(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        refusal = await self._refusal()
        writer.write((refusal or "ok").replace("\n", " ").encode() + b"\n")
        await writer.drain()
        if refusal is not None:
            return
        self._last += 1
        number, stream = self._last, _Stream()
        self._streams[number] = stream
        try:
            await self._send(Frame(Kind.OPEN, number))
            upward = asyncio.ensure_future(self._carry_up(number, stream, reader))
            downward = asyncio.ensure_future(self._carry_down(number, stream, writer))
            try:
                await asyncio.wait((upward, downward), return_when=asyncio.FIRST_COMPLETED)
            finally:
                upward.cancel()
                downward.cancel()
                await asyncio.gather(upward, downward, return_exceptions=True)
        finally:
            del self._streams[number]
            self._writer.write(Frame(Kind.CLOSE, number).encode())

    async def _refusal(self) -> str | None:
        """Why a client cannot be served; None once the guest's SSH server runs."""
        if not self._is_open:
            return "its apps have not started yet"
        if len(self._streams) >= CLIENTS:
            return f"the pod has {CLIENTS} sessions, and takes no more"
        if self._started is None:
            self._started = asyncio.ensure_future(self._begin())
        try:
            await asyncio.shield(self._started)
        except KvmrktError as error:
            return ": ".join(error.causes())
        return None

    async def _carry_up(self, number: int, stream: _Stream, reader: asyncio.StreamReader) -> None:
        while True:
            while not stream.may_send_bytes:
                stream.may_send.clear()
                await stream.may_send.wait()
            data = await reader.read(min(DATA_BYTES, stream.may_send_bytes))
            if not data:
                return
            stream.may_send_bytes -= len(data)
            await self._send(Frame(Kind.DATA, number, data))

    async def _carry_down(self, number: int, stream: _Stream, writer: asyncio.StreamWriter) -> None:
        while (data := await stream.arrived.get()) is not None:
            writer.write(data)
            await writer.drain()
            stream.arrived_bytes -= len(data)
            await self._send(credit(number, len(data)))
        with contextlib.suppress(ConnectionError):
            await writer.drain()


def _broken(what: str) -> GuestError:
    return GuestError(f"the guest broke the protocol on the port kvmrkt.ssh with {what}")
