"""A DHCP client that speaks for a guest, over the guest's own link.

The host asks and not the guest: so the address is known before the guest runs, and what it sends
can be held to it. Frames are written into the tap as if the guest sent them; answers are seen on
their way to it, also while it runs.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

from kvmrkt.errors import HostError
from kvmrkt.net.dhcp_messages import (
    ACK,
    DISCOVER,
    NAK,
    OFFER,
    RELEASE,
    REQUEST,
    Reply,
    is_for_ever,
    message,
    parse_reply,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_TUNGETVNETHDRSZ = 0x800454D7
_PACKET_BYTES = 4096
_ETH_P_ALL = 3
_PATIENCE_SECONDS = (2.0, 4.0, 8.0, 8.0)
"""How long each try waits for an answer; a server may first look whether an address is in use."""
_RETRY_SECONDS = 30.0


class DhcpClient:
    """One guest's lease on one link."""

    def __init__(self, device: str, tap_fd: int, mac: str) -> None:
        """`device` is the tap or macvtap, `tap_fd` a descriptor of it."""
        self._device, self._tap_fd, self._mac = device, tap_fd, mac
        self._transaction = secrets.randbits(32)
        self._lease: Reply | None = None
        self._end = os.eventfd(0)
        self._thread: threading.Thread | None = None
        self.warn: Callable[[str], None] = _say_nothing
        """Who is told when the lease is lost."""

    def obtain(self) -> Reply:
        """A lease. HostError when no server gives one."""
        for patience in _PATIENCE_SECONDS:
            offer = self._ask(message(DISCOVER, self._transaction, self._mac), patience, OFFER)
            if offer is None:
                continue
            request = message(REQUEST, self._transaction, self._mac, wanted=offer.address.ip,
                              server=offer.server)  # fmt: skip
            self._lease = self._ask(request, patience, ACK)
            if self._lease is not None:
                return self._lease
        raise HostError(
            f"no DHCP server answered on {self._device}",
            hint="is there one on the network's bridge or master, and does it have addresses left?",
        )

    def keep(self) -> None:
        """Renew the lease from now on, in a thread of its own, until `close`."""
        lease = self._lease
        if self._thread is None and lease is not None and not is_for_ever(lease.seconds):
            self._thread = threading.Thread(target=self._renew, args=(lease,), name="dhcp")
            self._thread.start()

    def close(self) -> None:
        """Give the lease back."""
        os.eventfd_write(self._end, 1)
        if self._thread is not None:
            self._thread.join()
        if self._lease is not None:
            lease = self._lease
            self._send(message(RELEASE, self._transaction, self._mac, own=lease.address.ip,
                               server=lease.server))  # fmt: skip
        os.close(self._end)

    def _renew(self, lease: Reply) -> None:
        while not self._ends_within(lease.seconds / 2):
            end = time.monotonic() + lease.seconds / 2
            request = message(REQUEST, self._transaction, self._mac, own=lease.address.ip)
            while True:
                answer = self._ask(request, _PATIENCE_SECONDS[-1], ACK)
                if answer is not None and answer.address.ip == lease.address.ip:
                    lease = answer
                    break
                if time.monotonic() > end or answer is not None:
                    self.warn(f"the DHCP lease of {lease.address.ip} on {self._device} was lost")
                    return
                if self._ends_within(min(_RETRY_SECONDS, lease.seconds / 8)):
                    return

    def _ends_within(self, seconds: float) -> bool:
        """Wait, but no longer than until `close`."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _send(self, frame: bytes) -> None:
        size = struct.unpack("i", fcntl.ioctl(self._tap_fd, _TUNGETVNETHDRSZ, bytes(4)))[0]
        os.write(self._tap_fd, bytes(size) + frame)

    def _ask(self, frame: bytes, patience_seconds: float, wanted: int) -> Reply | None:
        """The first answer of the kind that is wanted; None for a refusal or none in time."""
        # open for as long as it is read: other packets would fill it
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as seen:
            seen.bind((self._device, 0))
            self._send(frame)
            poll = select.poll()
            for descriptor in (seen.fileno(), self._end):
                poll.register(descriptor, select.POLLIN)
            deadline = time.monotonic() + patience_seconds
            while (left := deadline - time.monotonic()) > 0:
                ready = [descriptor for descriptor, _ in poll.poll(left * 1000)]
                if self._end in ready or not ready:
                    break
                reply = parse_reply(seen.recv(_PACKET_BYTES), self._transaction, self._mac)
                if reply is not None and reply.kind in (wanted, NAK):
                    return reply if reply.kind == wanted else None
        return None


def _say_nothing(line: str) -> None:
    return
