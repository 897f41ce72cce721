"""An app's isolators: the image's, with those in their place that the user asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvmrkt.appc import isolators
from kvmrkt.appc.image_manifest import Isolator
from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmrkt.appc.image_manifest import App
    from kvmrkt.pods.request import AppRequest, SeccompRequest

MIN_MEMORY_BYTES = 4096
"""Less is refused, as by rkt: it catches `16m`, which is 16 thousandths of a byte."""

_CAPABILITIES = (isolators.CAPABILITIES_RETAIN, isolators.CAPABILITIES_REMOVE)
_SECCOMP = (isolators.SECCOMP_RETAIN, isolators.SECCOMP_REMOVE)


def app_isolators(app: App, request: AppRequest) -> list[Isolator]:
    """The isolators of an app as it will run. Raises UsageError and ManifestError."""
    kept = list(app.isolators)
    for replaced, isolator in asked_isolators(request):
        kept = [item for item in kept if item.name not in replaced]
        kept.append(isolator)
    return kept


def asked_isolators(request: AppRequest) -> Iterator[tuple[tuple[str, ...], Isolator]]:
    """The isolators the user asks for, each with the names it takes the place of.

    Raises UsageError and ManifestError.
    """
    if request.memory is not None:
        _check_memory(request.memory)
        yield (isolators.MEMORY,), _limit(isolators.MEMORY, request.memory)
    if request.cpu is not None:
        if isolators.parse_cpu_millis(request.cpu) < 1:
            raise UsageError(f"CPU limit of {request.cpu} is too small")
        yield (isolators.CPU,), _limit(isolators.CPU, request.cpu)
    if request.cpu_shares is not None:
        _check_between(isolators.CPU_SHARES, request.cpu_shares, 2, 262144)
        yield (isolators.CPU_SHARES,), Isolator(isolators.CPU_SHARES, request.cpu_shares)
    if request.oom_score_adj is not None:
        _check_between(isolators.OOM_SCORE_ADJ, request.oom_score_adj, -1000, 1000)
        yield (isolators.OOM_SCORE_ADJ,), Isolator(isolators.OOM_SCORE_ADJ, request.oom_score_adj)
    if (capabilities := _capabilities(request)) is not None:
        yield _CAPABILITIES, capabilities
    if request.seccomp is not None:
        yield _SECCOMP, _seccomp(request.seccomp)


def _limit(name: str, quantity: str) -> Isolator:
    return Isolator(name, {"request": quantity, "limit": quantity})


def _check_memory(quantity: str) -> None:
    size = isolators.parse_bytes(quantity)
    if size < MIN_MEMORY_BYTES:
        raise UsageError(
            f"memory limit of {size} bytes too low. Try a reasonable value, such as --memory=16M",
            hint="M is a million bytes, Mi is 1048576; m is a thousandth",
        )


def _check_between(name: str, number: int, least: int, most: int) -> None:
    if not least <= number <= most:
        raise UsageError(f"{name} must be between {least} and {most}, got {number}")


def _capabilities(request: AppRequest) -> Isolator | None:
    retain, remove = request.retain_capabilities, request.remove_capabilities
    if retain is not None and remove is not None:
        raise UsageError("cannot use both --caps-retain and --caps-remove on the same image")
    names = retain if retain is not None else remove
    if names is None:
        return None
    for name in names:
        if name.upper() not in isolators.ALL_CAPABILITIES:
            raise UsageError(f'"{name}" is not a Linux capability', hint="like CAP_NET_ADMIN")
    kind = isolators.CAPABILITIES_REMOVE if retain is None else isolators.CAPABILITIES_RETAIN
    return Isolator(kind, {"set": [name.upper() for name in names]})


def _seccomp(request: SeccompRequest) -> Isolator:
    kind = isolators.SECCOMP_RETAIN if request.mode == "retain" else isolators.SECCOMP_REMOVE
    value: dict[str, Any] = {"set": list(request.calls)}
    if request.errno is not None:
        value["errno"] = request.errno
    return Isolator(kind, value)
