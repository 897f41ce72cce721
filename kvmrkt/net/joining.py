"""A pod on its way into one network that kvmrkt makes itself.

Everything is recorded with the pod before it is made.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, NamedTuple

from kvmrkt.errors import HostError, UsageError
from kvmrkt.faults import reach
from kvmrkt.net import links
from kvmrkt.net.attachment import GuestLink, GuestRoute
from kvmrkt.net.conf import Dns, NetworkConf
from kvmrkt.net.ipam import Lease
from kvmrkt.net.ipam_conf import Dhcp, Route
from kvmrkt.net.leases import take_leases
from kvmrkt.net.rules import PodLink
from kvmrkt.pods.status import NetInfo

if TYPE_CHECKING:
    from kvmrkt.net.dhcp import DhcpClient
    from kvmrkt.net.dhcp_messages import Reply
    from kvmrkt.net.files import ChosenNetwork
    from kvmrkt.net.ipam_conf import Address
    from kvmrkt.net.netlink import Netlink
    from kvmrkt.pods.resources import Resources

_ETHERNET_MTU = 1500


class Made(NamedTuple):
    """A network joined: what the guest, the rules and the user must know of it."""

    guest: GuestLink
    rules: PodLink
    info: NetInfo
    dns: Dns
    client: DhcpClient | None


def guest_mac(uuid: str, number: int) -> str:
    """A locally administered address that a pod's link keeps for all its runs."""
    digest = hashlib.sha256(f"{uuid} {number}".encode()).digest()
    return "02:" + digest[:5].hex(":")


class Joining:
    """A pod on its way into one network."""

    def __init__(
        self,
        chosen: ChosenNetwork,
        number: int,
        uuid: str,
        resources: Resources,
        netlink: Netlink,
        stack: ExitStack,
    ) -> None:
        """`number` is the network's place among the pod's; `stack` closes the tap."""
        assert isinstance(chosen.network.conf, NetworkConf)
        self._conf = chosen.network.conf
        self._file = chosen.network.file
        self._choice = chosen.choice
        self._number = number
        self._uuid = uuid
        self._name = links.link_name(uuid, number)
        self._resources = resources
        self._netlink = netlink
        self._stack = stack
        pairs = chosen.choice.pairs()
        self._mac = _mac(pairs["MAC"]) if "MAC" in pairs else guest_mac(uuid, number)
        self._wanted = pairs.get("IP")
        self._leases: tuple[Lease, ...] = ()
        self._home, self._descriptor, self._mtu = "", -1, _ETHERNET_MTU

    def make(self) -> None:
        """Reserve the addresses and make the link; with the network lock held."""
        conf = self._conf
        if not isinstance(conf.ipam, Dhcp):
            self._resources.record("lease", conf.name)
            wanted = _wanted(self._wanted) if self._wanted else None
            self._leases = take_leases(conf.name, conf.ipam, self._uuid, wanted=wanted)
            reach("lease-taken")
        kinds = {"ptp": self._point_to_point, "bridge": self._bridge, "macvlan": self._macvtap}
        self._home, self._descriptor, self._mtu = kinds[conf.type](self._leases)
        reach("link-joined")

    def finish(self) -> Made:
        """Ask a DHCP server, where one gives the addresses, and sum up."""
        conf, leases, routes = self._conf, self._leases, self._conf.ipam.routes
        mtu, dns, client = self._mtu, conf.dns, None
        if isinstance(conf.ipam, Dhcp):
            from kvmrkt.net.dhcp import DhcpClient

            client = DhcpClient(self._name, self._descriptor, self._mac)
            self._stack.callback(client.close)
            reply = client.obtain()
            leases = (Lease(reply.address, reply.gateway),)
            routes = routes or _offered_routes(reply)
            mtu = conf.mtu or reply.mtu or mtu
            dns = dns if any(dns) else reply.dns
        addresses = tuple(str(lease.address) for lease in leases)
        guest = GuestLink(
            name=f"eth{self._number}",
            tap_fd=self._descriptor,
            mac=self._mac,
            mtu=mtu,
            addresses=addresses,
            routes=_routes(conf, leases, routes),
            on_link=conf.type != "ptp",
        )
        rules = PodLink(
            network=conf.name,
            device=self._name,
            home=self._home,
            mac=self._mac,
            addresses=addresses,
            masquerade=conf.masquerade,
            onward=leads_onward(conf),
            host_services=conf.host_services,
        )
        return Made(guest, rules, self._info(leases), dns, client)

    def _info(self, leases: tuple[Lease, ...]) -> NetInfo:
        first = leases[0].address if leases else None
        return NetInfo(
            net_name=self._conf.name,
            net_conf=self._file,
            if_name=f"eth{self._number}",
            ip=str(first.ip) if first else "",
            args=self._choice.arguments,
            mask=str(first.netmask) if first else "",
        )

    def _open_tap(self) -> int:
        self._resources.record("link", self._name)
        descriptor = links.open_tap(self._name)
        self._stack.callback(os.close, descriptor)
        return descriptor

    def _point_to_point(self, leases: tuple[Lease, ...]) -> tuple[str, int, int]:
        descriptor, mtu = self._open_tap(), self._conf.mtu or _ETHERNET_MTU
        tap = links.found(self._netlink, self._name, "tap")
        links.quiet(self._name, with_ipv6=any(lease.address.version == 6 for lease in leases))
        self._netlink.set_link(tap, up=True, mtu=mtu)
        links.join_point_to_point(self._netlink, tap, leases)
        return self._name, descriptor, mtu

    def _bridge(self, leases: tuple[Lease, ...]) -> tuple[str, int, int]:
        conf = self._conf
        self._resources.record("bridge", conf.bridge)
        bridge = links.ensure_bridge(self._netlink, conf.bridge, conf.mtu)
        for lease in leases if conf.is_gateway else ():
            if lease.gateway is not None:
                prefix = lease.address.network.prefixlen
                address = ip_interface(f"{lease.gateway}/{prefix}")
                links.make_gateway(self._netlink, bridge, address)
        descriptor, mtu = self._open_tap(), conf.mtu or bridge.mtu
        tap = links.found(self._netlink, self._name, "tap")
        links.quiet(self._name, with_ipv6=False)
        self._netlink.set_link(tap, mtu=mtu, master=bridge.index)
        if conf.hairpin:
            self._netlink.set_hairpin(tap)
        self._netlink.set_link(tap, up=True)
        return conf.bridge, descriptor, mtu

    def _macvtap(self, _leases: tuple[Lease, ...]) -> tuple[str, int, int]:
        conf = self._conf
        self._resources.record("link", self._name)
        made = links.make_macvtap(self._netlink, self._name, conf.master, conf.mode)
        links.quiet(self._name, with_ipv6=False)
        if conf.mode == "passthru":  # it takes the master's own
            self._mac = made.mac
        else:
            self._netlink.set_link(made, mac=self._mac)
        self._netlink.set_link(made, up=True, mtu=conf.mtu)
        descriptor = links.open_macvtap(made)
        self._stack.callback(os.close, descriptor)
        return "", descriptor, conf.mtu or made.mtu


