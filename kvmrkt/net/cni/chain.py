"""The configuration of each plug-in of a chain, and what its result says. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kvmrkt.errors import ConfigError
from kvmrkt.net.conf import Dns, parse_dns
from kvmrkt.net.keys import Keys

if TYPE_CHECKING:
    from kvmrkt.net.conf import Chain
    from kvmrkt.net.rules import Forward

_KEEPS_RESULTS = (0, 3)
"""The first version whose plug-ins are told the result of the one before."""


def version_of(text: str) -> tuple[int, ...]:
    """A CNI version as numbers; () for what is none."""
    parts = text.split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else ()


def has_capability(plugin: dict[str, Any], name: str) -> bool:
    """Whether a plug-in's configuration asks for what the runtime knows."""
    capabilities = plugin.get("capabilities")
    return isinstance(capabilities, dict) and capabilities.get(name) is True


def runtime_values(forwards: tuple[Forward, ...], arguments: dict[str, str]) -> dict[str, Any]:
    """What this pod has for each capability."""
    values: dict[str, Any] = {}
    if forwards:
        values["portMappings"] = [
            {
                "hostPort": forward.host_port,
                "containerPort": forward.pod_port,
                "protocol": forward.protocol,
                **({"hostIP": forward.host_ip} if forward.host_ip else {}),
            }
            for forward in forwards
        ]
    if "IP" in arguments:
        values["ips"] = [arguments["IP"]]
    if "MAC" in arguments:
        values["mac"] = arguments["MAC"].replace("-", ":")
    bandwidth = {
        key: int(arguments[key])
        for key in ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
        if arguments.get(key, "").isdigit()
    }
    if bandwidth:
        values["bandwidth"] = bandwidth
    return values


def plugin_config(
    chain: Chain,
    plugin: dict[str, Any],
    values: dict[str, Any],
    previous: dict[str, Any] | None,
) -> bytes:
    """What a plug-in reads on standard input."""
    config = {**plugin, "name": chain.name, "cniVersion": chain.cni_version}
    wanted = {name: value for name, value in values.items() if has_capability(plugin, name)}
    if wanted:
        config["runtimeConfig"] = wanted
    if previous is not None and version_of(chain.cni_version) >= _KEEPS_RESULTS:
        config["prevResult"] = previous
    return msgspec.json.encode(config)


def dns_of(result: dict[str, Any] | None) -> Dns:
    """The name servers that a result brings; none for a section that makes no sense."""
    section = (result or {}).get("dns")
    try:
        return parse_dns(Keys(section)) if isinstance(section, dict) else Dns()
    except ConfigError:
        return Dns()
