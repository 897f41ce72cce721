"""What a network's `ipam` section says: where addresses come from, as checked data. Pure."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, NamedTuple

from kvmrkt.errors import ConfigError
from kvmrkt.net.keys import Keys, converted

if TYPE_CHECKING:
    from ipaddress import (
        IPv4Address,
        IPv4Interface,
        IPv4Network,
        IPv6Address,
        IPv6Interface,
        IPv6Network,
    )

    Address = IPv4Address | IPv6Address
    Interface = IPv4Interface | IPv6Interface
    Subnet = IPv4Network | IPv6Network


class Route(NamedTuple):
    """A destination, and the gateway if it is not the network's."""

    destination: Subnet
    gateway: Address | None = None


class Range(NamedTuple):
    """Addresses to choose from: `start` to `end`, in `subnet`, without the gateway."""

    subnet: Subnet
    start: Address
    end: Address
    gateway: Address


class HostLocal(NamedTuple):
    """One address out of each set of ranges."""

    sets: tuple[tuple[Range, ...], ...]
    routes: tuple[Route, ...] = ()


class Static(NamedTuple):
    """The addresses themselves, each with its gateway or none."""

    addresses: tuple[tuple[Interface, Address | None], ...] = ()
    routes: tuple[Route, ...] = ()


class Dhcp(NamedTuple):
    """Whatever the server on that network gives."""

    routes: tuple[Route, ...] = ()
    """In place of the server's."""


def parse_ipam(keys: Keys) -> HostLocal | Static | Dhcp:
    """The section; raises ConfigError. No type means no addresses but those listed: none."""
    kind = keys.text("type", "")
    routes = tuple(_route(Keys(item)) for item in keys.objects("routes") or [])
    if kind == "dhcp":
        return Dhcp(routes)
    if kind != "host-local":
        addresses = tuple(_static(Keys(item)) for item in keys.objects("addresses") or [])
        return Static(addresses, routes)
    sets: list[tuple[Range, ...]] = []
    if keys.has("subnet"):
        sets.append((_range(keys),))
    for group in keys.lists("ranges"):
        sets.append(tuple(_range(Keys(item)) for item in group))
    if not all(sets) or not sets:
        raise ConfigError("ipam.subnet: is required, but missing")
    _check_apart([each for group in sets for each in group])
    return HostLocal(tuple(sets), routes)


def _static(keys: Keys) -> tuple[Interface, Address | None]:
    address = converted(ip_interface, "ipam.addresses", keys.text("address"))
    gateway = keys.text("gateway", "")
    return address, converted(ip_address, "ipam.gateway", gateway) if gateway else None


def _route(keys: Keys) -> Route:
    text = keys.text("dst")
    destination: Subnet = converted(lambda t: ip_network(t, strict=False), "ipam.routes", text)
    gateway = keys.text("gw", "")
    return Route(destination, converted(ip_address, "ipam.routes", gateway) if gateway else None)


def _range(keys: Keys) -> Range:
    text = keys.text("subnet")
    subnet: Subnet = converted(ip_network, "ipam.subnet", text)
    if subnet.max_prefixlen - subnet.prefixlen < 2:
        raise ConfigError(f"ipam.subnet: {subnet} is too small to hold a gateway and pods")
    # the last address of IPv4 is for broadcasts; CNI's host-local leaves IPv6's last out as well
    first, last = subnet.network_address + 1, subnet.broadcast_address - 1

    def bound(key: str, default: Address) -> Address:
        given = keys.text(key, "")
        address: Address = converted(ip_address, f"ipam.{key}", given) if given else default
        if address not in subnet:
            raise ConfigError(f"ipam.{key}: {address} is not in {subnet}")
        return address

    found = Range(subnet, bound("rangestart", first), bound("rangeend", last),
                  bound("gateway", first))  # fmt: skip
    if int(found.start) > int(found.end):
        raise ConfigError(f"ipam.rangeStart: {found.start} is after rangeEnd, {found.end}")
    return found


def _check_apart(ranges: list[Range]) -> None:
    for number, one in enumerate(ranges):
        for other in ranges[:number]:
            same_kind = one.subnet.version == other.subnet.version
            if (same_kind and int(one.start) <= int(other.end)
                    and int(other.start) <= int(one.end)):  # fmt: skip
                raise ConfigError(f"ipam.ranges: {one.subnet} and {other.subnet} overlap")
