"""The App Container specification's own validator, from Debian's source with Debian's Go, packed
with `actool`: its two images, main and sidekick, share a volume on /db."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import aci

PACKAGES = ("golang-github-appc-spec-dev", "golang-go", "appc-spec")
SOURCE = "github.com/appc/spec/ace"
GO = "/usr/lib/go/bin/go"
"""Debian's, whatever else is on PATH."""
PROGRAM = "/ace-validator"
DATABASE = {"name": "database", "path": "/db", "readOnly": False}


def is_offered() -> bool:
    """Whether this Debian has the source: 12 is the last that does."""
    return int(platform.freedesktop_os_release().get("VERSION_ID", "13")) <= 12


def inputs() -> list[str]:
    """What both images depend on beside the recipes' code."""
    query = ["dpkg-query", "--show", "--showformat=${Package} ${Version}\n", *PACKAGES]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    return [done.stdout, Path(__file__).read_text()]


def manifest(role: str, **app: Any) -> dict[str, Any]:
    """The manifest of one of the two."""
    whole = {"exec": [PROGRAM, role], "user": "0", "group": "0", "mountPoints": [DATABASE], **app}
    return aci.manifest(f"kvmrkt.io/ace-validator-{role}", "0.8.11", whole)


def pack(output: Path, image: dict[str, Any], folders: tuple[str, ...] = ()) -> None:
    """Write an image that holds the validator and nothing else."""
    with tempfile.TemporaryDirectory() as name:
        layout = Path(name) / "layout"
        root = layout / "rootfs"
        root.mkdir(parents=True)
        for folder in folders:
            (root / folder).mkdir(parents=True)
        _build(root / PROGRAM.removeprefix("/"), Path(name) / "cache")
        (layout / "manifest").write_text(json.dumps(image))
        subprocess.run(["actool", "build", "--overwrite", str(layout), str(output)], check=True)


def _build(program: Path, cache: Path) -> None:
    settings = {
        "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(cache),
        "CGO_ENABLED": "0", "GOFLAGS": "", "PATH": os.environ["PATH"],
    }  # fmt: skip
    command = [GO, "build", "-ldflags=-s -w", "-o", str(program), SOURCE]
    subprocess.run(command, env=settings, check=True)
