"""Which address a pod gets out of ranges of them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kvmrkt.errors import HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from kvmrkt.net.ipam_conf import Address, Interface, Range


class Lease(NamedTuple):
    """An address of a pod, with its network's prefix, and the gateway if there is one."""

    address: Interface
    gateway: Address | None


def choose_address(
    ranges: tuple[Range, ...],
    taken: Collection[Address],
    *,
    last: Address | None = None,
    wanted: Address | None = None,
) -> Lease:
    """The address asked for, or else the first free one after the last that was given.

    An address that was just given back rests as long as possible: neighbours remember it. Raises
    HostError when none is free, UsageError when the one asked for cannot be had.
    """
    if wanted is not None:
        return _wanted(ranges, taken, wanted)
    sizes = [int(each.end) - int(each.start) + 1 for each in ranges]
    offset = _place(ranges, sizes, last) + 1 if last is not None else 0
    total = sum(sizes)
    # among so many candidates one is neither taken nor a gateway, unless all are
    for step in range(min(total, len(taken) + len(ranges) + 1)):
        candidate, chosen = _at(ranges, sizes, (offset + step) % total)
        if candidate not in taken and all(candidate != each.gateway for each in ranges):
            return _lease(candidate, chosen)
    raise HostError(
        f"no address is free in {', '.join(str(each.subnet) for each in ranges)}",
        hint="end pods, or run kvmrkt gc; a larger subnet in the network's file holds more",
    )


def _wanted(ranges: tuple[Range, ...], taken: Collection[Address], wanted: Address) -> Lease:
    for each in ranges:
        if wanted in each.subnet and int(each.start) <= int(wanted) <= int(each.end):
            if wanted == each.gateway:
                raise UsageError(f"the address {wanted} is the network's gateway")
            if wanted in taken:
                raise UsageError(f"the address {wanted} belongs to another pod")
            return _lease(wanted, each)
    raise UsageError(f"the address {wanted} is in no range of the network")


def _lease(address: Address, chosen: Range) -> Lease:
    from ipaddress import ip_interface

    return Lease(ip_interface(f"{address}/{chosen.subnet.prefixlen}"), chosen.gateway)


def _place(ranges: tuple[Range, ...], sizes: list[int], address: Address) -> int:
    """How far into the ranges an address lies; the place before the first if it is in none."""
    before = 0
    for each, size in zip(ranges, sizes, strict=True):
        if address.version == each.start.version and 0 <= int(address) - int(each.start) < size:
            return before + int(address) - int(each.start)
        before += size
    return -1


def _at(ranges: tuple[Range, ...], sizes: list[int], place: int) -> tuple[Address, Range]:
    for each, size in zip(ranges, sizes, strict=True):
        if place < size:
            return each.start + place, each
        place -= size
    raise IndexError(place)
