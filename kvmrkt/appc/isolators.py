"""What an app's isolators ask for, in units the engine uses (appc/spec, ace.md)."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from kvmrkt.errors import ManifestError

if TYPE_CHECKING:
    from fractions import Fraction

    from kvmrkt.appc.image_manifest import App

MEMORY = "resource/memory"
CPU = "resource/cpu"
CPU_SHARES = "os/linux/cpu-shares"
OOM_SCORE_ADJ = "os/linux/oom-score-adj"
NO_NEW_PRIVILEGES = "os/linux/no-new-privileges"
CAPABILITIES_RETAIN = "os/linux/capabilities-retain-set"
CAPABILITIES_REMOVE = "os/linux/capabilities-remove-set"
SECCOMP_RETAIN = "os/linux/seccomp-retain-set"
SECCOMP_REMOVE = "os/linux/seccomp-remove-set"

APPLIED = frozenset(
    (MEMORY, CPU, CPU_SHARES, OOM_SCORE_ADJ, NO_NEW_PRIVILEGES)
    + (CAPABILITIES_RETAIN, CAPABILITIES_REMOVE, SECCOMP_RETAIN, SECCOMP_REMOVE)
)

DEFAULT_CAPABILITIES = (
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_KILL",
    "CAP_MKNOD", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID",
    "CAP_SETPCAP", "CAP_SETFCAP", "CAP_SYS_CHROOT",
)  # fmt: skip
"""What an app may do without any isolator (appc/spec, ace.md)."""

ALL_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
    "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
    "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
    "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip
"""linux/capability.h, in the order of the numbers."""

_QUANTITY = re.compile(
    r"(?P<whole>\d*)(?:\.(?P<part>\d*))?"
    r"(?:(?P<suffix>[KMGTPE]i|[numkKMGTPE])|[eE](?P<exponent>[+-]?\d{1,3}))?",
    re.ASCII,
)
_CALL = re.compile(r"@[a-z0-9.]+/[a-z0-9-]+|[a-z_][a-z0-9_]*", re.ASCII)
_POWERS = {"n": -9, "u": -6, "m": -3, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = "KMGTPE"
_MAX_QUANTITY = 2**63 - 1
_MAX_DIGITS = 40


def parse_quantity(text: str, field: str = "quantity") -> Fraction:
    """A resource quantity as an exact number of base units: `128M`, `1Gi`, `500m`, `0.5`, `1e3`.

    Raises ManifestError with `field` in front if it is none.
    """
    from fractions import Fraction

    return Fraction(*_parse_ratio(text, field))


def parse_bytes(text: str, field: str = "memory") -> int:
    """A quantity of memory in bytes, rounded up."""
    numerator, denominator = _parse_ratio(text, field)
    return -(-numerator // denominator)


def parse_cpu_millis(text: str, field: str = "cpu") -> int:
    """A quantity of CPUs in thousandths of one, rounded up."""
    numerator, denominator = _parse_ratio(text, field)
    return -(-numerator * 1000 // denominator)


def memory_limit_bytes(app: App) -> int | None:
    """The app's memory limit in bytes, or None."""
    text, field = _resource(app, MEMORY)
    return None if text is None else parse_bytes(text, field)


def cpu_limit_millis(app: App) -> int | None:
    """The app's CPU limit in thousandths of a CPU, or None."""
    text, field = _resource(app, CPU)
    return None if text is None else parse_cpu_millis(text, field)


def cpu_shares(app: App) -> int | None:
    """cgroup v1's `cpu.shares` (2 to 262144) or None."""
    return _integer(app, CPU_SHARES, 2, 262144)


def oom_score_adj(app: App) -> int | None:
    """/proc/PID/oom_score_adj (-1000 to 1000) or None."""
    return _integer(app, OOM_SCORE_ADJ, -1000, 1000)


def no_new_privileges(app: App) -> bool:
    """Whether the app's processes must never gain privileges."""
    value, field = _find(app, NO_NEW_PRIVILEGES)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise ManifestError(f"{field}: is not true or false")
    return value


def capabilities(app: App) -> tuple[str, ...]:
    """The capabilities in the app's bounding set, in the order of their numbers."""
    retain, retain_field = _capability_set(app, CAPABILITIES_RETAIN)
    remove, remove_field = _capability_set(app, CAPABILITIES_REMOVE)
    if retain is not None and remove is not None:
        raise ManifestError(
            f"{remove_field}: {CAPABILITIES_REMOVE} cannot stand beside"
            f" {CAPABILITIES_RETAIN} ({retain_field})"
        )
    kept = set(DEFAULT_CAPABILITIES) - (remove or set()) if retain is None else retain
    return tuple(name for name in ALL_CAPABILITIES if name in kept)


