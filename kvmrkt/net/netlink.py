"""The one door to the kernel's links, addresses and routes: rtnetlink(7), as much as pods need.

Written here since the library for it, pyroute2, costs 190 ms of processor time to import, whatever
part of it is wanted, and a whole start may cost 150.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Self

import msgspec

from kvmrkt.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmrkt.net.ipam_conf import Address, Interface, Subnet

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_REPLY_BYTES = 1 << 18
_PATIENCE_SECONDS = 30

_REQUEST, _ACK, _REPLACE, _EXCLUSIVE, _CREATE, _DUMP = 1, 4, 0x100, 0x200, 0x400, 0x300
_ERROR, _DONE = 2, 3
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _GETADDR, _NEWROUTE, _GETROUTE = 20, 22, 24, 26
# linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK = 1, 3, 4, 5
_IFLA_MASTER, _IFLA_LINKINFO = 10, 18
_IFLA_IFALIAS, _INFO_KIND, _INFO_DATA = 20, 1, 2
_IFLA_PROTINFO, _BRPORT_MODE = 12, 4
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_NESTED = 0x8000
_UP = 1
_NO_DAD = 2
_MAIN, _BOOT, _UNICAST, _SCOPE_LINK = 254, 3, 1, 253
_AF_BRIDGE = 7


class Link(msgspec.Struct, frozen=True):
    """A link of the host."""

    index: int
    name: str
    kind: str
    """As the kernel names it: `tun`, `bridge`, `macvtap`, …; empty for hardware."""
    mac: str
    mtu: int
    master: int
    """The index of the bridge it is a port of, or 0."""
    alias: str


class NetlinkError(HostError):
    """The kernel refused; `number` is its reason (errno)."""

    def __init__(self, attempt: str, number: int) -> None:
        """`attempt` says what was to be done."""
        super().__init__(f"cannot {attempt}: {os.strerror(number)}")
        self.number = number


class Netlink:
    """A connection to the kernel; each call is one change or one question."""

    def __init__(self) -> None:
        """Raises OSError where the kernel has no network configuration."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(_PATIENCE_SECONDS)
        self._sequence = 0

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connection."""
        self._socket.close()

    # -- links ---------------------------------------------------------------------------------

    def links(self) -> list[Link]:
        """Every link of this network namespace."""
        body = _LINK.pack(0, 0, 0, 0, 0)
        return [_link(reply) for reply in self._ask(_GETLINK, body, "list the links")]

    def find(self, name: str) -> Link | None:
        """The link of that name."""
        return next((link for link in self.links() if link.name == name), None)

    def add_link(
        self, name: str, kind: str, *, parent: int = 0, data: bytes = b"", alias: str = ""
    ) -> Link:
        """Make a link that is down; `data` are the kind's own attributes.

        NetlinkError with EEXIST if there is one of that name.
        """
        info = attribute(_INFO_KIND, kind.encode())
        if data:
            info += attribute(_INFO_DATA | _NESTED, data)
        body = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
        if parent:
            body += attribute(_IFLA_LINK, struct.pack("=I", parent))
        body += attribute(_IFLA_LINKINFO | _NESTED, info)
        self._change(_NEWLINK, _CREATE | _EXCLUSIVE, body, f"make the {kind} {name}")
        made = self.find(name)
        if made is None:
            raise NetlinkError(f"find the {kind} {name} just made", errno.ENODEV)
        if alias:
            self.set_link(made, alias=alias)
        return made

    def set_link(
        self,
        link: Link,
        *,
        up: bool | None = None,
        mtu: int | None = None,
        mac: str | None = None,
        master: int | None = None,
        alias: str | None = None,
    ) -> None:
        """Change what is given."""
        flags = _UP if up else 0
        body = _LINK.pack(0, 0, link.index, flags, _UP if up is not None else 0)
        if mtu is not None:
            body += attribute(_IFLA_MTU, struct.pack("=I", mtu))
        if mac is not None:
            body += attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
        if master is not None:
            body += attribute(_IFLA_MASTER, struct.pack("=I", master))
        if alias is not None:
            body += attribute(_IFLA_IFALIAS, alias.encode())
        self._change(_NEWLINK, 0, body, f"set up the link {link.name}")

    def set_hairpin(self, link: Link) -> None:
        """Let a bridge send frames back out of the port they came in by."""
        port = attribute(_IFLA_PROTINFO | _NESTED, attribute(_BRPORT_MODE, b"\1"))
        body = _LINK.pack(_AF_BRIDGE, 0, link.index, 0, 0) + port
        self._change(_NEWLINK, 0, body, f"set hairpin mode of {link.name}")

    def delete_link(self, name: str) -> bool:
        """Delete a link; False if there is none."""
        link = self.find(name)
        if link is None:
            return False
        try:
            body = _LINK.pack(0, 0, link.index, 0, 0)
            self._change(_DELLINK, 0, body, f"delete the link {name}")
        except NetlinkError as error:
            if error.number != errno.ENODEV:
                raise
        return True

    # -- addresses and routes ------------------------------------------------------------------

    def add_address(self, link: Link, address: Interface) -> None:
        """Give a link an address; one that it has already is fine."""
        value = address.ip.packed
        flags = _NO_DAD if address.version == 6 else 0
        body = _ADDRESS.pack(_family(address.version), address.network.prefixlen, flags, 0,
                             link.index)  # fmt: skip
        body += attribute(_IFA_LOCAL, value) + attribute(_IFA_ADDRESS, value)
        self._change(_NEWADDR, _CREATE | _REPLACE, body, f"give {link.name} the address {address}")

    def addresses(self, link: Link) -> list[Interface]:
        """The addresses of a link."""
        from ipaddress import ip_address, ip_interface

        found = []
        for reply in self._ask(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0), "list the addresses"):
            _, prefix, _, _, index = _ADDRESS.unpack_from(reply)
            parts = dict(attributes(reply[_ADDRESS.size :]))
            value = parts.get(_IFA_LOCAL) or parts.get(_IFA_ADDRESS)
            if index == link.index and value is not None:
                found.append(ip_interface(f"{ip_address(value)}/{prefix}"))
        return found

    def add_route(self, destination: Subnet, link: Link) -> None:
        """Lead a destination to a link; NetlinkError with EEXIST if it leads elsewhere."""
        header = _ROUTE.pack(
            _family(destination.version), destination.prefixlen, 0, 0, _MAIN, _BOOT,
            _SCOPE_LINK if destination.version == 4 else 0, _UNICAST, 0,
        )  # fmt: skip
        body = header + attribute(_RTA_DST, destination.network_address.packed)
        body += attribute(_RTA_OIF, struct.pack("=I", link.index))
        what = f"lead {destination} to {link.name}"
        self._change(_NEWROUTE, _CREATE | _EXCLUSIVE, body, what)

    def routes(self, link: Link) -> list[tuple[Subnet, Address | None]]:
        """The unicast routes by a link in the main table: destination, and gateway if any.

        Those that the kernel makes for every IPv6 link are left out.
        """
        from ipaddress import ip_address, ip_network

        found: list[tuple[Subnet, Address | None]] = []
        for reply in self._ask(_GETROUTE, _ROUTE.pack(*[0] * 9), "list the routes"):
            family, prefix, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(reply)
            parts = dict(attributes(reply[_ROUTE.size :]))
            out = int.from_bytes(parts.get(_RTA_OIF, b""), "little")
            if out != link.index or table != _MAIN or kind != _UNICAST:
                continue
            base = parts.get(_RTA_DST, bytes(4 if family == socket.AF_INET else 16))
            to = ip_network(f"{ip_address(base)}/{prefix}")
            via = parts.get(_RTA_GATEWAY)
            if not (to.is_link_local or to.is_multicast):
                found.append((to, ip_address(via) if via else None))
        return found

    # -- the wire ------------------------------------------------------------------------------

    def _change(self, kind: int, flags: int, body: bytes, attempt: str) -> None:
        for _ in self._exchange(kind, flags | _ACK, body, attempt):
            pass

    def _ask(self, kind: int, body: bytes, attempt: str) -> list[bytes]:
        return list(self._exchange(kind, _DUMP, body, attempt))

    def _exchange(self, kind: int, flags: int, body: bytes, attempt: str) -> Iterator[bytes]:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, self._sequence, 0)
        try:
            self._socket.send(header + body)
            while True:
                for its_kind, sequence, reply in _messages(self._socket.recv(_REPLY_BYTES)):
                    if sequence != self._sequence:
                        continue
                    if its_kind == _DONE:
                        return
                    if its_kind == _ERROR:
                        _check(reply, attempt)
                        return
                    yield reply
        except OSError as error:
            raise NetlinkError(attempt, error.errno or errno.ETIMEDOUT) from None


def _check(reply: bytes, attempt: str) -> None:
    number = -int(struct.unpack_from("=i", reply)[0])
    if number:
        raise NetlinkError(attempt, number)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each attribute."""
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, _, sequence, _ = _HEADER.unpack_from(data)
        if length < _HEADER.size:
            return
        yield kind, sequence, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _link(reply: bytes) -> Link:
    _, _, index, _, _ = _LINK.unpack_from(reply)
    parts = dict(attributes(reply[_LINK.size :]))
    info = dict(attributes(parts.get(_IFLA_LINKINFO, b"")))
    return Link(
        index=index,
        name=_text(parts.get(_IFLA_IFNAME, b"")),
        kind=_text(info.get(_INFO_KIND, b"")),
        mac=parts.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=int.from_bytes(parts.get(_IFLA_MTU, b""), "little"),
        master=int.from_bytes(parts.get(_IFLA_MASTER, b""), "little"),
        alias=_text(parts.get(_IFLA_IFALIAS, b"")),
    )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6
