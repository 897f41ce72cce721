"""How much memory and how many processors a pod's machine gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from kvmrkt.configuration import KvmSettings
    from kvmrkt.stage1.kvm.podspec import AppSpec, Limits

MIB = 1 << 20
SYSTEM_BYTES = 64 * MIB
"""The kernel, the agent and the page tables: what an idle pod used, doubled."""
DEFAULT_APPS_BYTES = 192 * MIB
"""For a pod whose apps set no limit; untouched pages stay with the host."""
MAX_DEFAULT_CPUS = 4
"""A cap for pods that set no CPU limit: each vCPU costs boot time under emulation."""


KERNEL_BYTES = 32 * MIB
"""What the guest's kernel and the agent need of the machine, with room to spare."""
MIN_PROCESSES = 256
BYTES_A_PROCESS = 512 << 10
"""The kernel allows a process for each 128 KiB; an app without a limit gets a quarter of them."""


class Sizing(msgspec.Struct, frozen=True):
    """How big machines are where the pod does not say."""

    system_bytes: int = SYSTEM_BYTES
    app_bytes: int = DEFAULT_APPS_BYTES
    max_cpus: int = MAX_DEFAULT_CPUS

    @classmethod
    def of(cls, settings: KvmSettings) -> Sizing:
        """As the host's configuration has it."""
        return cls(
            settings.system_memory_bytes or SYSTEM_BYTES,
            settings.app_memory_bytes or DEFAULT_APPS_BYTES,
            settings.max_default_cpus or MAX_DEFAULT_CPUS,
        )


class Size(msgspec.Struct, frozen=True):
    """The machine's share of the host."""

    memory_bytes: int
    cpus: int


def size_machine(
    memory_limits_bytes: Sequence[int | None],
    cpu_limits_millis: Sequence[int | None],
    *,
    host_cpus: int,
    emulated: bool,
    sizing: Sizing = Sizing(),  # noqa: B008 - frozen
) -> Size:
    """Sum the apps' limits, or the default for an app without one, and add the system's share.

    Without CPU limits the guest gets the host's processors up to a cap; one under emulation,
    where a second vCPU adds 140 ms to the boot.
    """
    memory = sizing.system_bytes + sum(
        sizing.app_bytes if limit is None else limit for limit in memory_limits_bytes
    )
    limits = [millis for millis in cpu_limits_millis if millis is not None]
    if limits:
        cpus = min(max(1, -(-sum(limits) // 1000)), host_cpus)
    else:
        cpus = 1 if emulated else min(host_cpus, sizing.max_cpus)
    return Size(memory_bytes=-(-memory // MIB) * MIB, cpus=cpus)


def share_fairly(apps: Sequence[AppSpec], memory_bytes: int) -> tuple[AppSpec, ...]:
    """The apps, those without limits on memory and processes with what leaves others alive.

    An app that takes all it can must be stopped within its own cgroup: when the machine as a whole
    runs out, the kernel may choose a neighbour's process. What others were promised is theirs, and
    of the rest a quarter is left to those that were promised nothing.
    """
    processes = max(MIN_PROCESSES, memory_bytes // BYTES_A_PROCESS)
    promised = sum(app.limits.memory_bytes or 0 for app in apps)
    unlimited = sum(app.limits.memory_bytes is None for app in apps)
    rest = max(memory_bytes - KERNEL_BYTES - promised, MIB)
    most = rest if unlimited == 1 else rest * 3 // 4
    return tuple(
        msgspec.structs.replace(app, limits=_completed(app.limits, most, processes)) for app in apps
    )


def _completed(limits: Limits, memory_bytes: int, processes: int) -> Limits:
    return msgspec.structs.replace(
        limits,
        memory_bytes=memory_bytes if limits.memory_bytes is None else limits.memory_bytes,
        processes=processes if limits.processes is None else limits.processes,
    )
