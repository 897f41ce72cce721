"""Connections at sockets that an init system passed, carried to the pod's apps over its network.

An init system starts a pod since somebody has connected; the app may still be starting. So a
connection waits until the app's port answers. What is carried is bounded: a side that does not
read holds up the other side of its own connection, and nobody else.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from kvmrkt.activation import ActivatedPort

CONNECTIONS = 1024
"""Of one port at once; the next ones wait in the socket's own queue."""
_PIECE_BYTES = 1 << 16
_DATAGRAM_BYTES = 1 << 16
_APP_SECONDS = 60.0
"""How long a connection waits for an app that does not listen yet."""
_PAUSE_SECONDS = 0.1
_IDLE_SECONDS = 60.0
"""A client by UDP of whom nothing was heard for so long is forgotten."""


class Activation(msgspec.Struct, frozen=True):
    """A port, and the pod's address at which its app listens."""

    port: ActivatedPort
    address: str


async def serve(activation: Activation) -> None:
    """Carry connections, or datagrams, until cancelled."""
    # what was passed stays open: the init system may hand it to the next pod
    with socket.socket(fileno=os.dup(activation.port.fd)) as passed:
        passed.setblocking(False)
        if activation.port.protocol == "udp":
            await _serve_datagrams(passed, activation)
        else:
            await _serve_connections(passed, activation)


async def _serve_connections(passed: socket.socket, activation: Activation) -> None:
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(CONNECTIONS)
    async with asyncio.TaskGroup() as connections:
        while True:
            await room.acquire()
            try:
                client, _ = await loop.sock_accept(passed)
            except ConnectionError:  # it hung up before it was accepted
                room.release()
                continue
            task = connections.create_task(_carry(client, activation))
            task.add_done_callback(lambda _: room.release())


async def _carry(client: socket.socket, activation: Activation) -> None:
    with client:
        client.setblocking(False)
        server = await _reach_app(activation)
        if server is None:
            return  # the client sees that nobody answered
        with server:
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_copy(client, server))
                    both.create_task(_copy(server, client))
            except* OSError:
                pass  # one of them hung up, and so the other is hung up on


async def _reach_app(activation: Activation) -> socket.socket | None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _APP_SECONDS
    while True:
        server = _socket_to(activation.address, socket.SOCK_STREAM)
        try:
            async with asyncio.timeout_at(deadline):
                await loop.sock_connect(server, (activation.address, activation.port.port))
        except (OSError, TimeoutError):
            server.close()
            if loop.time() > deadline:
                return None
            await asyncio.sleep(_PAUSE_SECONDS)
        except BaseException:
            server.close()
            raise
        else:
            return server


async def _copy(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _PIECE_BYTES):
        await loop.sock_sendall(target, data)
    target.shutdown(socket.SHUT_WR)


async def _serve_datagrams(passed: socket.socket, activation: Activation) -> None:
    """Each client has a socket of its own towards the app, by which answers find back."""
    loop = asyncio.get_running_loop()
    clients: dict[object, socket.socket] = {}
    async with asyncio.TaskGroup() as answers:
        while True:
            data, client = await loop.sock_recvfrom(passed, _DATAGRAM_BYTES)
            server = clients.get(client)
            if server is None:
                if len(clients) >= CONNECTIONS:
                    continue  # a datagram may be lost
                server = clients[client] = _socket_to(activation.address, socket.SOCK_DGRAM)
                server.connect((activation.address, activation.port.port))
                answers.create_task(_answer(passed, client, server, clients))
            with suppress(OSError):  # the app does not listen yet
                await loop.sock_sendall(server, data)


async def _answer(
    passed: socket.socket,
    client: object,
    server: socket.socket,
    clients: dict[object, socket.socket],
) -> None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            async with asyncio.timeout(_IDLE_SECONDS):
                data = await loop.sock_recv(server, _DATAGRAM_BYTES)
            await loop.sock_sendto(passed, data, client)  # type: ignore[arg-type]
    except (OSError, TimeoutError):
        pass  # nothing came for long, or the app's port is closed
    finally:
        del clients[client]
        server.close()


def _socket_to(address: str, kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    made.setblocking(False)
    return made
