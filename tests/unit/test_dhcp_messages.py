"""DHCP as a client speaks it, and what a server may say."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.errors import ConfigError
from kvmrkt.net.conf import parse_network
from kvmrkt.net.dhcp_messages import (
    ACK,
    DISCOVER,
    NAK,
    OFFER,
    RELEASE,
    Reply,
    is_for_ever,
    message,
    parse_reply,
)

MAC = "02:00:00:00:00:01"
NUMBER = 0x12345678
DEFAULTS = {
    53: bytes([OFFER]), 54: bytes([10, 0, 0, 1]), 1: bytes([255, 255, 255, 0]),
    51: struct.pack("!I", 3600),
}  # fmt: skip


def answer(
    options: dict[int, bytes] | bytes = DEFAULTS,
    *,
    yours: str = "10.0.0.9",
    number: int = NUMBER,
    mac: str = MAC,
    ports: tuple[int, int] = (67, 68),
    op: int = 2,
) -> bytes:
    """A server's frame."""
    if isinstance(options, dict):
        options = b"".join(bytes([k, len(v)]) + v for k, v in options.items()) + b"\xff"
    body = struct.pack("!BBBBIHH", op, 1, 6, 0, number, 0, 0) + bytes(4)
    body += IPv4Address(yours).packed + bytes(8)
    body += bytes.fromhex(mac.replace(":", "")).ljust(16, b"\0") + bytes(192)
    body += b"\x63\x82\x53\x63" + options
    udp = struct.pack("!HHHH", *ports, 8 + len(body), 0) + body
    head = bytes([0x45, 0]) + struct.pack("!H", 20 + len(udp)) + bytes([0, 0, 0, 0, 64, 17, 0, 0])
    return b"\xff" * 6 + bytes(6) + b"\x08\x00" + head + bytes(8) + udp


def parsed(options: dict[int, bytes] | bytes = DEFAULTS, **changes: object) -> Reply | None:
    return parse_reply(answer(options, **changes), NUMBER, MAC)  # type: ignore[arg-type]


def test_an_offer_is_read() -> None:
    reply = parsed(DEFAULTS | {
        3: bytes([10, 0, 0, 1]), 6: bytes([10, 0, 0, 2, 10, 0, 0, 3]), 15: b"example.com\0",
        26: struct.pack("!H", 1400), 121: bytes([8, 10, 10, 0, 0, 7, 0, 10, 0, 0, 1]),
    })  # fmt: skip
    assert reply is not None
    assert (reply.kind, str(reply.address), reply.seconds) == (OFFER, "10.0.0.9/24", 3600)
    assert (str(reply.gateway), reply.mtu) == ("10.0.0.1", 1400)
    assert reply.dns == (("10.0.0.2", "10.0.0.3"), (), (), "example.com")
    assert [(str(to), str(via)) for to, via in reply.routes] == [
        ("10.0.0.0/8", "10.0.0.7"),
        ("0.0.0.0/0", "10.0.0.1"),
    ]


def test_a_lease_without_an_end_is_for_ever_and_none_is_shorter_than_a_minute() -> None:
    without = {key: value for key, value in DEFAULTS.items() if key != 51}
    for_ever, short = parsed(without), parsed(DEFAULTS | {51: bytes(4)})
    assert for_ever is not None
    assert short is not None
    assert is_for_ever(for_ever.seconds)
    assert short.seconds == 60


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 1}, {"mac": "02:00:00:00:00:02"}, {"ports": (67, 67)}, {"op": 1},
        {"yours": "0.0.0.0"}, {"yours": "127.0.0.1"}, {"yours": "224.0.0.1"},
        {"yours": "255.255.255.255"},
    ],
)  # fmt: skip
def test_what_is_for_somebody_else_or_no_address_is_passed_over(changes: dict[str, object]) -> None:
    assert parsed(**changes) is None


@pytest.mark.parametrize(
    "options",
    [
        {}, {53: b"\2"}, {54: bytes(4)}, {53: b"\2\2", 54: bytes(4)},
        DEFAULTS | {1: b"\xff\x00\xff\x00"}, DEFAULTS | {1: b"\xff"}, b"", b"\x35", b"\x35\xff\x02",
    ],
)  # fmt: skip
def test_broken_options_are_passed_over(options: dict[int, bytes] | bytes) -> None:
    assert parsed(options) is None


def test_a_domain_that_would_write_its_own_lines_is_none() -> None:
    reply = parsed(DEFAULTS | {15: b"a\nnameserver 6.6.6.6"})
    assert reply is not None
    assert reply.dns.domain == ""


def test_a_refusal_is_one() -> None:
    reply = parsed({53: bytes([NAK]), 54: bytes([10, 0, 0, 1])})
    assert reply is not None
    assert reply.kind == NAK


@given(st.binary(max_size=600))
def test_any_frame_is_read_or_passed_over(data: bytes) -> None:
    parse_reply(data, NUMBER, MAC)
    parse_reply(answer(data), NUMBER, MAC)


def test_our_own_messages_are_nobodys_answers() -> None:
    for kind in (DISCOVER, RELEASE):
        frame = message(kind, NUMBER, MAC, own=IPv4Address("10.0.0.9"))
        assert frame[:12] == b"\xff" * 6 + bytes.fromhex(MAC.replace(":", ""))
        assert parse_reply(frame, NUMBER, MAC) is None
    assert parsed(DEFAULTS | {53: bytes([ACK])}) is not None


def test_a_network_with_a_server_has_its_own_gateway() -> None:
    with pytest.raises(ConfigError, match="a network with dhcp has its own gateway"):
        parse_network(
            b'{"name": "n", "type": "bridge", "isGateway": true, "ipam": {"type": "dhcp"}}'
        )
    with pytest.raises(ConfigError, match="a point-to-point link needs addresses"):
        parse_network(b'{"name": "n", "type": "ptp", "ipam": {"type": "dhcp"}}')