class SeccompSet(NamedTuple):
    """What an app's seccomp isolator says, names and `@` groups as written."""

    mode: Literal["retain", "remove"]
    calls: tuple[str, ...]
    errno: int | None
    """What a blocked call returns; None ends the app with SIGSYS."""


def seccomp(app: App) -> SeccompSet | None:
    """The app's seccomp isolator, None without one; raises ManifestError if there are several."""
    names = [i.name for i in app.isolators if i.name in (SECCOMP_RETAIN, SECCOMP_REMOVE)]
    if not names:
        return None
    if len(names) > 1:
        raise ManifestError("too many seccomp isolators specified")
    value, field = _find(app, names[0])
    calls = value.get("set") if isinstance(value, dict) else None
    if not isinstance(calls, list) or not calls:
        raise ManifestError(f"{field}.set: is required, but missing")
    for index, call in enumerate(calls):
        if not isinstance(call, str) or not _CALL.fullmatch(call):
            raise ManifestError(f"{field}.set[{index}]: {call!r} is not the name of a system call")
    mode: Literal["retain", "remove"] = "retain" if names[0] == SECCOMP_RETAIN else "remove"
    return SeccompSet(mode, tuple(calls), _errno(value.get("errno") or None, f"{field}.errno"))


def _errno(word: object, field: str) -> int | None:
    if word is None:
        return None
    if not isinstance(word, str) or not re.fullmatch("E[A-Z0-9]+", word, re.ASCII):
        raise ManifestError(f"{field}: {word!r} is not the name of an error (like EPERM)")
    number = getattr(errno, word, None)
    if number is None:
        raise ManifestError(f"{field}: there is no error {word}")
    return int(number)


def ignored(app: App) -> tuple[str, ...]:
    """The names of isolators that nothing here applies; the specification wants them reported."""
    return tuple(item.name for item in app.isolators if item.name not in APPLIED)


def _parse_ratio(text: str, field: str) -> tuple[int, int]:
    match = _QUANTITY.fullmatch(text)
    digits = "" if match is None else match["whole"] + (match["part"] or "")
    if match is None or not digits or len(digits) > _MAX_DIGITS:
        raise ManifestError(f"{field}: {text!r} is not a quantity (like 500m, 128M, 1Gi)")
    suffix = match["suffix"] or ""
    power = int(match["exponent"] or 0) + _POWERS.get(suffix, 0) - len(match["part"] or "")
    numerator, denominator = int(digits) * 10 ** max(power, 0), 10 ** max(-power, 0)
    if suffix.endswith("i"):
        numerator *= 1024 ** (_BINARY.index(suffix[0]) + 1)
    if numerator > _MAX_QUANTITY * denominator:
        raise ManifestError(f"{field}: {text!r} is more than a machine can have")
    return numerator, denominator


def _find(app: App, name: str) -> tuple[Any, str]:
    found = [(item.value, index) for index, item in enumerate(app.isolators) if item.name == name]
    if not found:
        return None, ""
    value, index = found[-1]  # as rkt: what was appended last (a flag of the command line) wins
    return value, f"app.isolators[{index}].value"


def _resource(app: App, name: str) -> tuple[str | None, str]:
    value, field = _find(app, name)
    if value is None:
        return None, ""
    if not isinstance(value, dict):
        raise ManifestError(f"{field}: is not an object with a request or a limit")
    text = value.get("limit")  # as rkt: a request alone limits nothing
    if isinstance(text, int) and not isinstance(text, bool):
        text = str(text)
    if text is not None and not isinstance(text, str):
        raise ManifestError(f"{field}.limit: is not a quantity")
    return text or None, f"{field}.limit"


def _integer(app: App, name: str, least: int, most: int) -> int | None:
    value, field = _find(app, name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ManifestError(f"{field}: {value!r} is not a number from {least} to {most}")
    return value


def _capability_set(app: App, name: str) -> tuple[set[str] | None, str]:
    value, field = _find(app, name)
    if value is None:
        return None, ""
    names = value.get("set") if isinstance(value, dict) else None
    if not isinstance(names, list):
        raise ManifestError(f"{field}.set: is required, but missing")
    chosen = set()
    for index, item in enumerate(names):
        if not isinstance(item, str) or item.upper() not in ALL_CAPABILITIES:
            raise ManifestError(f"{field}.set[{index}]: {item!r} is not a Linux capability")
        chosen.add(item.upper())
    return chosen, field
