"""Links on the host: the taps guests send through, and the bridges that join them.

Called with the network lock held; what is made here was recorded before.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from kvmrkt.errors import HostError, describe
from kvmrkt.net.netlink import Link, Netlink, NetlinkError, attribute

if TYPE_CHECKING:
    from kvmrkt.net.ipam import Lease
    from kvmrkt.net.ipam_conf import Interface

BRIDGE_ALIAS = "kvmrkt"
"""What tells a bridge that kvmrkt made from one that somebody else did."""

_TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TAP, _NO_PACKET_INFO, _OFFLOADS, _EXCLUSIVE = 0x0002, 0x1000, 0x4000, 0x8000
_IFREQ = struct.Struct("=16sH22x")
_MACVLAN_MODE = 1
_MACVTAP_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
_SYSCTL = Path("/proc/sys/net")


def link_name(uuid: str, number: int) -> str:
    """The name of a pod's link: short enough for the kernel, and its UUID's own."""
    return f"kv{uuid.replace('-', '')[:10]}-{number}"


def set_sysctl(name: str, value: str) -> None:
    """Set a parameter of this network namespace, unless it says so already. HostError."""
    path = _SYSCTL / name
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except OSError as error:
        raise HostError(f"cannot set net/{name} to {value}: {describe(error)}") from None


def has_sysctl(name: str) -> bool:
    """Whether the kernel has the parameter: none of IPv6's where that is off."""
    return (_SYSCTL / name).exists()


def open_tap(name: str) -> int:
    """Make a tap, which is gone when the last descriptor of it is closed. HostError."""
    try:
        descriptor = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"cannot make a tap: {describe(error)}", hint="the kernel needs the module tun"
        ) from None
    try:
        flags = _TAP | _NO_PACKET_INFO | _OFFLOADS | _EXCLUSIVE
        fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
    except OSError as error:
        os.close(descriptor)
        raise HostError(
            f"cannot make the tap {name}: {describe(error)}",
            hint="networks need root (CAP_NET_ADMIN); --net=none needs nothing",
        ) from None
    return descriptor


def found(netlink: Netlink, name: str, what: str) -> Link:
    """The link of that name; HostError naming what it was to be."""
    link = netlink.find(name)
    if link is None:
        raise HostError(f'the {what} "{name}" does not exist')
    return link


def quiet(name: str, *, with_ipv6: bool) -> None:
    """Let the host neither answer nor listen on a link more than its network needs."""
    if has_sysctl(f"ipv6/conf/{name}"):
        set_sysctl(f"ipv6/conf/{name}/accept_ra", "0")
        if not with_ipv6:
            set_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")


def join_point_to_point(netlink: Netlink, tap: Link, leases: tuple[Lease, ...]) -> None:
    """The host's end of a link of its own: the gateway's address, and a route to the pod."""
    from ipaddress import ip_interface, ip_network

    for lease in leases:
        if lease.gateway is not None:
            width = lease.gateway.max_prefixlen
            netlink.add_address(tap, ip_interface(f"{lease.gateway}/{width}"))
    for lease in leases:
        _add_route(netlink, ip_network(lease.address.ip), tap)


def _add_route(netlink: Netlink, destination: object, tap: Link) -> None:
    try:
        netlink.add_route(destination, tap)  # type: ignore[arg-type]
    except NetlinkError as error:
        if error.number != errno.EEXIST:
            raise
        raise HostError(
            f"cannot lead {destination} to {tap.name}: another route of the host has it",
            hint="the network's subnet overlaps with another one of this host",
        ) from None


def ensure_bridge(netlink: Netlink, name: str, mtu: int | None) -> Link:
    """The bridge of that name, made when missing."""
    bridge = netlink.find(name)
    if bridge is None:
        bridge = netlink.add_link(name, "bridge", alias=BRIDGE_ALIAS)
        # a bridge without an address of its own changes it with its ports
        mac = "02:" + os.urandom(5).hex(":")
        netlink.set_link(bridge, mac=mac, mtu=mtu)
        quiet(name, with_ipv6=True)
        netlink.set_link(bridge, up=True)
        return found(netlink, name, "bridge")
    if bridge.kind != "bridge":
        raise HostError(f'the link "{name}" is no bridge, but {bridge.kind or "hardware"}')
    return bridge


def make_gateway(netlink: Netlink, bridge: Link, address: Interface) -> None:
    """Give a bridge the gateway's address, unless it has another of that subnet."""
    for other in netlink.addresses(bridge):
        if other.ip == address.ip:
            return
        if other.version == address.version and other.network.overlaps(address.network):
            raise HostError(
                f"the bridge {bridge.name} has the address {other} already, not {address}",
                hint="set the network's gateway to the bridge's own address",
            )
    netlink.add_address(bridge, address)


def remove_bridge(netlink: Netlink, name: str) -> None:
    """Delete a bridge that kvmrkt made and nothing is a port of any more."""
    links = netlink.links()
    bridge = next((link for link in links if link.name == name), None)
    if bridge is None or bridge.kind != "bridge" or bridge.alias != BRIDGE_ALIAS:
        return
    if all(link.master != bridge.index for link in links):
        netlink.delete_link(name)


def make_macvtap(netlink: Netlink, name: str, master: str, mode: str) -> Link:
    """A link with a MAC address of its own on a link of the host's."""
    parent = found(netlink, master, "master")
    data = attribute(_MACVLAN_MODE, struct.pack("=I", _MACVTAP_MODES[mode]))
    return netlink.add_link(name, "macvtap", parent=parent.index, data=data)


def open_macvtap(link: Link) -> int:
    """The character device that carries the link's packets. HostError."""
    numbers = Path(f"/sys/class/net/{link.name}/macvtap/tap{link.index}/dev")
    device = Path(f"/dev/tap{link.index}")
    own = Path(f"/dev/kvmrkt-{link.name}")  # in another network namespace the usual one may be
    try:
        major, minor = (int(part) for part in numbers.read_text().split(":"))
        number = os.makedev(major, minor)
        if not device.exists() or device.stat().st_rdev != number:
            own.unlink(missing_ok=True)
            os.mknod(own, stat.S_IFCHR | 0o600, number)
            device = own
        return os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot open the macvtap {link.name}: {describe(error)}") from None
    finally:
        own.unlink(missing_ok=True)
