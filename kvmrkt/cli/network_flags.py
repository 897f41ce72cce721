"""rkt's grammar for `--net` and `--port`."""

from __future__ import annotations

from kvmrkt.appc import types
from kvmrkt.appc.image_manifest import MAX_PORT
from kvmrkt.appc.pod_manifest import ExposedPort
from kvmrkt.cli.flags import faulty
from kvmrkt.errors import UsageError
from kvmrkt.net.choice import DEFAULT, SPECIAL, NetworkChoice


def parse_networks(words: tuple[str, ...]) -> tuple[NetworkChoice, ...]:
    """`NAME[:ARGUMENTS],...`, the default network if there is none; raises UsageError."""
    networks: dict[str, NetworkChoice] = {}
    for word in words:
        for part in word.split(","):
            network = _network(part, word)
            if network.name in networks:
                raise faulty("--net", word, f'found duplicate netname "{network.name}"')
            networks[network.name] = network
    return tuple(networks.values()) or (NetworkChoice(DEFAULT),)


def _network(part: str, word: str) -> NetworkChoice:
    name, *arguments = part.split(":")
    if not name:
        raise faulty("--net", word, "netname must not be empty")
    if len(arguments) > 1:
        given = " ".join(arguments)
        raise faulty("--net", word, f'network "{name}" provided with invalid arguments: [{given}]')
    if arguments and name in SPECIAL:
        raise faulty("--net", word, f'arguments are not supported by special netname "{name}"')
    return NetworkChoice(name, *arguments)


def check_mds(networks: tuple[NetworkChoice, ...], *, mds_register: bool) -> None:
    """Raise UsageError for a pod that wants the metadata service: there is none yet."""
    if mds_register and any(network.name == "none" for network in networks):
        raise UsageError(
            "--mds-register flag does not work with --net=none. Please use 'host', 'default' or "
            "an equivalent network"
        )
    if mds_register:
        raise UsageError(
            "--mds-register: this version of kvmrkt has no metadata service",
            hint="leave it out; AC_APP_NAME is set all the same",
        )


def check_ports_reachable(
    ports: tuple[ExposedPort, ...], networks: tuple[NetworkChoice, ...]
) -> None:
    """Raise UsageError, in rkt's words, for ports where no network could lead to them."""
    for network in networks if ports else ():
        if network.name in ("none", "host"):
            raise UsageError(f"--port flag does not work with '{network.name}' networking")


def parse_port(text: str) -> ExposedPort:
    """`NAME:[HOSTIP:]HOSTPORT`, an IPv6 address in brackets or not; raises UsageError."""
    name, colon, rest = text.partition(":")
    if not colon:
        raise faulty("--port", text, f'"{text}" is not in name:[ip:]port format')
    if not types.is_ac_name(name):
        raise faulty("--port", text, f'"{name}" is not a valid port name')
    address, _, number = rest.rpartition(":")
    is_number = number.isascii() and number.isdigit() and len(number) <= len(str(MAX_PORT))
    if not is_number or not 1 <= int(number) <= MAX_PORT:
        raise faulty("--port", text, f'"{number}" is not a valid port number')
    return ExposedPort(name, int(number), host_ip=_ip(address, text) if ":" in rest else None)


def _ip(address: str, text: str) -> str:
    from ipaddress import ip_address

    try:
        return str(ip_address(address.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise faulty("--port", text, f'"{address}" is not a valid IP') from None
