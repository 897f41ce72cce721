"""kvmrkt runs App Container pods, each in a virtual machine of its own.

What a Python program may use is exported here, and described in docs/python-api.md. It is imported
when it is first asked for: the package itself costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvmrkt.api import Host, Pod
    from kvmrkt.appc.pod_manifest import PodManifest, Volume
    from kvmrkt.errors import KvmrktError
    from kvmrkt.net.choice import NetworkChoice
    from kvmrkt.pods.logs import LogRecord
    from kvmrkt.pods.request import AppRequest, MountRequest, PodRequest
    from kvmrkt.pods.states import PodState
    from kvmrkt.pods.status import AppStatus, PodStatus
    from kvmrkt.preparing import PrepareOptions
    from kvmrkt.stage1.engine import RunOptions
    from kvmrkt.stage1.image import Stage1Choice

__version__ = "0.1.0"
APPC_VERSION = "0.8.11"

_EXPORTS = {
    "AppRequest": "kvmrkt.pods.request",
    "AppStatus": "kvmrkt.pods.status",
    "Host": "kvmrkt.api",
    "KvmrktError": "kvmrkt.errors",
    "LogRecord": "kvmrkt.pods.logs",
    "MountRequest": "kvmrkt.pods.request",
    "NetworkChoice": "kvmrkt.net.choice",
    "Pod": "kvmrkt.api",
    "PodManifest": "kvmrkt.appc.pod_manifest",
    "PodRequest": "kvmrkt.pods.request",
    "PodState": "kvmrkt.pods.states",
    "PodStatus": "kvmrkt.pods.status",
    "PrepareOptions": "kvmrkt.preparing",
    "RunOptions": "kvmrkt.stage1.engine",
    "Stage1Choice": "kvmrkt.stage1.image",
    "Volume": "kvmrkt.appc.pod_manifest",
}

__all__ = [
    "APPC_VERSION",
    "AppRequest",
    "AppStatus",
    "Host",
    "KvmrktError",
    "LogRecord",
    "MountRequest",
    "NetworkChoice",
    "Pod",
    "PodManifest",
    "PodRequest",
    "PodState",
    "PodStatus",
    "PrepareOptions",
    "RunOptions",
    "Stage1Choice",
    "Volume",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import an exported name at its first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'kvmrkt' has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The exported names, imported or not."""
    return sorted(__all__)
