"""Where a guest kernel's source comes from: the distribution's package, or KERNEL_SRC."""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

DISTRIBUTION_TARBALL = Path("/usr/src/linux-source-6.12.tar.xz")
"""Installed by Debian's package linux-source-6.12, on Debian 12 and 13 alike."""


class SourceError(Exception):
    """There is no usable kernel source."""


@dataclass(frozen=True, slots=True)
class KernelSource:
    """A tarball to unpack, or a folder to build from as it is."""

    path: Path

    @property
    def is_folder(self) -> bool:
        """Whether nothing needs to be unpacked."""
        return self.path.is_dir()

    def identity(self) -> str:
        """What tells this source from another, without reading 150 MB for a cached build."""
        if self.is_folder:
            return f"{self.path.resolve()} {source_version(self.path)} {_git_state(self.path)}"
        status = self.path.stat()
        edition = _package_version(self.path) or status.st_mtime_ns
        return f"{self.path.name} {status.st_size} {edition}"


def find_source(requested: str | None) -> KernelSource:
    """The source named by KERNEL_SRC, else the distribution's; raises SourceError."""
    path = Path(requested) if requested else DISTRIBUTION_TARBALL
    if not path.exists():
        remedy = "" if requested else "; install it: apt-get install linux-source-6.12"
        raise SourceError(f"there is no kernel source at {path}{remedy}")
    if path.is_dir() and not (path / "Kconfig").exists():
        raise SourceError(f"{path} is not a kernel source tree: it has no Kconfig")
    return KernelSource(path)


def source_version(tree: Path) -> str:
    """The version a source tree's Makefile states, such as `6.12.117`."""
    text = (tree / "Makefile").read_text()
    fields = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(\S*)", text, re.M))
    return "{VERSION}.{PATCHLEVEL}.{SUBLEVEL}{EXTRAVERSION}".format_map(fields)


def compiler_version() -> str:
    """The compiler's first line about itself; another compiler makes another kernel."""
    told = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True)
    return told.stdout.splitlines()[0]


def digest(*parts: str) -> str:
    """One hash over texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _package_version(path: Path) -> str | None:
    if path != DISTRIBUTION_TARBALL:
        return None
    query = ["dpkg-query", "--show", "--showformat=${Version}", "linux-source-6.12"]
    told = subprocess.run(query, capture_output=True, text=True, check=False)
    return told.stdout if told.returncode == 0 else None


def _git_state(tree: Path) -> str:
    describe = ["git", "-C", str(tree), "describe", "--always", "--dirty"]
    told = subprocess.run(describe, capture_output=True, text=True, check=False)
    return told.stdout.strip()
