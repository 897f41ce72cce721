"""Which boot of the host this is: process IDs and findings about the kernel hold for one only."""

from __future__ import annotations

from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The kernel's name for this boot."""
    return _BOOT_ID.read_text().strip()
