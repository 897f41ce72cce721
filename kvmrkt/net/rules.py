"""The rules for all pods of a host, as the text of one nftables transaction. Pure.

Every change is one transaction: a packet meets all of the old rules or all of the new. Base chains
accept by policy and drop by rule: one that is being put in place must not stop the packets of
running pods.
"""

from __future__ import annotations

from ipaddress import ip_interface
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

TABLE = "kvmrkt"


class Forward(NamedTuple):
    """A port of the host that leads to one of the pod."""

    protocol: str
    host_ip: str | None
    host_port: int
    pod_port: int


class PodLink(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules must know of one link of a pod."""

    network: str
    device: str
    """The tap that the guest sends from."""
    home: str
    """The host's interface that the pod's packets come in by; empty if none does (macvtap)."""
    mac: str
    addresses: tuple[str, ...]
    """With the prefix of their network."""
    masquerade: bool = False
    onward: bool = False
    """Whether the host forwards for it to where no pod is."""
    host_services: tuple[tuple[str, int], ...] = ()

    def ips(self, version: int) -> list[str]:
        """The addresses of one family, bare."""
        faces = [ip_interface(text) for text in self.addresses]
        return [str(face.ip) for face in faces if face.version == version]


class PodRules(msgspec.Struct, frozen=True):
    """What the rules must know of a pod."""

    uuid: str
    links: tuple[PodLink, ...]
    forwards: tuple[Forward, ...] = ()
    forward_to: tuple[str, ...] = ()
    """The addresses that forwarded ports lead to, at most one of each family."""


def link_local(mac: str) -> str:
    """The IPv6 address that a kernel makes of a MAC address by itself (RFC 4291, appendix A)."""
    parts = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([parts[0] ^ 2]) + parts[1:3] + b"\xff\xfe" + parts[3:]
    return str(ip_interface(b"\xfe\x80" + bytes(6) + identifier).ip)


def transaction(
    pods: Iterable[PodRules],
    *,
    guarded: Iterable[PodLink] = (),
    unguarded: Iterable[PodLink] = (),
) -> str:
    """The text for `nft -f` that leaves rules for these pods; without pods, no table.

    `guarded` and `unguarded` are the links that come and go: each has a chain of its own, which
    is put in or taken out whatever was there. The other pods' chains stay.
    """
    pods = list(pods)
    lines = [f"add table inet {TABLE}", f"delete table inet {TABLE}", f"add table netdev {TABLE}"]
    if not pods:
        return "\n".join([*lines, f"delete table netdev {TABLE}"]) + "\n"
    guarded = list(guarded)
    for link in (*guarded, *unguarded):  # delete alone fails where there is none
        chain = f"chain netdev {TABLE} {link.device}"
        lines += [f"add {chain}", f"flush {chain}", f"delete {chain}"]
    links = [link for pod in pods for link in pod.links]
    lines += [f"table inet {TABLE} {{", *_inet(pods, links), "}"]
    for link in guarded:
        lines += [f"table netdev {TABLE} {{", *_spoofing(link), "}"]
    return "\n".join(lines) + "\n"


def guard(link: PodLink) -> str:
    """The text that keeps one link honest, added to what rules its namespace has."""
    return "\n".join([f"table netdev {TABLE} {{", *_spoofing(link), "}"]) + "\n"


def _inet(pods: list[PodRules], links: list[PodLink]) -> list[str]:
    routed = [link for link in links if link.home]
    networks = {link.network: link for link in routed}
    lines = [
        _set("homes", "ifname", {f'"{link.home}"' for link in routed}),
    ]
    for version in (4, 6):
        lines += _family_sets(version, pods, routed)
    for name, link in networks.items():
        members = [member for member in routed if member.network == name]
        lines += _network_chain(name, members, onward=link.onward)
        lines += _host_chain(name, link.host_services)
    return [*lines, *_BASE_CHAINS]


def _family_sets(version: int, pods: list[PodRules], routed: list[PodLink]) -> list[str]:
    kind = f"ipv{version}_addr"
    sets: tuple[set[str], ...] = tuple(set() for _ in range(7))
    addresses, masqueraded, homes, networks, hosts, any_address, one_address = sets
    for link in routed:
        for ip in link.ips(version):
            addresses.add(ip)
            homes.add(f'{ip} . "{link.home}"')
            networks.add(f'"{link.home}" . {ip} : jump net-{link.network}')
            if link.masquerade:
                masqueraded.add(ip)
        own = [*link.ips(version), *([link_local(link.mac)] if version == 6 else [])]
        hosts.update(f'"{link.home}" . {ip} : jump host-{link.network}' for ip in own)
    for pod in pods:
        target = next((ip for ip in pod.forward_to if (":" in ip) == (version == 6)), None)
        for forward in pod.forwards if target else ():
            to = f"{target} . {forward.pod_port}"
            if forward.host_ip is None:
                any_address.add(f"{forward.protocol} . {forward.host_port} : {to}")
            elif (":" in forward.host_ip) == (version == 6):
                one_address.add(
                    f"{forward.host_ip} . {forward.protocol} . {forward.host_port} : {to}"
                )
    place = f"{kind} . inet_service"
    return [
        _set(f"pods{version}", kind, addresses),
        _set(f"masquerade{version}", kind, masqueraded),
        _set(f"home{version}", f"{kind} . ifname", homes),
        _map(f"networks{version}", f"ifname . {kind} : verdict", networks),
        _map(f"hosts{version}", f"ifname . {kind} : verdict", hosts),
        _map(f"ports{version}", f"inet_proto . inet_service : {place}", any_address),
        _map(f"ports_at{version}", f"{kind} . inet_proto . inet_service : {place}", one_address),
    ]


def _set(name: str, kind: str, elements: set[str]) -> str:
    return _elements("set", name, kind, elements)


def _map(name: str, kind: str, elements: set[str]) -> str:
    return _elements("map", name, kind, elements)


def _elements(what: str, name: str, kind: str, elements: set[str]) -> str:
    listed = f" elements = {{ {', '.join(sorted(elements))} }};" if elements else ""
    return f" {what} {name} {{ type {kind};{listed} }}"


def _network_chain(name: str, members: list[PodLink], *, onward: bool) -> list[str]:
    """Where packets from the network's pods may be forwarded."""
    lines = [f" chain net-{name} {{"]
    # where bridges' frames pass the host's IP rules as well (br_netfilter), these are neighbours
    bridges = {member.home for member in members if member.home != member.device}
    lines += [f'  oifname "{bridge}" accept' for bridge in sorted(bridges)]
    for version, word in ((4, "ip"), (6, "ip6")):
        own = sorted(ip for link in members for ip in link.ips(version))
        if own:
            lines.append(f"  {word} daddr {{ {', '.join(own)} }} accept")
        lines.append(f"  {word} daddr @pods{version} reject with icmpx admin-prohibited")
    if not onward:
        lines.append("  reject with icmpx admin-prohibited")
    return [*lines, " }"]


def _host_chain(name: str, services: tuple[tuple[str, int], ...]) -> list[str]:
    """Which services of the host the network's pods reach."""
    lines = [
        f" chain host-{name} {{",
        "  icmp type echo-request accept",
        "  icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert, "
        "nd-router-solicit } accept",
    ]
    for protocol, port in services:
        if protocol == "all":
            lines.append("  accept")
        elif port:
            lines.append(f"  {protocol} dport {port} accept")
        else:
            lines.append(f"  meta l4proto {protocol} accept")
    return [*lines, "  reject with icmpx admin-prohibited", " }"]


_TO_PODS = [
    " chain to-pods {",
    "  dnat ip to ip daddr . meta l4proto . th dport map @ports_at4",
    "  dnat ip to meta l4proto . th dport map @ports4",
    "  dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports_at6",
    "  dnat ip6 to meta l4proto . th dport map @ports6",
    " }",
]

_BASE_CHAINS = [
    *_TO_PODS,
    # route_localnet lets the host's loopback use forwarded ports; nobody else may come that way
    " chain loopback { type filter hook prerouting priority -300; policy accept;",
    "  iifname @homes ip daddr 127.0.0.0/8 drop",
    " }",
    " chain prerouting { type nat hook prerouting priority -100; policy accept;",
    "  fib daddr type local jump to-pods",
    " }",
    " chain output { type nat hook output priority -100; policy accept;",
    "  fib daddr type local jump to-pods",
    " }",
    " chain postrouting { type nat hook postrouting priority 100; policy accept;",
    # the answer must come back this way, also where pods are neighbours
    "  ct status dnat ip saddr @pods4 masquerade",
    "  ct status dnat ip6 saddr @pods6 masquerade",
    '  ct status dnat ip saddr 127.0.0.0/8 oifname != "lo" masquerade',
    "  ip saddr @masquerade4 ip daddr != @pods4 ip daddr != 224.0.0.0/4"
    " ip saddr . oifname != @home4 masquerade",
    "  ip6 saddr @masquerade6 ip6 daddr != @pods6 ip6 daddr != ff00::/8"
    " ip6 saddr . oifname != @home6 masquerade",
    " }",
    " chain forward { type filter hook forward priority 0; policy accept;",
    "  ct state established,related accept",
    "  ct status dnat accept",
    "  iifname . ip saddr vmap @networks4",
    "  iifname . ip6 saddr vmap @networks6",
    " }",
    " chain input { type filter hook input priority 0; policy accept;",
    "  ct state established,related accept",
    "  iifname . ip saddr vmap @hosts4",
    "  iifname . ip6 saddr vmap @hosts6",
    " }",
]


def _spoofing(link: PodLink) -> list[str]:
    """A guest sends from its own addresses only, on every layer, and is no router."""
    mac, four = link.mac, link.ips(4)
    six = [*link.ips(6), link_local(mac)]
    # what a macvtap's guest sends leaves the host by it; what a tap's guest sends comes in
    hook = "ingress" if link.home else "egress"
    lines = [
        f" chain {link.device} {{",
        f'  type filter hook {hook} device "{link.device}" priority -300; policy accept;',
        f"  ether saddr != {mac} drop",
        "  ether type { 8021q, 8021ad } drop",  # the tag may be beside the frame, not in it
    ]
    if four:
        listed = ", ".join(four)
        lines += [
            "  ip daddr 127.0.0.0/8 drop",
            f"  ip saddr {{ {listed} }} accept",
            "  arp htype 1 arp ptype ip arp hlen 6 arp plen 4 "
            f"arp saddr ether {mac} arp saddr ip {{ 0.0.0.0, {listed} }} accept",
        ]
    for ip in six:
        target = f"0x{int(ip_interface(ip).ip):032x}"
        # the address that is advertised: bytes 8 to 23 of the message (RFC 4861, 4.4)
        lines.append(f"  icmpv6 type nd-neighbor-advert @th,64,128 {target} ip6 saddr "
                     f"{{ {', '.join(six)} }} accept")  # fmt: skip
    return [
        *lines,
        "  icmpv6 type { nd-neighbor-advert, nd-router-advert, nd-redirect } drop",
        "  ip6 saddr :: icmpv6 type { nd-neighbor-solicit, mld-listener-report, "
        "mld2-listener-report } accept",
        f"  ip6 saddr {{ {', '.join(six)} }} accept",
        "  drop",
        " }",
    ]
