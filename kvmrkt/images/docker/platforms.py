"""Which of an image's platforms is this host's, and what App Container images call it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kvmrkt.errors import ImageError, ManifestError
from kvmrkt.images.docker.manifests import Platform

if TYPE_CHECKING:
    from kvmrkt.images.docker.manifests import Descriptor, Index

_MACHINES = {
    "x86_64": Platform("amd64", "linux"),
    "i686": Platform("386", "linux"),
    "aarch64": Platform("arm64", "linux", "v8"),
    "armv7l": Platform("arm", "linux", "v7"),
    "armv6l": Platform("arm", "linux", "v6"),
}
_BASELINES = {"amd64": "v1", "arm64": "v8", "arm": "v7"}
"""The variant an architecture without one has."""
_APPC = {
    ("linux", "amd64"): "amd64",
    ("linux", "386"): "i386",
    ("linux", "arm64"): "aarch64",
    ("linux", "arm"): "armv6l",
    ("linux", "ppc64"): "ppc64",
    ("linux", "ppc64le"): "ppc64le",
    ("linux", "s390x"): "s390x",
    ("freebsd", "amd64"): "amd64",
    ("freebsd", "386"): "i386",
    ("freebsd", "arm"): "arm",
    ("darwin", "amd64"): "x86_64",
    ("darwin", "386"): "i386",
}


def host_platform(machine: str | None = None) -> Platform:
    """The platform of this host, or of one with another kernel's machine name."""
    machine = machine or os.uname().machine
    return _MACHINES.get(machine, Platform(machine, "linux"))


def choose(index: Index, platform: Platform) -> Descriptor:
    """The manifest for a platform; the best variant that runs there.

    A descriptor that names no platform is taken where none fits by name. ImageError if nothing is
    for the platform.
    """
    fitting = [
        (rank, -place, descriptor)
        for place, descriptor in enumerate(index.manifests)
        if (rank := _rank(descriptor.platform, platform)) is not None
    ]
    if fitting:
        return max(fitting, key=lambda item: item[:2])[2]
    for descriptor in index.manifests:
        if descriptor.platform is None or not str(descriptor.platform):
            return descriptor
    offered = dict.fromkeys(str(item.platform) for item in index.manifests)
    raise ImageError(
        f"it is not available for {platform}",
        details="available for: " + ", ".join(text[:80] for text in offered) if offered else None,
    )


def appc_labels(platform: Platform) -> tuple[str, str]:
    """The labels `os` and `arch`; what is not said is this host's. ManifestError for unknown."""
    host = host_platform()
    system = platform.os or host.os
    machine = platform.architecture or host.architecture
    if (system, machine, platform.variant) == ("linux", "arm", "v7"):
        return system, "armv7l"
    arch = _APPC.get((system, machine))
    if arch is None:
        raise ManifestError(f"architecture: no App Container image can be for {system}/{machine}")
    return system, arch


def _rank(offered: Platform | None, wanted: Platform) -> int | None:
    """How well an offer fits; None if it does not."""
    if offered is None or (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return None
    baseline = _BASELINES.get(wanted.architecture, "")
    variant = _level(offered.variant or baseline)
    limit = _level(wanted.variant or baseline)
    return variant if variant <= limit else None


def _level(variant: str) -> int:
    digits = variant.removeprefix("v").partition(".")[0]
    return int(digits) if digits.isdecimal() and len(digits) < 4 else 0
