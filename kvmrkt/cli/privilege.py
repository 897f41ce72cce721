"""Commands that only root can run."""

from __future__ import annotations

import os

from kvmrkt.errors import KvmrktError


def require_root(command: str) -> None:
    """Refuse in rkt's words unless the effective user is root."""
    if os.geteuid() != 0:
        error = KvmrktError("cannot run as unprivileged user", hint="run it as root, or with sudo")
        error.command = command
        raise error
