"""Ports of the host that lead to ports of apps: whether each leads anywhere, and to one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmrkt.appc.image_manifest import MAX_PORT
from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmrkt.appc.image_manifest import Port
    from kvmrkt.appc.pod_manifest import ExposedPort, PodManifest, RuntimeApp
    from kvmrkt.net.rules import Forward

_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - rkt's word for every address of the host

_MAX_RANGE = 1024


def forwards(manifest: PodManifest) -> tuple[Forward, ...]:
    """Each port of the host that leads to one of the pod; UsageError as `check_ports`."""
    from kvmrkt.net.rules import Forward

    found = []
    for exposed in manifest.ports:
        port = _target(exposed, manifest.apps)
        host_ip = None if exposed.host_ip in (None, _ANY_ADDRESS) else exposed.host_ip
        for offset in range(port.count):
            found.append(
                Forward(port.protocol, host_ip, exposed.host_port + offset, port.port + offset)
            )
    return tuple(found)


def check_ports(ports: Sequence[ExposedPort], apps: Sequence[RuntimeApp]) -> None:
    """Raise UsageError, in rkt's words, unless each has its own way from the host to an app."""
    taken: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for exposed in ports:
        port = _target(exposed, apps)
        address = exposed.host_ip or _ANY_ADDRESS
        if port.count > _MAX_RANGE or exposed.host_port + port.count - 1 > MAX_PORT:
            raise UsageError(
                f'port "{exposed.name}" is a range of {port.count}, which does not fit at '
                f"{exposed.host_port}",
                hint=f"a range has {_MAX_RANGE} ports at most, up to {MAX_PORT}",
            )
        for offset in range(port.count):
            number = exposed.host_port + offset
            others = taken.setdefault((port.protocol, number), [])
            for other, its_port in others:
                if _ANY_ADDRESS in (address, other) or address == other:
                    raise UsageError(
                        f"port {port.protocol}-{address}:{number} already mapped to pod port "
                        f"{its_port}"
                    )
            others.append((address, port.port + offset))


def _target(exposed: ExposedPort, apps: Sequence[RuntimeApp]) -> Port:
    """The pod's port, or range of ports."""
    return exposed.pod_port if exposed.pod_port is not None else _named(exposed.name, apps)


def _named(name: str, apps: Sequence[RuntimeApp]) -> Port:
    found = [
        port for app in apps for port in (app.app.ports if app.app else ()) if port.name == name
    ]
    if len(found) > 1:
        raise UsageError(f'port name "{name}" defined multiple apps')
    if not found:
        known = sorted({port.name for app in apps if app.app for port in app.app.ports})
        raise UsageError(
            f'port name "{name}" could not be found in any apps',
            hint=f"the images have: {', '.join(known)}" if known else "the images have none",
        )
    return found[0]
