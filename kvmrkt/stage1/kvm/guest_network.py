"""What the agent is told of the pod's networks. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmrkt.stage1.kvm.podspec import Interface, Network, Route

if TYPE_CHECKING:
    from kvmrkt.net.attachment import Attachment


def guest_network(attachment: Attachment) -> Network:
    """The interfaces, then the routes of all of them.

    Where two networks want the same route, the default one mostly, the first has it.
    """
    routes: dict[str, Route] = {}
    for link in attachment.links:
        for route in link.routes:
            routes.setdefault(route.destination, Route(route.destination, route.gateway, link.name))
    interfaces = tuple(
        Interface(link.mac, link.name, link.mtu, link.addresses, link.on_link)
        for link in attachment.links
    )
    return Network(interfaces, tuple(routes.values()))


def network_resolv_conf(attachment: Attachment) -> str | None:
    """The text of resolv.conf that the networks bring, if one does."""
    from kvmrkt.pods import dns

    names = attachment.dns
    if names is None:
        return None
    return dns.resolv_conf(
        dns.NameServers(names.servers, names.search, names.options, names.domain)
    )
