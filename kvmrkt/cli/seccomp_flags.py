"""rkt's grammar for `--seccomp`."""

from __future__ import annotations

import errno
import re
from typing import Literal, cast

from kvmrkt.cli.flags import faulty
from kvmrkt.pods.request import SeccompRequest

GROUPS = frozenset({
    "@appc.io/all", "@appc.io/empty",
    "@rkt/default-whitelist", "@rkt/default-blacklist",
    "@docker/default-whitelist", "@docker/default-blacklist",
    *(
        f"@systemd/{name}"
        for name in (
            "clock", "default-whitelist", "mount", "network-io", "obsolete", "privileged",
            "process", "raw-io",
        )
    ),
})  # fmt: skip
"""The named sets of system calls that rkt knew."""

_CALL = re.compile(r"[a-z_][a-z0-9_]*")


def parse_seccomp(text: str) -> SeccompRequest:
    """`mode=retain|remove[,errno=NAME],CALL|@GROUP,...` in any order; raises UsageError."""
    fields: dict[str, str] = {}
    calls: list[str] = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            calls.append(_call(part, text))
        elif key not in ("mode", "errno") or key in fields:
            raise faulty("--seccomp", text, f'invalid seccomp command-line override: "{part}"')
        else:
            fields[key] = value
    mode = fields.get("mode")
    if mode not in ("retain", "remove"):
        raise faulty(
            "--seccomp", text, "invalid seccomp mode command-line override",
            hint="begin with mode=retain or mode=remove",
        )  # fmt: skip
    if not calls:
        raise faulty("--seccomp", text, "no system call is named")
    name = fields.get("errno")
    if name is not None and not (name.startswith("E") and hasattr(errno, name)):
        raise faulty("--seccomp", text, f'"{name}" is not the name of an error (like EPERM)')
    return SeccompRequest(cast('Literal["retain", "remove"]', mode), tuple(calls), name)


def _call(word: str, text: str) -> str:
    if word.startswith("@"):
        if word not in GROUPS:
            raise faulty(
                "--seccomp", text, f'there is no group "{word}"', hint=" ".join(sorted(GROUPS))
            )
    elif not _CALL.fullmatch(word):
        raise faulty("--seccomp", text, f'"{word}" is not the name of a system call')
    return word
