"""Sockets that an init system has opened for the pod, as sd_listen_fds(3) hands them over."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from kvmrkt.errors import PodError, UsageError

if TYPE_CHECKING:
    from kvmrkt.appc.image_manifest import Port
    from kvmrkt.appc.pod_manifest import PodManifest

FIRST_FD = 3
_PROTOCOLS = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}


class PassedSocket(NamedTuple):
    """One listening socket; `protocol` is None for what is neither TCP nor UDP."""

    fd: int
    name: str
    protocol: str | None
    port: int

    def __str__(self) -> str:
        """As a person knows it."""
        return f"{self.protocol} port {self.port}" if self.protocol else f'socket "{self.name}"'


def passed_sockets() -> tuple[PassedSocket, ...]:
    """The sockets meant for this process, closed on exec from now on.

    Raises UsageError if LISTEN_FDS does not say what is there.
    """
    if os.environ.get("LISTEN_PID") != f"{os.getpid()}":
        return ()
    text = os.environ.get("LISTEN_FDS", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise UsageError(f'LISTEN_FDS: "{text}" is not a number of sockets')
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * int(text)
    return tuple(
        _look_at(FIRST_FD + index, names[index] or "unknown") for index in range(int(text))
    )


class ActivatedPort(NamedTuple):
    """A port of an app whose connections come by a passed socket."""

    fd: int
    protocol: str
    host_port: int
    port: int
    """The app's."""


def activated_ports(manifest: PodManifest, *, networked: bool) -> tuple[ActivatedPort, ...]:
    """The port that each passed socket is for.

    Raises, before a pod is made, PodError for a socket that no port of the pod is for, and for a
    pod without the network by which connections reach it.
    """
    if "LISTEN_FDS" not in os.environ:
        return ()
    found = []
    for passed in passed_sockets():
        port = _port_for(manifest, passed)
        if port is None or passed.protocol is None:
            raise PodError(
                f"no port of the pod is for the {passed}, which was passed to it (LISTEN_FDS)",
                hint="the image must declare the port as socketActivated, and --port=NAME:PORT"
                " connect it with the one the socket listens on",
            )
        if not networked:
            raise PodError(
                f'cannot activate port "{port.name}" by the {passed}: connections reach a pod over'
                " a network, and this pod has none",
                hint="give it one, like --net=default",
            )
        found.append(ActivatedPort(passed.fd, passed.protocol, passed.port, port.port))
    return tuple(found)


def _port_for(manifest: PodManifest, passed: PassedSocket) -> Port | None:
    exposed = {port.name for port in manifest.ports if port.host_port == passed.port}
    for app in manifest.apps:
        for port in app.app.ports if app.app is not None else ():
            fits = port.socket_activated and port.protocol == passed.protocol
            if fits and port.name in exposed:
                return port
    return None


def _look_at(fd: int, name: str) -> PassedSocket:
    try:
        os.set_inheritable(fd, False)
        with socket.socket(fileno=os.dup(fd)) as passed:
            if passed.family not in (socket.AF_INET, socket.AF_INET6):
                return PassedSocket(fd, name, None, 0)
            return PassedSocket(fd, name, _PROTOCOLS.get(passed.type), passed.getsockname()[1])
    except OSError as error:
        raise UsageError(f"LISTEN_FDS: descriptor {fd} is not a socket: {error.strerror}") from None
