"""The pod's sysctl isolator (appc/spec, ace.md, "Unix Isolators")."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kvmrkt.errors import ManifestError

if TYPE_CHECKING:
    from kvmrkt.appc.image_manifest import Isolator

SYSCTL = "os/unix/sysctl"

ALLOWED = (
    "net.", "vm.", "fs.mqueue.", "fs.inotify.", "fs.file-max", "fs.nr_open", "fs.aio-max-nr",
    "fs.pipe-", "kernel.shm", "kernel.msg", "kernel.sem", "kernel.threads-max", "kernel.pid_max",
)  # fmt: skip
"""Beginnings of names: what tunes a pod. What runs programs as the guest's root, or tells of its
kernel, is not among them (kernel.core_pattern, kernel.modprobe, kernel.kptr_restrict...)."""

_NAME = re.compile(r"[a-z0-9_-]+(\.[A-Za-z0-9_-]+)+", re.ASCII)
_VALUE_LENGTH_MAX = 4096


def sysctls(isolators: list[Isolator]) -> list[str]:
    """The kernel's parameters that a pod asks for, `NAME=VALUE`, in its order.

    Raises ManifestError for several isolators, a faulty one, and a parameter not in `ALLOWED`.
    """
    found = [(index, item) for index, item in enumerate(isolators) if item.name == SYSCTL]
    if not found:
        return []
    if len(found) > 1:
        raise ManifestError(f"isolators[{found[1][0]}]: a pod has one {SYSCTL} isolator")
    ((index, isolator),) = found
    field = f"isolators[{index}].value"
    if not isinstance(isolator.value, dict):
        raise ManifestError(f"{field}: is not an object of names and values")
    return [_parameter(name, value, field) for name, value in isolator.value.items()]


def _parameter(name: str, value: object, field: str) -> str:
    if not _NAME.fullmatch(name):
        raise ManifestError(f"{field}: {name!r} is not the name of a sysctl")
    if not name.startswith(ALLOWED):
        raise ManifestError(f"{field}: {name} may not be set by a pod")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value or len(value) > _VALUE_LENGTH_MAX or "\0" in value:
        raise ManifestError(f"{field}.{name}: is no text that could be set")
    return f"{name}={value}"
