"""What is known about this host's KVM; apart from the probe, so that reading it costs little."""

from __future__ import annotations

import msgspec


class ProbeVerdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the probe found; `reason` reads on after "KVM is usable: " or "KVM is not usable: ".

    A verdict that is not `lasting` says nothing about the next attempt and is not kept.
    """

    usable: bool
    reason: str
    loop_microseconds: float | None = None
    tsc_khz: int | None = None
    lasting: bool = True
