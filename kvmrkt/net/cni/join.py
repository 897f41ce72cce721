"""A guest in a network that plug-ins made: what they gave the pod's namespace becomes the guest's.

The plug-ins' interface stays as they left it, so that they find it again; but whatever arrives
there goes to the guest's tap, and back, by traffic control, before the namespace's own kernel
sees it.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from kvmrkt.errors import HostError, UsageError
from kvmrkt.faults import reach
from kvmrkt.net import links
from kvmrkt.net.attachment import GuestLink, GuestRoute
from kvmrkt.net.cni.calls import Progress, add
from kvmrkt.net.cni.chain import dns_of, has_capability, runtime_values
from kvmrkt.net.cni.namespace import inside, is_namespace, make_namespace, namespace_path
from kvmrkt.net.cni.plugin import find_plugin
from kvmrkt.net.conf import Chain, Dns
from kvmrkt.net.netlink import Netlink
from kvmrkt.net.nft import find_nft
from kvmrkt.net.rules import PodLink, guard
from kvmrkt.net.state import replace_file, state_folder
from kvmrkt.pods.status import NetInfo
from kvmrkt.process import ProcessError, find_program, run

if TYPE_CHECKING:
    from pathlib import Path

    from kvmrkt.net.files import ChosenNetwork
    from kvmrkt.net.rules import Forward
    from kvmrkt.pods.directory import PodDirectory
    from kvmrkt.pods.resources import Resources

_TIMEOUT_SECONDS = 30


def join_chain(
    chosen: ChosenNetwork,
    number: int,
    pod: PodDirectory,
    resources: Resources,
    path: tuple[str, ...],
    forwards: tuple[Forward, ...],
    stack: ExitStack,
) -> tuple[GuestLink, NetInfo, Dns]:
    """Have the chain add the pod, and join the guest to what it made. HostError."""
    chain = chosen.network.conf
    assert isinstance(chain, Chain)
    if forwards and not any(has_capability(plugin, "portMappings") for plugin in chain.plugins):
        raise UsageError(
            f'--port needs a plug-in with the capability portMappings in network "{chain.name}"'
        )
    namespace = namespace_path(pod.uuid)
    if not is_namespace(namespace):
        resources.record("netns", str(namespace))
        make_namespace(namespace)
    interface = f"eth{number}"
    resources.record("cni", str(number))
    progress = Progress(
        network=chain.name,
        cni_version=chain.cni_version,
        plugins=list(chain.plugins),
        interface=interface,
        arguments=chosen.choice.arguments,
        path=list(path),
        values=runtime_values(forwards, chosen.choice.pairs()),
    )
    result = add(pod, str(number), progress)
    guest = inside(namespace, lambda: _join(interface, pod.uuid, stack))
    reach("chain-joined")
    first = guest.addresses[0] if guest.addresses else ""
    return guest, _info(chosen, number, first, path), dns_of(result)


def _info(chosen: ChosenNetwork, number: int, address: str, path: tuple[str, ...]) -> NetInfo:
    from ipaddress import ip_interface

    chain = chosen.network.conf
    assert isinstance(chain, Chain)
    face = ip_interface(address) if address else None
    return NetInfo(
        net_name=chain.name,
        net_conf=chosen.network.file,
        plugin_path=find_plugin(chain.plugins[0]["type"], path),
        if_name=f"eth{number}",
        ip=str(face.ip) if face else "",
        args=chosen.choice.arguments,
        mask=str(face.netmask) if face else "",
    )


def _join(interface: str, uuid: str, stack: ExitStack) -> GuestLink:
    """In the namespace: read what the plug-ins made, make the tap, and redirect both ways."""
    tap_name = f"tap-{interface}"
    with Netlink() as netlink:
        link = netlink.find(interface)
        if link is None:
            raise HostError(f"the CNI plug-ins made no interface {interface}")
        addresses = netlink.addresses(link)
        routes = netlink.routes(link)
        descriptor = links.open_tap(tap_name)
        stack.callback(os.close, descriptor)
        tap = links.found(netlink, tap_name, "tap")
        links.quiet(tap_name, with_ipv6=False)
        netlink.set_link(tap, up=True, mtu=link.mtu)
    own = tuple(str(address) for address in addresses if not address.ip.is_link_local)
    _guard(PodLink(network="", device=interface, home="", mac=link.mac, addresses=own), uuid)
    _redirect(interface, tap_name)
    _redirect(tap_name, interface)
    return GuestLink(
        name=interface,
        tap_fd=descriptor,
        mac=link.mac,
        mtu=link.mtu,
        addresses=own,
        # those on the link first: the others' gateways are reached by them
        routes=tuple(
            GuestRoute(str(to), str(via) if via else None)
            for to, via in sorted(routes, key=lambda route: route[1] is not None)
        ),
        on_link=False,
    )


def _redirect(source: str, target: str) -> None:
    """Everything that arrives at one leaves by the other."""
    tc = str(find_program("tc", package="iproute2", also=("/usr/sbin/tc", "/sbin/tc")))
    try:
        run([tc, "qdisc", "add", "dev", source, "ingress"], timeout_seconds=_TIMEOUT_SECONDS)
        run(
            [tc, "filter", "add", "dev", source, "parent", "ffff:", "protocol", "all",
             "u32", "match", "u32", "0", "0",
             "action", "mirred", "egress", "redirect", "dev", target],
            timeout_seconds=_TIMEOUT_SECONDS,
        )  # fmt: skip
    except ProcessError as error:
        raise HostError(
            f"cannot redirect {source} to {target}: {error.message}",
            hint="the kernel needs sch_ingress, cls_u32 and act_mirred",
        ) from None


def _guard(link: PodLink, uuid: str) -> None:
    script: Path = state_folder("rules") / f"{uuid}-{link.device}.nft"
    replace_file(script, guard(link).encode())
    try:
        run([str(find_nft()), "-f", str(script)], timeout_seconds=_TIMEOUT_SECONDS)
    except ProcessError as error:
        raise HostError(
            f"cannot guard {link.device} against forged addresses: {error.message}",
            details=error.stderr.strip()[-2000:],
        ) from None
    finally:
        script.unlink()
