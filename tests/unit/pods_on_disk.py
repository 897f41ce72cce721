"""Pods made by hand, for tests of what finds them later."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kvmrkt.pods.directory import PodDirectory, make_sections, new_uuid
from kvmrkt.pods.states import Section

if TYPE_CHECKING:
    from kvmrkt.paths import DataDir

IMAGE_ID = "sha512-" + "0123456789abcdef" * 4


def fabricate(data: DataDir, section: Section, uuid: str | None = None) -> PodDirectory:
    """An empty pod in a section, unlocked."""
    make_sections(data)
    pod = PodDirectory(data, section, uuid or new_uuid())
    pod.path.mkdir()
    return pod


def manifest(*apps: str, **more: Any) -> bytes:
    """A pod manifest with the given apps."""
    entries = [
        {
            "name": app,
            "image": {
                "name": f"example.com/{app}",
                "id": IMAGE_ID,
                "labels": [{"name": "version", "value": "v1"}],
            },
        }
        for app in apps
    ]
    document = {"acVersion": "0.8.11", "acKind": "PodManifest", "apps": entries, **more}
    return json.dumps(document).encode()
