#!/usr/bin/python3
"""Builds the guest's kernel from fragments: `build.py [--arch A] [--debug] FOLDER VARIANT...`.

Puts FOLDER/VARIANT/vmlinux in place for each variant, from a cache keyed by source, fragments and
compiler. KERNEL_SRC names another source: a tree or a tarball, 6.1 or later.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fragments import (
    FragmentError,
    KernelVersion,
    defined_symbols,
    fragment_files,
    read_requests,
    refused,
    significant_lines,
)
from progress import Progress
from source import KernelSource, SourceError, compiler_version, digest, find_source, source_version

FOLDER = Path(__file__).resolve().parent
_RECIPE = "1"  # count it up when these scripts make another kernel of the same input
_OBJECTS_ESTIMATE = 1750
_REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
    "KBUILD_BUILD_USER": "kvmrkt",
    "KBUILD_BUILD_HOST": "kvmrkt",
    "KBUILD_BUILD_VERSION": "1",
}


class BuildError(Exception):
    """A step of the build failed."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """How the kernel's own build calls things on one architecture."""

    kernel_name: str
    target: str
    image: str


ARCHITECTURES = {"x86_64": Architecture("x86_64", "vmlinux", "vmlinux")}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel to build: its fragments and where the cache holds it."""

    variant: str
    fragments: list[Path]
    cached: Path


def cache_root() -> Path:
    """Where kernels are kept across checkouts."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "kvmrkt" / "kernel"


def plan(source: KernelSource, arch: str, variant: str, *, debug: bool) -> Kernel:
    """Which fragments make the kernel, and under which key it is cached."""
    fragments = fragment_files(FOLDER, arch, variant, debug=debug)
    asked = significant_lines(fragments)
    key = digest(source.identity(), compiler_version(), arch, asked, _RECIPE)
    return Kernel(variant, fragments, cache_root() / key / "vmlinux")


def make(tree: Path, output: Path, arch: Architecture, *arguments: str) -> subprocess.Popen[str]:
    """Start the kernel's own make, out of tree, at low priority: builds take minutes."""
    return subprocess.Popen(
        ["nice", "make", "-C", tree, f"O={output}", f"ARCH={arch.kernel_name}", *arguments],
        env={**os.environ, **_REPRODUCIBLE, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def configure(tree: Path, output: Path, arch: Architecture, kernel: Kernel) -> None:
    """Make .config from the fragments; BuildError lists every symbol that did not take."""
    requests = read_requests(kernel.fragments, KernelVersion.parse(source_version(tree)))
    asked = output / "asked.config"
    asked.write_text("".join(f"{request.line()}\n" for request in requests))
    process = make(tree, output, arch, f"KCONFIG_ALLCONFIG={asked}", "allnoconfig")
    said = process.communicate()[0]
    if process.returncode:
        raise BuildError(f"cannot configure the kernel in {tree}:\n{said[-2000:]}")
    final = (output / ".config").read_text()
    if complaints := refused(requests, final, defined_symbols(tree)):
        listing = "\n  ".join(complaints)
        raise BuildError(f"the kernel did not take {len(complaints)} symbols:\n  {listing}")


def compile_kernel(tree: Path, output: Path, arch: Architecture, kernel: Kernel) -> None:
    """Compile and link, reporting how far it is."""
    remembered = cache_root() / f"objects-{kernel.variant}"
    estimate = int(remembered.read_text()) if remembered.exists() else _OBJECTS_ESTIMATE
    tail: list[str] = []
    process = make(tree, output, arch, f"-j{os.cpu_count() or 1}", arch.target)
    assert process.stdout is not None
    with Progress(f"kernel {kernel.variant} ({source_version(tree)})", estimate) as progress:
        for line in process.stdout:
            tail = [*tail[-30:], line]
            if line.startswith("  "):  # make's short form, one line a step: "  CC      init/main.o"
                progress.step()
    if process.wait():
        raise BuildError(f"the kernel did not compile:\n{''.join(tail)}")
    remembered.write_text(str(progress.done))


def build(source: KernelSource, tree: Path, arch: Architecture, kernel: Kernel) -> None:
    """Build one kernel into the cache."""
    kernel.cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"build-{kernel.variant}-", dir=cache_root()) as name:
        output = Path(name)
        configure(tree, output, arch, kernel)
        compile_kernel(tree, output, arch, kernel)
        stripped = output / "stripped"
        # The relocations are for a decompressor that a PVH boot does not have.
        strip = ["objcopy", "--strip-all", "--remove-section=.rela*"]
        subprocess.run([*strip, str(output / arch.image), str(stripped)], check=True)
        # For whoever reads a panic's addresses later: this kernel carries no symbols.
        shutil.copyfile(output / "System.map", kernel.cached.with_name("System.map"))
        shutil.copyfile(output / ".config", kernel.cached.with_name("config"))
        stripped.chmod(0o644)
        stripped.rename(kernel.cached)


@contextlib.contextmanager
def source_tree(source: KernelSource) -> Iterator[Path]:
    """A folder with the source; an unpacked tarball is removed afterwards (it is 1.7 GB)."""
    if source.is_folder:
        yield source.path
        return
    with tempfile.TemporaryDirectory(prefix="source-", dir=cache_root()) as name:
        print(f"kernel: unpacking {source.path} (half a minute)", file=sys.stderr, flush=True)
        subprocess.run(["tar", "-xf", source.path, "-C", name, "--strip-components=1"], check=True)
        yield Path(name)


@contextlib.contextmanager
def cache_lock() -> Iterator[None]:
    """One kernel build at a time; a second one finds its kernel in the cache."""
    cache_root().mkdir(parents=True, exist_ok=True)
    with (cache_root() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for prefix in ("source", "build"):  # of a build that was killed
            for leftover in cache_root().glob(f"{prefix}-*"):
                shutil.rmtree(leftover)
        yield


def build_missing(source: KernelSource, arch: str, kernels: list[Kernel]) -> None:
    """Build what the cache does not hold yet."""
    if all(kernel.cached.exists() for kernel in kernels):
        return
    with cache_lock():
        missing = [kernel for kernel in kernels if not kernel.cached.exists()]
        if missing:
            with source_tree(source) as tree:
                for kernel in missing:
                    build(source, tree, ARCHITECTURES[arch], kernel)


def install(kernel: Kernel, folder: Path) -> None:
    """Link the cached kernel where the assembly of stage1 looks for it."""
    target = folder / kernel.variant / "vmlinux"
    target.parent.mkdir(parents=True, exist_ok=True)
    if not (target.exists() and target.samefile(kernel.cached)):
        target.unlink(missing_ok=True)
        target.symlink_to(kernel.cached)


def main() -> int:
    """Parse the command line and build; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the guest's kernel.")
    parser.add_argument("output", type=Path, help="gets VARIANT/vmlinux for each variant")
    parser.add_argument("variants", nargs="+", metavar="VARIANT", help="kvm or tcg")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="x86_64")
    parser.add_argument("--debug", action="store_true", help="add the debug fragment")
    options = parser.parse_args()
    try:
        source = find_source(os.environ.get("KERNEL_SRC"))
        kernels = [plan(source, options.arch, v, debug=options.debug) for v in options.variants]
        build_missing(source, options.arch, kernels)
        for kernel in kernels:
            install(kernel, options.output)
    except (BuildError, FragmentError, SourceError, subprocess.CalledProcessError) as error:
        print(f"kernel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
