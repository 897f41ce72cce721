"""Ports of the host that lead to ports of apps: whether each leads anywhere, and to one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmrkt.appc.image_manifest import Port
    from kvmrkt.appc.pod_manifest import ExposedPort, RuntimeApp

_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - rkt's word for every address of the host


def check_ports(ports: Sequence[ExposedPort], apps: Sequence[RuntimeApp]) -> None:
    """Raise UsageError, in rkt's words, unless each has its own way from the host to an app."""
    taken: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for exposed in ports:
        protocol, number = _target(exposed, apps)
        address = exposed.host_ip or _ANY_ADDRESS
        others = taken.setdefault((protocol, exposed.host_port), [])
        for other, its_port in others:
            if _ANY_ADDRESS in (address, other) or address == other:
                raise UsageError(
                    f"port {protocol}-{address}:{exposed.host_port} already mapped to pod port "
                    f"{its_port}"
                )
        others.append((address, number))


def _target(exposed: ExposedPort, apps: Sequence[RuntimeApp]) -> tuple[str, int]:
    """Protocol and number of the pod's port."""
    if exposed.pod_port is not None:
        return exposed.pod_port.protocol, exposed.pod_port.port
    port = _named(exposed.name, apps)
    return port.protocol, port.port


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
