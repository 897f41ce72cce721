"""What a pod's networks hold on the host, given back: each function may be called any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmrkt.errors import HostError
from kvmrkt.net.leases import release_leases
from kvmrkt.net.links import link_name, remove_bridge
from kvmrkt.net.netlink import Netlink
from kvmrkt.net.nft import drop_rules
from kvmrkt.net.state import network_lock

if TYPE_CHECKING:
    from collections.abc import Callable


def release(kind: str, name: str, uuid: str) -> None:
    """Give back one thing of a pod; nothing to give back is fine. HostError."""
    with network_lock():
        _RELEASE[kind](name, uuid)


def _link(name: str, uuid: str) -> None:
    if not name.startswith(link_name(uuid, 0)[:-1]):
        raise HostError(f"the link {name} is not the pod's")
    with Netlink() as netlink:
        netlink.delete_link(name)


def _bridge(name: str, _uuid: str) -> None:
    with Netlink() as netlink:
        remove_bridge(netlink, name)


def _namespace(uuid: str) -> None:
    from kvmrkt.net.cni.namespace import namespace_path, remove_namespace

    remove_namespace(namespace_path(uuid))


_RELEASE: dict[str, Callable[[str, str], None]] = {
    "lease": release_leases,
    "link": _link,
    "bridge": _bridge,
    "netns": lambda _name, uuid: _namespace(uuid),
    "rules": lambda _name, uuid: drop_rules(uuid),
}
