"""The networks of a host: `net.d/*.conf` and `*.conflist` of the system and of this host.

A later folder's network wins over an earlier one's of the same name; a pod's networks come in the
order of their files' names, whatever folder they are in (rkt's rules, reference D.1).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kvmrkt.errors import ConfigError, UsageError, describe
from kvmrkt.net.built_in import BUILT_IN_NETWORKS
from kvmrkt.net.choice import DEFAULT, RESTRICTED, NetworkChoice
from kvmrkt.net.conf import Chain, NetworkConf, parse_network
from kvmrkt.net.keys import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FOLDER = "net.d"
_MAX_FILES = 256


class Network(NamedTuple):
    """A configured network."""

    file: str
    """Where it is from: a path, or the name of a built-in file."""
    conf: NetworkConf | Chain
    data: bytes
    """The file as it is."""


class ChosenNetwork(NamedTuple):
    """A network that a pod will join."""

    network: Network
    choice: NetworkChoice


def load_networks(folders: Iterable[Path], warn: Callable[[str], None]) -> dict[str, Network]:
    """Every network, by name, in the order pods join them; raises ConfigError naming the file."""
    found: dict[str, Network] = {}
    layers = [("", BUILT_IN_NETWORKS)]
    layers += [(str(folder), _read_folder(folder)) for folder in folders]
    for folder, files in layers:
        layer: dict[str, Network] = {}
        for name, data in files.items():
            file = os.path.join(folder, name)  # noqa: PTH118 - a built-in one has no folder
            network = _parse(file, data)
            if network.conf.name in layer:
                warn(f'"{network.conf.name}" network already defined, ignoring {file}')
                continue
            layer[network.conf.name] = network
        for name in layer.keys() & found.keys():
            if found[name].file not in BUILT_IN_NETWORKS:
                warn(f'overriding "{name}" network with one from {folder}')
        found |= layer
    order = sorted(found, key=lambda name: Path(found[name].file).name)
    return {name: found[name] for name in order}


def choose(
    networks: dict[str, Network], choices: tuple[NetworkChoice, ...]
) -> tuple[ChosenNetwork, ...]:
    """The networks asked for, in order; raises UsageError, in rkt's words, for one there is not.

    `default-restricted` comes along where `default` does not: the link to the host alone.
    """
    asked = {choice.name: choice for choice in choices}
    if "all" in asked:
        asked = {name: asked.get(name, NetworkChoice(name)) for name in networks}
    elif DEFAULT not in asked:
        asked.setdefault(RESTRICTED, NetworkChoice(RESTRICTED))
    missing = [name for name in asked if name not in networks]
    if missing:
        raise UsageError(
            f"networks not found: {', '.join(missing)}",
            hint=f"the host has: {', '.join(networks)}; files in {FOLDER} make more",
        )
    return tuple(
        ChosenNetwork(network, asked[name]) for name, network in networks.items() if name in asked
    )


def _parse(file: str, data: bytes) -> Network:
    try:
        return Network(file, parse_network(data), data)
    except ConfigError as error:
        raise ConfigError(f"cannot use {file}: {error}", hint=error.hint) from None


def _read_folder(folder: Path) -> dict[str, bytes]:
    try:
        paths = sorted(
            path for path in (folder / FOLDER).iterdir() if path.suffix in (".conf", ".conflist")
        )
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read {folder / FOLDER}: {describe(error)}") from None
    if len(paths) > _MAX_FILES:
        raise ConfigError(f"there are more than {_MAX_FILES} networks in {folder / FOLDER}")
    files = {path: _read(path) for path in paths}
    return {f"{FOLDER}/{path.name}": data for path, data in files.items() if data is not None}


def _read(path: Path) -> bytes | None:
    """The content; None if it is no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return os.read(descriptor, MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {describe(error)}") from None
