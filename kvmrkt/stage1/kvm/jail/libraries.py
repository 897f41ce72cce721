"""The files a dynamically linked program is made of."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kvmrkt.errors import HostError
from kvmrkt.process import ProcessError, run
from kvmrkt.stage1.kvm import runcache

_LDD = "/usr/bin/ldd"
_STATIC = "not a dynamic executable"


class _Finding(msgspec.Struct, frozen=True):
    """What was found out, and of which state of the program."""

    stamp: str
    files: tuple[str, ...]


def files_of(program: Path, runtime: Path, *, modules: tuple[Path, ...] = ()) -> tuple[Path, ...]:
    """The program, its loader, its libraries, and what it loads later: `modules` and theirs.

    Kept under `runtime` until the program, the linker's cache or the host's boot changes.
    Raises HostError if they cannot be found out.
    """
    cache = runtime / f"files-of-{program.name}"
    stamp = _stamp((program, *modules, Path("/etc/ld.so.cache")))
    known = runcache.read(cache, _Finding)
    if known is not None and known.stamp == stamp:
        return tuple(map(Path, known.files))
    found = [program, *modules]
    for file in (program, *modules):
        found += _linked(file)
    files = tuple(dict.fromkeys(found))
    runcache.write(cache, _Finding(stamp, tuple(map(str, files))))
    return files


def _linked(file: Path) -> list[Path]:
    """What the loader would load for it: ldd(1) asks the loader itself."""
    try:
        said = run([_LDD, str(file)])
    except ProcessError as error:
        if _STATIC in error.stderr:
            return []
        raise
    return parse_ldd(said.decode(errors="surrogateescape"), file)


def parse_ldd(text: str, file: Path) -> list[Path]:
    """The absolute paths in the lines `NAME => PATH (0x...)` and `PATH (0x...)`."""
    found = []
    for line in text.splitlines():
        name, arrow, target = line.strip().partition(" => ")
        path = (target if arrow else name).partition(" (")[0]
        if path == "not found":
            raise HostError(
                f"{file} needs the library {name}, which this host lacks",
                hint="reinstall the package the program is of",
            )
        if path.startswith("/"):
            found.append(Path(path))
    return found


def _stamp(files: tuple[Path, ...]) -> str:
    stamps = []
    for file in files:
        try:
            state = file.stat()
        except FileNotFoundError:
            stamps.append(f"{file}:none")
        else:
            stamps.append(f"{file}:{state.st_ino}:{state.st_size}:{state.st_mtime_ns}")
    return " ".join(stamps)
