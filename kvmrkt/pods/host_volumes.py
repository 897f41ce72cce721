"""The folders and files of the host that a pod mounts."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    from kvmrkt.appc.pod_manifest import PodManifest


def check_sources(manifest: PodManifest) -> None:
    """Raise UsageError for a volume whose source is missing, or neither a folder nor a file."""
    for volume in manifest.volumes:
        if volume.kind != "host":
            continue
        source = Path(volume.source or "")
        try:
            mode = source.stat().st_mode
        except OSError as error:
            raise UsageError(
                f'cannot use the volume "{volume.name}": its source {source}: {error.strerror}',
                hint="make the folder, or correct source= in --volume",
            ) from None
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise UsageError(
                f'cannot use the volume "{volume.name}": its source {source} is neither a '
                "folder nor a regular file"
            )
