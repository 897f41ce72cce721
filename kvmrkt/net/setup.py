"""A pod's networks made on the host.

Everything is recorded with the pod before it is made, and released by `release` whether or not
the pod's process lives to see it.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.errors import UsageError
from kvmrkt.faults import reach
from kvmrkt.net import links
from kvmrkt.net.attachment import Attachment, GuestLink
from kvmrkt.net.conf import Chain, Dns, NetworkConf
from kvmrkt.net.joining import Joining, Made
from kvmrkt.net.netlink import Netlink
from kvmrkt.net.nft import find_nft, put_rules
from kvmrkt.net.ports import hold_ports
from kvmrkt.net.rules import PodLink, PodRules
from kvmrkt.net.state import network_lock

if TYPE_CHECKING:
    from kvmrkt.net.plan import NetworkPlan
    from kvmrkt.pods.directory import PodDirectory
    from kvmrkt.pods.resources import Resources
    from kvmrkt.pods.status import NetInfo


def set_up(
    plan: NetworkPlan, pod: PodDirectory, resources: Resources, stack: ExitStack
) -> Attachment:
    """Make the pod's networks; `stack` closes this process's descriptors of them.

    Raises HostError, and UsageError for an address that cannot be had; what exists by then is
    recorded.
    """
    find_nft()
    hold_ports(plan.forwards, stack)
    guests: dict[int, tuple[GuestLink, NetInfo, Dns]] = {}
    for number, chosen in enumerate(plan.networks):
        if isinstance(chosen.network.conf, Chain):
            from kvmrkt.net.cni.join import join_chain

            forwards = plan.forwards if number == plan.forwarding else ()
            path = plan.plugin_path
            guests[number] = join_chain(chosen, number, pod, resources, path, forwards, stack)
    made = _join_own(plan, pod, resources, stack)
    guests |= {number: (each.guest, each.info, each.dns) for number, each in made.items()}
    ordered = [guests[number] for number in range(len(plan.networks))]
    pod.write_net_info(msgspec.json.encode([info for _, info, _ in ordered]) + b"\n")
    dns = next((names for _, _, names in ordered if any(names)), None)
    clients = tuple(each.client for each in made.values() if each.client is not None)
    return Attachment(tuple(guest for guest, _, _ in ordered), dns, clients)


def _join_own(
    plan: NetworkPlan, pod: PodDirectory, resources: Resources, stack: ExitStack
) -> dict[int, Made]:
    """The networks that kvmrkt makes itself, and the rules for all of them in one go."""
    joining: dict[int, Joining] = {}
    with network_lock(), Netlink() as netlink:
        for number, chosen in enumerate(plan.networks):
            if isinstance(chosen.network.conf, NetworkConf):
                resources.record("rules", pod.uuid)
                joining[number] = Joining(chosen, number, pod.uuid, resources, netlink, stack)
                joining[number].make()
    made = {number: each.finish() for number, each in joining.items()}
    if made:
        target = made[plan.forwarding].rules if plan.forwarding in made else None
        with network_lock():
            _let_forward(made)
            if target is not None and plan.forwards:
                _lead_ports(target)
            put_rules(
                PodRules(
                    uuid=pod.uuid,
                    links=tuple(each.rules for each in made.values()),
                    forwards=plan.forwards if target is not None else (),
                    forward_to=_first_of_each_family(target) if target is not None else (),
                )
            )
            reach("rules-placed")
    return made


def _let_forward(made: dict[int, Made]) -> None:
    """Make the host a router as far as the pod's networks need one."""
    homes = [each.rules for each in made.values() if each.rules.home]
    if any(link.ips(4) for link in homes):
        links.set_sysctl("ipv4/ip_forward", "1")
    if any(link.ips(6) and link.onward for link in homes):
        links.set_sysctl("ipv6/conf/all/forwarding", "1")


def _lead_ports(target: PodLink) -> None:
    """Let the host's loopback use forwarded ports too; UsageError where no port can lead."""
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
