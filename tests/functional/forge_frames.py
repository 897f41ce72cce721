"""Two guests without machines, and what one sends that the other gets: run on a world's host.

FOLDER NETWORK: the networks are those of FOLDER/etc. Prints a JSON object: for each frame by name
whether it arrived.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import NamedTuple

from kvmrkt.net.attachment import GuestLink
from kvmrkt.net.choice import NetworkChoice
from kvmrkt.net.plan import plan_networks
from kvmrkt.net.rules import link_local
from kvmrkt.net.setup import set_up
from kvmrkt.paths import DataDir
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.resources import Resources, release_all

OFFLOAD_HEADER = bytes(10)  # struct virtio_net_hdr: nothing is offloaded
EVERYBODY = "ff:ff:ff:ff:ff:ff"
STRANGER = "02:11:22:33:44:55"


class Frame(NamedTuple):
    """An Ethernet frame, as far as a forger chooses."""

    payload: bytes
    kind: int
    source: str


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def arp(operation: int, sender_mac: str, sender: str, target: str, *, source: str) -> Frame:
    payload = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac(sender_mac)
    payload += ip_address(sender).packed + bytes(6) + ip_address(target).packed
    return Frame(payload, 0x0806, source)


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(sender: str, target: str, *, source: str) -> Frame:
    body = struct.pack("!HHHH", 4000, 4001, 12, 0) + b"mine"
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0)
    head += ip_address(sender).packed + ip_address(target).packed
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return Frame(head + body, 0x0800, source)


def ipv6(sender: str, target: str, following: int, body: bytes, *, source: str) -> Frame:
    head = struct.pack("!IHBB", 6 << 28, len(body), following, 255)
    return Frame(head + ip_address(sender).packed + ip_address(target).packed + body,
                 0x86DD, source)  # fmt: skip


def icmpv6(sender: str, target: str, message: bytes, *, source: str, hop: bytes = b"") -> Frame:
    pseudo = ip_address(sender).packed + ip_address(target).packed
    pseudo += struct.pack("!II", len(message), 58)
    padded = message + bytes(len(message) % 2)
    message = message[:2] + struct.pack("!H", checksum(pseudo + padded)) + message[4:]
    if hop:
        return ipv6(sender, target, 0, bytes([58]) + hop + message, source=source)
    return ipv6(sender, target, 58, message, source=source)


def advertisement(address: str, card: str) -> bytes:
    return (struct.pack("!BBHI", 136, 0, 0, 0x20000000) + ip_address(address).packed
            + b"\2\1" + mac(card))  # fmt: skip


def frames(me: GuestLink, you: GuestLink) -> Iterator[tuple[str, Frame]]:
    """Honest ones are named so."""
    mine, yours = ([str(ip_interface(a).ip) for a in each.addresses] for each in (me, you))
    four, six = mine
    your_four, your_six = yours
    own = me.mac
    local = link_local(own)
    everyone = "ff02::1"
    yield "honest arp", arp(1, own, four, your_four, source=own)
    yield "honest arp probe", arp(1, own, "0.0.0.0", your_four, source=own)
    yield "arp from another card", arp(1, STRANGER, four, your_four, source=STRANGER)
    yield "arp naming another card", arp(2, STRANGER, four, your_four, source=own)
    yield "arp for the other's address", arp(2, own, your_four, four, source=own)
    yield "arp for the gateway", arp(2, own, "10.79.0.1", "10.79.0.1", source=own)
    yield "honest ipv4", ipv4(four, your_four, source=own)
    yield "ipv4 from another card", ipv4(four, your_four, source=you.mac)
    yield "ipv4 from another address", ipv4("10.79.0.99", your_four, source=own)
    yield "ipv4 from the other's address", ipv4(your_four, your_four, source=own)
    yield "ipv4 to loopback", ipv4(four, "127.0.0.1", source=own)
    yield "ipv4 from nowhere", ipv4("0.0.0.0", your_four, source=own)
    echo = struct.pack("!BBHHH", 128, 0, 0, 1, 1)
    yield "honest ipv6", icmpv6(six, your_six, echo, source=own)
    yield "honest ipv6 of the link", icmpv6(local, everyone, echo, source=own)
    yield "ipv6 from another address", icmpv6("fd00:79::99", your_six, echo, source=own)
    yield "ipv6 from another's link address", icmpv6("fe80::1", everyone, echo, source=own)
    yield "honest advertisement", icmpv6(six, everyone, advertisement(six, own), source=own)
    yield (
        "advertisement of the other's",
        icmpv6(six, everyone, advertisement(your_six, own), source=own),
    )
    yield (
        "advertisement of the other's, from the link",
        icmpv6(local, everyone, advertisement(your_six, own), source=own),
    )
    yield (
        "advertisement behind an extension header",
        icmpv6(
            six,
            everyone,
            advertisement(your_six, own),
            source=own,
            hop=bytes([0, 1, 4, 0, 0, 0, 0]),
        ),
    )
    router = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    yield "router advertisement", icmpv6(local, everyone, router, source=own)
    redirect = struct.pack("!BBHI", 137, 0, 0, 0) + ip_address(six).packed * 2
    yield "redirect", icmpv6(local, your_six, redirect, source=own)
    tagged = struct.pack("!HH", 1, 0x0800) + ipv4(four, your_four, source=own).payload
    yield "a tagged frame", Frame(tagged, 0x8100, own)
    yield "a frame of another kind", Frame(b"anything" * 8, 0x88B5, own)


def send(link: GuestLink, frame: Frame) -> bytes:
    wire = mac(EVERYBODY) + mac(frame.source) + struct.pack("!H", frame.kind) + frame.payload
    os.write(link.tap_fd, OFFLOAD_HEADER + wire)
    return wire


def received(link: GuestLink, marker: bytes) -> set[bytes]:
    """Everything up to the marker."""
    os.set_blocking(link.tap_fd, True)
    seen = set()
    while True:
        frame = os.read(link.tap_fd, 4096)[len(OFFLOAD_HEADER) :]
        if frame.startswith(marker):
            return seen
        seen.add(frame)


def attach(folder: Path, network: str, stack: ExitStack) -> GuestLink:
    pod = PodDirectory.create(DataDir(folder / "forged"))
    stack.callback(release_all, pod)
    choices = (NetworkChoice(network), NetworkChoice("default"))
    plan = plan_networks([folder / "etc"], choices)
    return set_up(plan, pod, Resources(pod), stack).links[0]


def main() -> None:
    folder, network = Path(sys.argv[1]), sys.argv[2]
    with ExitStack() as stack:
        me, you = attach(folder, network, stack), attach(folder, network, stack)
        outcome = {}
        for name, frame in frames(me, you):
            wire = send(me, frame)
            four = str(ip_interface(me.addresses[0]).ip)
            marker = send(me, arp(1, me.mac, four, "10.79.0.250", source=me.mac))
            seen = received(you, marker)
            outcome[name] = any(each.startswith(wire) for each in seen)
    print(json.dumps(outcome))  # noqa: T201


if __name__ == "__main__":
    main()
