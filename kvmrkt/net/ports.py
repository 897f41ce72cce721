"""Ports of the host that lead to pods: held for a pod's life, so that nobody else takes them."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from kvmrkt.errors import HostError, describe

if TYPE_CHECKING:
    from contextlib import ExitStack

    from kvmrkt.net.rules import Forward

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104 - rkt's default


def hold_ports(forwards: tuple[Forward, ...], stack: ExitStack) -> None:
    """Bind each port until the stack unwinds; HostError for one that is in use.

    Nothing listens there: packets are led to the pod before they would reach a socket.
    """
    for forward in forwards:
        address = forward.host_ip or _ANY[socket.AF_INET]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        held = stack.enter_context(socket.socket(family, _KINDS[forward.protocol]))
        if forward.protocol == "tcp":  # connections that end are no use of a port
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            held.bind((address, forward.host_port))
            if forward.protocol == "tcp":
                _check_unused(held)
        except OSError as error:
            place = f"{forward.protocol} port {forward.host_port} of {address}"
            if error.errno == errno.EADDRINUSE:
                raise HostError(
                    f"{place} is in use on this host",
                    hint="another pod, or a service of the host, has it: see ss -lntup",
                ) from None
            raise HostError(f"cannot take {place}: {describe(error)}") from None


def _check_unused(held: socket.socket) -> None:
    """Two sockets with SO_REUSEADDR may bind one port as long as none listens: so listen.

    Raises OSError. The backlog is never served: the rules lead every packet to the pod.
    """
    held.listen(1)
