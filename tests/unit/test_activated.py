"""Connections at passed sockets, carried to an app: here both ends are the test's."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, cast

import pytest

from kvmrkt.activation import ActivatedPort
from kvmrkt.stage1.kvm import activated
from kvmrkt.stage1.kvm.activated import Activation, serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LOOPBACK = "127.0.0.1"
MEBIBYTE = os.urandom(1 << 20)


def carrying(kind: socket.SocketKind, app_port: int, act: Callable[[int], Awaitable[None]]) -> None:
    """Serve a passed socket while `act`, which is given its port, runs."""

    async def main() -> None:
        with socket.socket(socket.AF_INET, kind) as passed:
            passed.bind((LOOPBACK, 0))
            if kind is socket.SOCK_STREAM:
                passed.listen()
            port = passed.getsockname()[1]
            protocol = "tcp" if kind is socket.SOCK_STREAM else "udp"
            wanted = ActivatedPort(passed.fileno(), protocol, port, app_port)
            task = asyncio.ensure_future(serve(Activation(wanted, LOOPBACK)))
            try:
                await asyncio.wait_for(act(port), 60)
                assert not task.done(), task.result()
            finally:
                task.cancel()
                await asyncio.wait((task,))

    asyncio.run(main())


def free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as server:
        port: int = server.getsockname()[1]
        return port


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())  # all of it, once the other side has finished
    await writer.drain()
    writer.close()


async def talk(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def test_both_directions_and_the_end_of_each_are_carried() -> None:
    app_port = free_port()

    async def act(port: int) -> None:
        async with await asyncio.start_server(echo, LOOPBACK, app_port):
            answers = await asyncio.gather(*(talk(port, MEBIBYTE) for _ in range(3)))
        assert answers == [MEBIBYTE] * 3

    carrying(socket.SOCK_STREAM, app_port, act)


def test_a_connection_waits_for_an_app_that_does_not_listen_yet() -> None:
    app_port = free_port()

    async def act(port: int) -> None:
        early = asyncio.ensure_future(talk(port, b"early"))
        await asyncio.sleep(0.3)
        assert not early.done()
        async with await asyncio.start_server(echo, LOOPBACK, app_port):
            assert await early == b"early"

    carrying(socket.SOCK_STREAM, app_port, act)


def test_a_connection_to_an_app_that_never_listens_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(activated, "_APP_SECONDS", 0.0)

    async def act(port: int) -> None:
        assert await talk(port, b"") == b""

    carrying(socket.SOCK_STREAM, free_port(), act)


def test_a_client_that_hangs_up_is_no_other_ones_business() -> None:
    app_port = free_port()

    async def act(port: int) -> None:
        async with await asyncio.start_server(echo, LOOPBACK, app_port):
            for _ in range(5):
                rude = socket.create_connection((LOOPBACK, port))
                linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                rude.close()  # a reset, not an end
            assert await talk(port, b"polite") == b"polite"

    carrying(socket.SOCK_STREAM, app_port, act)


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._transport.sendto(b"echo " + data, addr)  # type: ignore[arg-type]


def test_datagrams_find_back_to_who_sent_them() -> None:
    app_port = free_port()

    async def act(port: int) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(_Echo, (LOOPBACK, app_port))
        clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
        for number, client in enumerate(clients):
            client.setblocking(False)
            client.connect((LOOPBACK, port))
            await loop.sock_sendall(client, b"%d" % number)
        answers = [await loop.sock_recv(client, 100) for client in clients]
        for client in clients:
            client.close()
        transport.close()
        assert answers == [b"echo 0", b"echo 1", b"echo 2"]

    carrying(socket.SOCK_DGRAM, app_port, act)
