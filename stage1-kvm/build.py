#!/usr/bin/python3
"""Assembles stage1-kvm.aci from kernels and initrd: `build.py KERNELS INITRD SSH OUTPUT`.

The same input gives the same bytes. The archive is not compressed: it is imported once from a
local file, and the kernel is booted uncompressed, so packing would only cost time on both sides.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ENTRYPOINTS = {"run": "/init", "enter": "/enter", "gc": "/gc", "stop": "/stop"}
"""rkt's names for what a stage1 image can be asked to do."""

INTERFACE_VERSION = "6"
VARIANTS = ("kvm", "tcg")


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the image."""

    path: str
    source: Path
    mode: int


def parts(kernels: Path, initrd: Path, ssh: Path) -> list[Part]:
    """Everything in the image's root filesystem, in the order of the archive."""
    scripts = [
        Part(path, FOLDER / "entrypoints" / path[1:], 0o755) for path in ENTRYPOINTS.values()
    ]
    images = [
        Part(f"/kernel/{variant}/vmlinux", kernels / variant / "vmlinux", 0o644)
        for variant in VARIANTS
    ]
    return [*scripts, *images, Part("/initrd", initrd, 0o644), Part("/ssh", ssh, 0o755)]


def kernel_parameters() -> str:
    """The boot parameters, without their reasons, as one line."""
    lines = (FOLDER / "kernel-parameters").read_text().splitlines()
    return " ".join(word for line in lines if (word := line.partition("#")[0].strip()))


def version() -> str:
    """kvmrkt's version, read without importing it: the build has no environment of its own."""
    for node in ast.parse((FOLDER.parent / "kvmrkt" / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise SystemExit("stage1: kvmrkt/__init__.py states no __version__")


def manifest() -> dict[str, object]:
    """The image manifest: rkt's stage1 annotations, and what kvmrkt's own engine reads."""
    annotations = {f"coreos.com/rkt/stage1/{verb}": path for verb, path in ENTRYPOINTS.items()}
    annotations["coreos.com/rkt/stage1/interface-version"] = INTERFACE_VERSION
    annotations |= {
        "kvmrkt.io/stage1/engine": "kvm",
        "kvmrkt.io/stage1/kvm/kernel": "/kernel/kvm/vmlinux",
        "kvmrkt.io/stage1/kvm/kernel-tcg": "/kernel/tcg/vmlinux",
        "kvmrkt.io/stage1/kvm/initrd": "/initrd",
        "kvmrkt.io/stage1/kvm/ssh": "/ssh",
        "kvmrkt.io/stage1/kvm/kernel-parameters": kernel_parameters(),
    }
    labels = {"version": version(), "os": "linux", "arch": "amd64"}
    return {
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": "kvmrkt.io/stage1-kvm",
        "labels": [{"name": name, "value": value} for name, value in labels.items()],
        "annotations": [{"name": name, "value": value} for name, value in annotations.items()],
    }


def _entry(name: str, mode: int, kind: bytes, size_bytes: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.mode = mode
    entry.size = size_bytes
    return entry


def write_image(output: Path, files: list[Part]) -> None:
    """Write the archive under a temporary name, then move it into place."""
    text = json.dumps(manifest(), indent=2).encode() + b"\n"
    temporary = output.with_name(f".{output.name}.new")
    with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as image:
        image.addfile(_entry("manifest", 0o644, tarfile.REGTYPE, len(text)), io.BytesIO(text))
        folders = {"rootfs"}
        image.addfile(_entry("rootfs", 0o755, tarfile.DIRTYPE))
        for part in files:
            path = f"rootfs{part.path}"
            for above in reversed(Path(path).parents[:-1]):
                if os.fspath(above) not in folders:
                    folders.add(os.fspath(above))
                    image.addfile(_entry(os.fspath(above), 0o755, tarfile.DIRTYPE))
            with part.source.open("rb") as content:
                size_bytes = os.fstat(content.fileno()).st_size
                image.addfile(_entry(path, part.mode, tarfile.REGTYPE, size_bytes), content)
    temporary.rename(output)


def main() -> int:
    """Parse the command line and assemble; returns the exit status."""
    parser = argparse.ArgumentParser(description="Assemble stage1-kvm.aci.")
    parser.add_argument("kernels", type=Path, help="folder with VARIANT/vmlinux")
    parser.add_argument("initrd", type=Path)
    parser.add_argument("ssh", type=Path, help="the guest's SSH server")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    files = parts(options.kernels, options.initrd, options.ssh)
    if missing := [os.fspath(part.source) for part in files if not part.source.exists()]:
        print(f"stage1: not built yet: {', '.join(missing)}", file=sys.stderr)
        return 1
    write_image(options.output, files)
    return 0


if __name__ == "__main__":
    sys.exit(main())
