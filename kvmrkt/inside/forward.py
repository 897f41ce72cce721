"""Forwarding a port of the host to one of a pod, which needs no network: each connection is a
channel of one SSH connection, to the guest's own loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, NamedTuple

import paramiko

from kvmrkt.errors import HostError, describe
from kvmrkt.inside.connection import ConnectionLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmrkt.inside.connection import Connection

CONNECTIONS = 60
"""At once; the guest's server allows 64 channels."""
_CHUNK_BYTES = 64 << 10
_POLL_SECONDS = 0.5


class Forward(NamedTuple):
    """What to listen on, and the port in the pod; `host_port` 0 lets the system choose."""

    host_address: str
    host_port: int
    pod_port: int


def listen(forward: Forward) -> socket.socket:
    """The listening socket; raises HostError."""
    family = socket.AF_INET6 if ":" in forward.host_address else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((forward.host_address, forward.host_port))
        server.listen()
    except OSError as error:
        server.close()
        raise HostError(
            f"cannot listen on {forward.host_address} port {forward.host_port}: {describe(error)}"
        ) from error
    return server


def serve(
    connection: Connection, server: socket.socket, pod_port: int, warn: Callable[[str], None]
) -> None:
    """Accept and relay until the pod ends, which raises ConnectionLostError."""
    server.settimeout(_POLL_SECONDS)
    room = threading.BoundedSemaphore(CONNECTIONS)
    while connection.transport.is_active():
        try:
            client, _ = server.accept()
        except TimeoutError:
            continue
        client.settimeout(None)
        room.acquire()
        threading.Thread(
            target=_relay, args=(connection, client, pod_port, room, warn), daemon=True
        ).start()
    raise ConnectionLostError("the pod has ended")


def _relay(
    connection: Connection,
    client: socket.socket,
    pod_port: int,
    room: threading.BoundedSemaphore,
    warn: Callable[[str], None],
) -> None:
    with client:
        try:
            channel = connection.transport.open_channel(
                "direct-tcpip", ("localhost", pod_port), ("localhost", 0)
            )
        except (paramiko.SSHException, EOFError, OSError):
            if connection.transport.is_active():
                warn(f"nothing listens on port {pod_port} of the pod")
            room.release()
            return
        upward = threading.Thread(target=_carry_up, args=(connection, client, channel), daemon=True)
        upward.start()
        with contextlib.suppress(OSError, EOFError):
            while data := channel.recv(_CHUNK_BYTES):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            upward.join()
        channel.close()
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)  # which ends the other direction too
        upward.join()
        room.release()


def _carry_up(connection: Connection, client: socket.socket, channel: paramiko.Channel) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        while data := client.recv(_CHUNK_BYTES):
            connection.send(channel, data)
        channel.shutdown_write()
