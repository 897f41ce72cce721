"""DHCP's messages (RFC 2131, 2132, 3442) in Ethernet frames, as a client needs them. Pure.

What a server says is anybody's word on that network: bounded and checked.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import NamedTuple

from kvmrkt.net.conf import Dns

DISCOVER, OFFER, REQUEST, ACK, NAK, RELEASE = 1, 2, 3, 5, 6, 7
_SERVER_PORT, _CLIENT_PORT = 67, 68
_BOOTP = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_MAGIC = b"\x63\x82\x53\x63"
_BROADCAST = 0x8000
_NOWHERE, _EVERYWHERE = IPv4Address(0), IPv4Address("255.255.255.255")
_MASK, _ROUTER, _NAMES, _DOMAIN, _MTU = 1, 3, 6, 15, 26
_WANTED, _LEASE, _TYPE, _SERVER, _ASKED, _CLIENT, _ROUTES = 50, 51, 53, 54, 55, 61, 121
_MAX_SECONDS = 0xFFFFFFFF
_MIN_SECONDS = 60
_MIN_MTU, _MAX_MTU = 576, 65535


class Reply(NamedTuple):
    """What a server said."""

    kind: int
    address: IPv4Interface
    server: IPv4Address
    seconds: int
    """How long the address is the client's; the largest number means for ever."""
    gateway: IPv4Address | None = None
    routes: tuple[tuple[IPv4Network, IPv4Address], ...] = ()
    dns: Dns = Dns()
    mtu: int | None = None


def message(
    kind: int,
    transaction: int,
    mac: str,
    *,
    own: IPv4Address = _NOWHERE,
    wanted: IPv4Address | None = None,
    server: IPv4Address | None = None,
) -> bytes:
    """A client's frame; `own` is the address it has already."""
    card = bytes.fromhex(mac.replace(":", ""))
    options = _option(_TYPE, bytes([kind])) + _option(_CLIENT, b"\1" + card)
    if wanted is not None:
        options += _option(_WANTED, wanted.packed)
    if server is not None:
        options += _option(_SERVER, server.packed)
    if kind in (DISCOVER, REQUEST):
        options += _option(_ASKED, bytes([_MASK, _ROUTER, _NAMES, _DOMAIN, _MTU, _ROUTES]))
    nobody = bytes(4)
    body = _BOOTP.pack(1, 1, 6, 0, transaction, 0, _BROADCAST if own == _NOWHERE else 0,
                       own.packed, nobody, nobody, nobody, card, b"", b"", _MAGIC)  # fmt: skip
    return _frame(card, own, body + options + b"\xff")


def parse_reply(frame: bytes, transaction: int, mac: str) -> Reply | None:
    """The server's message in a frame, if that is what it is, and for this client."""
    body = _udp_body(frame)
    if body is None or len(body) < _BOOTP.size:
        return None
    op, _, _, _, number, _, _, _, yours, _, _, card, _, _, magic = _BOOTP.unpack_from(body)
    if (op, number, magic) != (2, transaction, _MAGIC):
        return None
    if card[:6] != bytes.fromhex(mac.replace(":", "")):
        return None
    options = _options(body[_BOOTP.size :])
    kind = options.get(_TYPE, b"")
    server = options.get(_SERVER, b"")
    if len(kind) != 1 or len(server) != 4:
        return None
    return _reply(kind[0], IPv4Address(yours), IPv4Address(server), options)


def _reply(
    kind: int, address: IPv4Address, server: IPv4Address, options: dict[int, bytes]
) -> Reply | None:
    if kind == NAK:
        return Reply(kind, IPv4Interface("0.0.0.0/0"), server, 0)
    try:
        mask = IPv4Address(options.get(_MASK, b"\xff\xff\xff\x00"))
        face = IPv4Interface(f"{address}/{mask}")
    except ValueError:
        return None
    if address.is_multicast or address.is_loopback or address in (_NOWHERE, _EVERYWHERE):
        return None
    seconds = int.from_bytes(options.get(_LEASE, b"\xff\xff\xff\xff")[:4], "big")
    mtu = int.from_bytes(options.get(_MTU, b"")[:2], "big")
    routers = _addresses(options.get(_ROUTER, b""))
    return Reply(
        kind=kind,
        address=face,
        server=server,
        seconds=max(_MIN_SECONDS, seconds),
        gateway=routers[0] if routers else None,
        routes=_classless(options.get(_ROUTES, b"")),
        dns=Dns(
            servers=tuple(str(each) for each in _addresses(options.get(_NAMES, b""))),
            domain=_word(options.get(_DOMAIN, b"")),
        ),
        mtu=mtu if _MIN_MTU <= mtu <= _MAX_MTU else None,
    )


def is_for_ever(seconds: int) -> bool:
    """Whether a lease never ends."""
    return seconds == _MAX_SECONDS


def _option(kind: int, value: bytes) -> bytes:
    return bytes([kind, len(value)]) + value


def _options(data: bytes) -> dict[int, bytes]:
    """Options by kind; parts of one kind are joined (RFC 3396)."""
    found: dict[int, bytes] = {}
    place = 0
    while place < len(data) and data[place] != 255:
        if data[place] == 0:
            place += 1
            continue
        if place + 1 >= len(data):
            break
        kind, length = data[place], data[place + 1]
        found[kind] = found.get(kind, b"") + data[place + 2 : place + 2 + length]
        place += 2 + length
    return found


def _addresses(value: bytes) -> list[IPv4Address]:
    return [IPv4Address(value[at : at + 4]) for at in range(0, len(value) // 4 * 4, 4)]


def _classless(value: bytes) -> tuple[tuple[IPv4Network, IPv4Address], ...]:
    """RFC 3442: a prefix length, as many bytes of the destination as it needs, a router."""
    routes = []
    while value and value[0] <= 32:
        used = (value[0] + 7) // 8
        if len(value) < 1 + used + 4:
            break
        base = value[1 : 1 + used].ljust(4, b"\0")
        to = IPv4Network((base, value[0]), strict=False)
        routes.append((to, IPv4Address(value[1 + used : 5 + used])))
        value = value[5 + used :]
    return tuple(routes)


def _word(value: bytes) -> str:
    text = value.rstrip(b"\0").decode("ascii", errors="replace")
    return text if all("!" <= each <= "~" for each in text) else ""


# -- frames ------------------------------------------------------------------------------------


def _frame(card: bytes, own: IPv4Address, body: bytes) -> bytes:
    udp = struct.pack("!HHHH", _CLIENT_PORT, _SERVER_PORT, 8 + len(body), 0) + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    head += own.packed + _EVERYWHERE.packed
    head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
    return b"\xff" * 6 + card + b"\x08\x00" + head + udp


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _udp_body(frame: bytes) -> bytes | None:
    """What a server's datagram carries; None for any other frame."""
    if len(frame) < 42 or frame[12:14] != b"\x08\x00" or frame[23] != 17:
        return None
    udp = 14 + (frame[14] & 15) * 4
    if len(frame) < udp + 8:
        return None
    source, target, length = struct.unpack_from("!HHH", frame, udp)
    if (source, target) != (_SERVER_PORT, _CLIENT_PORT):
        return None
    return frame[udp + 8 : udp + length]
