"""Which networks a pod will join and which ports will lead to it, checked before it is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvmrkt.errors import HostError, UsageError
from kvmrkt.net.conf import Chain, NetworkConf
from kvmrkt.net.files import ChosenNetwork, choose, load_networks
from kvmrkt.net.ipam_conf import HostLocal

if TYPE_CHECKING:
    from pathlib import Path

    from kvmrkt.net.choice import NetworkChoice
    from kvmrkt.net.ipam_conf import Subnet
    from kvmrkt.net.rules import Forward

_KNOWN_ARGUMENTS = ("IP", "MAC", "IgnoreUnknown")
_MAX_NETWORKS = 32


class NetworkPlan(msgspec.Struct, frozen=True):
    """What `set_up` will do."""

    networks: tuple[ChosenNetwork, ...]
    forwards: tuple[Forward, ...] = ()
    warnings: tuple[str, ...] = ()
    plugin_path: tuple[str, ...] = ()
    """Where CNI plug-ins are looked for."""

    @property
    def forwarding(self) -> int:
        """The place of the network that ports lead to: the first that masquerades, or the last."""
        for number, chosen in enumerate(self.networks):
            if _masquerades(chosen.network.conf):
                return number
        return len(self.networks) - 1


def _masquerades(conf: NetworkConf | Chain) -> bool:
    if isinstance(conf, NetworkConf):
        return conf.masquerade
    return any(plugin.get("ipMasq") is True for plugin in conf.plugins)


def plan_networks(
    folders: tuple[Path, ...],
    choices: tuple[NetworkChoice, ...],
    forwards: tuple[Forward, ...] = (),
) -> NetworkPlan:
    """Read the configuration, and refuse what cannot be done; touches nothing.

    Raises ConfigError for a faulty file, UsageError for what was asked for, HostError for what
    this host cannot do.
    """
    if any(choice.name == "host" for choice in choices):
        raise UsageError(
            "flavor kvm requires private network configuration (try --net)",
            hint="a virtual machine cannot share the host's network: "
            "--net=default with --port, or a bridge or macvlan network, come nearest",
        )
    warnings: list[str] = []
    networks = choose(load_networks(folders, warnings.append), choices)
    if len(networks) > _MAX_NETWORKS:
        raise UsageError(f"a pod joins {_MAX_NETWORKS} networks at most, not {len(networks)}")
    for chosen in networks:
        _check_arguments(chosen)
    _check_apart(networks)
    path = _plugin_path(folders, networks)
    return NetworkPlan(networks, forwards, tuple(warnings), path)


def _plugin_path(folders: tuple[Path, ...], networks: tuple[ChosenNetwork, ...]) -> tuple[str, ...]:
    """Where the networks' plug-ins are, each of them found; () if none is needed."""
    chains = [each for each in networks if isinstance(each.network.conf, Chain)]
    if not chains:
        return ()
    from kvmrkt.net.cni.plugin import find_plugin, search_path

    path = search_path(reversed(folders))
    for chosen in chains:
        assert isinstance(chosen.network.conf, Chain)
        for plugin in chosen.network.conf.plugins:
            try:
                find_plugin(plugin["type"], path)
            except HostError as error:
                raise HostError(
                    f'network "{chosen.choice.name}" of {chosen.network.file}: {error.message}',
                    hint=error.hint,
                ) from None
    return path


def _check_arguments(chosen: ChosenNetwork) -> None:
    if isinstance(chosen.network.conf, Chain):
        return
    for name in chosen.choice.pairs():
        if name not in _KNOWN_ARGUMENTS:
            raise UsageError(
                f'network "{chosen.choice.name}" takes no argument {name}',
                hint=f"arguments: {', '.join(_KNOWN_ARGUMENTS[:2])}",
            )


def _check_apart(networks: tuple[ChosenNetwork, ...]) -> None:
    """Networks of one pod must not lead to the same addresses."""
    seen: list[tuple[str, Subnet]] = []
    for chosen in networks:
        conf = chosen.network.conf
        if not isinstance(conf, NetworkConf) or not isinstance(conf.ipam, HostLocal):
            continue
        for subnet in {each.subnet for group in conf.ipam.sets for each in group}:
            for name, other in seen:
                if name == conf.name or subnet.version != other.version:
                    continue
                if subnet.overlaps(other):
                    raise UsageError(
                        f'the networks "{name}" and "{conf.name}" overlap: {other} and {subnet}'
                    )
            seen.append((conf.name, subnet))
