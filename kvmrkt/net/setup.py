"""A pod's networks made on the host, and put away again.

Everything is recorded with the pod before it is made, and released by `release` whether or not
the pod's process lives to see it.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kvmrkt.errors import HostError, UsageError
from kvmrkt.faults import reach
from kvmrkt.net import links
from kvmrkt.net.attachment import Attachment, GuestLink, GuestRoute
from kvmrkt.net.conf import NetworkConf
from kvmrkt.net.leases import take_leases
from kvmrkt.net.netlink import Netlink
from kvmrkt.net.nft import find_nft, put_rules
from kvmrkt.net.ports import hold_ports
from kvmrkt.net.rules import PodLink, PodRules
from kvmrkt.net.state import network_lock
from kvmrkt.pods.status import NetInfo

if TYPE_CHECKING:
    from kvmrkt.net.files import ChosenNetwork
    from kvmrkt.net.ipam import Lease
    from kvmrkt.net.ipam_conf import Address
    from kvmrkt.net.plan import NetworkPlan
    from kvmrkt.pods.directory import PodDirectory
    from kvmrkt.pods.resources import Resources

_ETHERNET_MTU = 1500


class _Made(NamedTuple):
    guest: GuestLink
    rules: PodLink
    info: NetInfo


def set_up(
    plan: NetworkPlan, pod: PodDirectory, resources: Resources, stack: ExitStack
) -> Attachment:
    """Make the pod's networks; `stack` closes this process's descriptors of them.

    Raises HostError, and UsageError for an address that cannot be had; what exists by then is
    recorded.
    """
    find_nft()
    hold_ports(plan.forwards, stack)
    with network_lock(), Netlink() as netlink:
        resources.record("rules", pod.uuid)
        made = [
            _Joining(chosen, number, pod.uuid, resources, netlink, stack).join()
            for number, chosen in enumerate(plan.networks)
        ]
        target = made[plan.forwarding].rules
        _let_forward(target, plan, made)
        put_rules(
            PodRules(
                uuid=pod.uuid,
                links=tuple(each.rules for each in made),
                forwards=plan.forwards,
                forward_to=_first_of_each_family(target),
            )
        )
        reach("rules-placed")
    pod.write_net_info(msgspec.json.encode([each.info for each in made]) + b"\n")
    confs = [chosen.network.conf for chosen in plan.networks]
    dns = (conf.dns for conf in confs if isinstance(conf, NetworkConf) and any(conf.dns))
    return Attachment(tuple(each.guest for each in made), next(dns, None))


def guest_mac(uuid: str, number: int) -> str:
    """A locally administered address that a pod's link keeps for all its runs."""
    digest = hashlib.sha256(f"{uuid} {number}".encode()).digest()
    return "02:" + digest[:5].hex(":")


class _Joining:
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

    def join(self) -> _Made:
        """Reserve addresses and make the link."""
        conf = self._conf
        self._resources.record("lease", conf.name)
        leases = take_leases(
            conf.name, conf.ipam, self._uuid, wanted=_wanted(self._wanted) if self._wanted else None
        )
        reach("lease-taken")
        kinds = {"ptp": self._point_to_point, "bridge": self._bridge, "macvlan": self._macvtap}
        home, descriptor, mtu = kinds[conf.type](leases)
        addresses = tuple(str(lease.address) for lease in leases)
        guest = GuestLink(
            name=f"eth{self._number}",
            tap_fd=descriptor,
            mac=self._mac,
            mtu=mtu,
            addresses=addresses,
            routes=_routes(conf, leases),
            on_link=conf.type != "ptp",
        )
        rules = PodLink(
            network=conf.name,
            device=self._name,
            home=home,
            mac=self._mac,
            addresses=addresses,
            masquerade=conf.masquerade,
            onward=leads_onward(conf),
            host_services=conf.host_services,
        )
        reach("link-joined")
        return _Made(guest, rules, self._info(leases))

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


def _routes(conf: NetworkConf, leases: tuple[Lease, ...]) -> tuple[GuestRoute, ...]:
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
        (route.destination, str(route.gateway) if route.gateway else None)
        for route in conf.ipam.routes
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


def _let_forward(target: PodLink, plan: NetworkPlan, made: list[_Made]) -> None:
    """Make the host a router as far as the pod's networks need one."""
    homes = [each.rules for each in made if each.rules.home]
    if any(link.ips(4) for link in homes):
        links.set_sysctl("ipv4/ip_forward", "1")
    if any(link.ips(6) and link.onward for link in homes):
        links.set_sysctl("ipv6/conf/all/forwarding", "1")
    if plan.forwards:
        if not target.home:
            raise UsageError(
                f'no port of this host can lead to network "{target.network}"',
                hint="a macvlan network is reached at the pod's own address, without --port",
            )
        if not target.addresses:
            raise UsageError(f'--port needs addresses in network "{target.network}"')
        links.set_sysctl(f"ipv4/conf/{target.home}/route_localnet", "1")


def _first_of_each_family(link: PodLink) -> tuple[str, ...]:
    return tuple(ips[0] for version in (4, 6) if (ips := link.ips(version)))


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