def leads_onward(conf: NetworkConf) -> bool:
    """Whether pods of the network reach more than the host and each other by way of the host."""
    if conf.type == "bridge":
        return conf.is_gateway or conf.masquerade
    return conf.type == "ptp" and (conf.masquerade or bool(conf.ipam.routes))


def _offered_routes(reply: Reply) -> tuple[Route, ...]:
    """A server's routes; its router is for those that say none (RFC 3442)."""
    if reply.routes or reply.gateway is None:
        return tuple(Route(to, via) for to, via in reply.routes)
    return (Route(ip_interface("0.0.0.0/0").network, reply.gateway),)


def _routes(
    conf: NetworkConf, leases: tuple[Lease, ...], configured: tuple[Route, ...]
) -> tuple[GuestRoute, ...]:
    """The guest's routes: to its gateways, to its network, and what the configuration says."""
    routes = []
    gateways: dict[int, str] = {}
    for lease in leases:
        version, gateway = lease.address.version, lease.gateway
        if gateway is None:
            continue
        gateways.setdefault(version, str(gateway))
        if conf.type == "ptp":
            routes.append(GuestRoute(f"{gateway}/{gateway.max_prefixlen}", None))
            routes.append(GuestRoute(str(lease.address.network), str(gateway)))
    wanted = [
        (route.destination, str(route.gateway) if route.gateway else None) for route in configured
    ]
    if conf.is_default_gateway:
        everything = [ip_interface("0.0.0.0/0").network, ip_interface("::/0").network]
        wanted = [(to, via) for to, via in wanted if to not in everything]
        wanted += [(to, None) for to in everything if to.version in gateways]
    for destination, gateway_text in wanted:
        via = gateway_text or gateways.get(destination.version)
        if via is None:
            raise HostError(
                f'network "{conf.name}": the route to {destination} has no gateway',
                hint="give the route a gw, or the network a gateway of that family",
            )
        routes.append(GuestRoute(str(destination), via))
    return tuple(dict.fromkeys(routes))


def _wanted(text: str) -> Address:
    try:
        return ip_address(text.partition("/")[0])
    except ValueError:
        raise UsageError(f"the argument IP={text} is not an address") from None


def _mac(text: str) -> str:
    parts = text.lower().split("-")  # a colon would end the word of --net
    good = len(parts) == 6 and all(len(part) == 2 for part in parts)
    try:
        first = bytes.fromhex("".join(parts))[0]
    except (ValueError, IndexError):
        good = False
        first = 1
    if not good or first & 1:
        raise UsageError(
            f"the argument MAC={text} is not the address of one card, like 02-00-00-00-00-01"
        )
    return ":".join(parts)
