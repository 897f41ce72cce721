"""What a pod's networks come to: the links of its machine, and what is said about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kvmrkt.net.conf import Dns
    from kvmrkt.net.dhcp import DhcpClient


class GuestRoute(NamedTuple):
    """A route of the guest; without a gateway the destination is on the link."""

    destination: str
    gateway: str | None


class GuestLink(NamedTuple):
    """One network interface of the guest, and the descriptor its packets travel through."""

    name: str
    tap_fd: int
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    routes: tuple[GuestRoute, ...] = ()
    on_link: bool = True
    """Whether the addresses' networks are neighbours on the link."""


class Attachment(NamedTuple):
    """A pod's networks, set up."""

    links: tuple[GuestLink, ...] = ()
    dns: Dns | None = None
    """The first network's that brings name servers."""
    dhcp: tuple[DhcpClient, ...] = ()
    """Leases to be kept once the machine has started."""
