"""Where kvmrkt keeps things on the host."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

DEFAULT_DATA = Path("/var/lib/kvmrkt")
DEFAULT_SYSTEM_CONFIG = Path("/usr/lib/kvmrkt")
DEFAULT_LOCAL_CONFIG = Path("/etc/kvmrkt")
RUNTIME = Path("/run/kvmrkt")


class DataDir(NamedTuple):
    """The data directory (`--dir`): the image store and the pods."""

    root: Path

    @property
    def cas(self) -> Path:
        """The image store."""
        return self.root / "cas"

    @property
    def pods(self) -> Path:
        """One folder for each state of a pod's life, the pods inside."""
        return self.root / "pods"

    def pod(self, section: str, uuid: str) -> str:
        """A pod's directory, as text: `list` asks for thousands."""
        return f"{self.root}/pods/{section}/{uuid}"

    @property
    def prepare_lock(self) -> Path:
        """Held by who prepares a pod (shared) and who collects images (rkt's name and place).

        Between the choice of an image and the pod that refers to it, nobody may remove it.
        """
        return self.root / "locks" / "prepareLock"


def runtime_pod_dir(uuid: str) -> Path:
    """A running pod's sockets and mount points; empty after a reboot."""
    return RUNTIME / "pods" / uuid
