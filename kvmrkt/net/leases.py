"""Who has which address: one file for each network, changed with the network lock held."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.errors import HostError, UsageError
from kvmrkt.net.ipam import Lease, choose_address
from kvmrkt.net.ipam_conf import HostLocal
from kvmrkt.net.state import replace_file, state_folder

if TYPE_CHECKING:
    from pathlib import Path

    from kvmrkt.net.ipam_conf import Address, Static

_MAX_BYTES = 1 << 24


class _Book(msgspec.Struct):
    """`holders` by address; `last` is the latest address of each set of ranges."""

    holders: dict[str, str] = {}
    last: dict[str, str] = {}


def take_leases(
    network: str, ipam: HostLocal | Static, uuid: str, *, wanted: Address | None = None
) -> tuple[Lease, ...]:
    """Reserve the pod's addresses in a network; record the lease first.

    Raises HostError when none is free, UsageError for `wanted` that cannot be had.
    """
    book = _read(network)
    taken = {ip_address(text) for text in book.holders}
    if isinstance(ipam, HostLocal):
        leases = _choose(book, ipam, taken, wanted)
    else:
        leases = tuple(Lease(address, gateway) for address, gateway in ipam.addresses)
        for lease in leases:
            if lease.address.ip in taken:
                raise HostError(
                    f'the address {lease.address.ip} of network "{network}" belongs to pod '
                    f"{book.holders[str(lease.address.ip)]}"
                )
    for lease in leases:
        book.holders[str(lease.address.ip)] = uuid
    _write(network, book)
    return leases


def _choose(
    book: _Book, ipam: HostLocal, taken: set[Address], wanted: Address | None
) -> tuple[Lease, ...]:
    leases = []
    used = False
    for number, ranges in enumerate(ipam.sets):
        last = book.last.get(str(number))
        here = wanted if wanted is not None and any(wanted in r.subnet for r in ranges) else None
        used = used or here is not None
        lease = choose_address(ranges, taken, last=ip_address(last) if last else None, wanted=here)
        taken.add(lease.address.ip)
        if here is None:
            book.last[str(number)] = str(lease.address.ip)
        leases.append(lease)
    if wanted is not None and not used:
        raise UsageError(f"the address {wanted} is in no range of the network")
    return tuple(leases)


def release_leases(network: str, uuid: str) -> None:
    """Give back what the pod has in a network; nothing to give back is fine."""
    book = _read(network)
    kept = {address: holder for address, holder in book.holders.items() if holder != uuid}
    if len(kept) < len(book.holders):
        book.holders = kept
        _write(network, book)


def _path(network: str) -> Path:
    return state_folder("leases") / f"{network}.json"


def _read(network: str) -> _Book:
    path = _path(network)
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=_Book)
    except FileNotFoundError:
        return _Book()
    except msgspec.MsgspecError as error:
        raise HostError(
            f"{path} is damaged: {error}", hint="end the network's pods and delete the file"
        ) from None


def _write(network: str, book: _Book) -> None:
    replace_file(_path(network), msgspec.json.encode(book))
