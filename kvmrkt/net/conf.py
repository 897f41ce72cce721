"""What a network's configuration says: CNI's JSON as checked data. Pure."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any, NamedTuple

from kvmrkt.errors import ConfigError
from kvmrkt.net.ipam_conf import Dhcp, HostLocal, Static, parse_ipam
from kvmrkt.net.keys import Keys, converted, parse_object

_MAX_MTU = 65535
_MIN_MTU = 68  # RFC 791
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
_LINK_NAME = re.compile(r"[^\s/:]{1,15}")
BUILT_IN = ("ptp", "bridge", "macvlan")
_OWN_IPAM = ("host-local", "static", "dhcp", "")
MACVLAN_MODES = ("bridge", "private", "vepa", "passthru")


class Dns(NamedTuple):
    """Name servers that a network brings."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    domain: str = ""


class HostService(NamedTuple):
    """A port of the host that pods of the network may reach; 0 is every port."""

    protocol: str
    port: int


class NetworkConf(NamedTuple):
    """A network that kvmrkt makes itself."""

    name: str
    type: str
    ipam: HostLocal | Static | Dhcp
    mtu: int | None = None
    masquerade: bool = False
    bridge: str = "cni0"
    is_gateway: bool = False
    is_default_gateway: bool = False
    hairpin: bool = False
    master: str = ""
    mode: str = "bridge"
    dns: Dns = Dns()
    host_services: tuple[HostService, ...] = ()


class Chain(NamedTuple):
    """A network that CNI plug-ins make: the plug-ins' own configurations, in order."""

    name: str
    cni_version: str
    plugins: tuple[dict[str, Any], ...]


def parse_network(data: bytes) -> NetworkConf | Chain:
    """A `.conf` or `.conflist`; raises ConfigError saying the key and why."""
    content = parse_object(data)
    keys = Keys(content)
    name = keys.text("name")
    if not _NAME.fullmatch(name):
        raise ConfigError(f'name: "{name}" is not a network\'s name')
    plugins = keys.objects("plugins")
    if plugins is None:
        plugins = [content]
    if not plugins:
        raise ConfigError("plugins: is empty")
    first = Keys(plugins[0])
    kind, ipam = first.text("type"), Keys(first.object("ipam"))
    if kind in ("ipvlan", "host"):
        raise ConfigError(
            f'type: "{kind}" cannot be given to a virtual machine',
            hint='use "macvlan", which gives the machine a MAC address of its own'
            if kind == "ipvlan" else "use ptp, bridge or macvlan",
        )  # fmt: skip
    if len(plugins) > 1 or kind not in BUILT_IN or ipam.text("type", "") not in _OWN_IPAM:
        return _chain(name, keys, plugins)
    return _own(name, kind, first, ipam)


def _chain(name: str, keys: Keys, plugins: list[dict[str, Any]]) -> Chain:
    version = keys.text("cniversion", "0.1.0")
    for number, plugin in enumerate(plugins):
        kind = Keys(plugin).text("type", "")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]*", kind):
            raise ConfigError(f'plugins[{number}].type: "{kind}" is not a plug-in\'s name')
    return Chain(name, version, tuple(plugins))


def _own(name: str, kind: str, keys: Keys, ipam: Keys) -> NetworkConf:
    mtu = keys.number("mtu", 0)
    if mtu and not _MIN_MTU <= mtu <= _MAX_MTU:
        raise ConfigError(f"mtu: {mtu} is not between {_MIN_MTU} and {_MAX_MTU}")
    default_gateway = keys.flag("isdefaultgateway")
    conf = NetworkConf(
        name=name,
        type=kind,
        ipam=parse_ipam(ipam),
        mtu=mtu or None,
        masquerade=keys.flag("ipmasq"),
        bridge=_link_name("bridge", keys.text("bridge", "cni0")),
        is_gateway=keys.flag("isgateway") or default_gateway,
        is_default_gateway=default_gateway,
        hairpin=keys.flag("hairpinmode"),
        master=keys.text("master", ""),
        mode=keys.text("mode", "bridge"),
        dns=parse_dns(Keys(keys.object("dns"))),
        host_services=tuple(_host_service(text) for text in keys.texts("hostservices")),
    )
    if kind == "macvlan":
        _link_name("master", conf.master)
        if conf.mode not in MACVLAN_MODES:
            raise ConfigError(f'mode: "{conf.mode}" is not one of {", ".join(MACVLAN_MODES)}')
    if isinstance(conf.ipam, Dhcp) and (conf.is_gateway or conf.masquerade):
        raise ConfigError("ipam: a network with dhcp has its own gateway: no isGateway, no ipMasq")
    if kind == "ptp" and not _has_addresses(conf.ipam):
        raise ConfigError("ipam: a point-to-point link needs addresses")
    return conf


def _has_addresses(ipam: HostLocal | Static | Dhcp) -> bool:
    return bool(ipam.sets if isinstance(ipam, HostLocal) else getattr(ipam, "addresses", ()))


def _link_name(key: str, text: str) -> str:
    if not _LINK_NAME.fullmatch(text) or text in (".", ".."):
        raise ConfigError(f'{key}: "{text}" is not the name of a link')
    return text


def _host_service(text: str) -> HostService:
    protocol, _, number = text.partition("/")
    if protocol in ("tcp", "udp") and number.isascii() and number.isdigit() and len(number) < 6:
        if 1 <= int(number) <= 65535:
            return HostService(protocol, int(number))
    elif text in ("all", "tcp", "udp"):
        return HostService(text, 0)
    raise ConfigError(
        f'hostServices: "{text}" is not a service', hint='write "tcp/80", "udp" or "all"'
    )


def parse_dns(keys: Keys) -> Dns:
    """The name servers, `{"nameservers": […], "domain": …, "search": […], "options": […]}`."""
    servers = tuple(str(converted(ip_address, "dns.nameservers", text))
                    for text in keys.texts("nameservers"))  # fmt: skip
    words = {key: keys.texts(key) for key in ("search", "options")}
    domain = keys.text("domain", "")
    for word in (*words["search"], *words["options"], *([domain] if domain else [])):
        if not re.fullmatch(r"[!-~]{1,255}", word):
            raise ConfigError(f"dns: {word!r} is not a word for resolv.conf")
    return Dns(servers, words["search"], words["options"], domain)
