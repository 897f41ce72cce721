"""From an app's isolator to what happens with each system call.

rkt's meaning (stage1/init/common/seccomp.go), on top of the specification's: nothing said, or
`remove` with @appc.io/empty, is rkt's default whitelist; `retain` with @appc.io/all is no filter;
`retain` allows what systemd always allowed beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from kvmrkt.errors import ManifestError
from kvmrkt.stage1.kvm.seccomp.sets import FILES, Call, read_set

if TYPE_CHECKING:
    from kvmrkt.appc.isolators import SeccompSet

DEFAULT = "@rkt/default-whitelist"
ALWAYS = "@systemd/default-whitelist"
ALL, EMPTY = "@appc.io/all", "@appc.io/empty"


class Policy(NamedTuple):
    """What a filter does."""

    mode: Literal["retain", "remove"]
    calls: tuple[Call, ...]
    asked: tuple[str, ...] = ()
    """Calls that the isolator itself names: unlike those of our sets they must exist."""
    errno: int | None = None
    """What blocked calls return; None ends the process with SIGSYS."""
    missing_when_newer: bool = False
    """Calls younger than rkt's lists (Linux 4.9) fail as on a kernel that does not have them."""


def policy_for(asked: SeccompSet | None) -> Policy | None:
    """The policy of an app, None for no filter; raises ManifestError for an unknown set."""
    if asked is None:
        return _default(None)
    if asked.mode == "retain" and ALL in asked.calls:
        return None
    if asked.mode == "remove" and EMPTY in asked.calls:
        return _default(asked.errno)
    names = tuple(call for call in asked.calls if not call.startswith("@"))
    calls = [Call(name) for name in names]
    for group in asked.calls:
        if group.startswith("@"):
            calls += _group(group)
    if asked.mode == "retain":
        calls += read_set(ALWAYS)
    else:
        calls = [Call(call.name) for call in calls]  # a rule says what of a call is allowed
    return Policy(asked.mode, _once(calls), names, asked.errno)


def _default(errno: int | None) -> Policy:
    calls = _once([*read_set(DEFAULT), *read_set(ALWAYS)])
    return Policy("retain", calls, errno=errno, missing_when_newer=errno is None)


def _group(name: str) -> tuple[Call, ...]:
    if name in FILES:
        return read_set(name)
    if name in (ALL, EMPTY):
        return ()  # says something only in the isolator of the other mode
    raise ManifestError(
        f'there is no set of system calls "{name}"', hint="there are " + " ".join(sorted(FILES))
    )


def _once(calls: list[Call]) -> tuple[Call, ...]:
    """Each call once: one that is allowed without a condition is so whatever a set says of it."""
    kept: dict[str, Call] = {}
    for call in calls:
        earlier = kept.get(call.name)
        if earlier is None or (earlier != Call(call.name) and call == Call(call.name)):
            kept[call.name] = call
    return tuple(kept[name] for name in sorted(kept))
