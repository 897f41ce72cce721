"""Kconfig fragments: which ones make up a kernel, what they ask for, and what came of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_SET = re.compile(r"CONFIG_(\w+)=(\S.*)")
_UNSET = re.compile(r"# CONFIG_(\w+) is not set")
_DEFINITION = re.compile(r"^\s*(?:menu)?config (\w+)$", re.M)
_MARK = re.compile(r"\s+# (since|until) (\d+)\.(\d+)$")
"""A line's end that limits it to kernels from, or up to, a version: symbols come and go."""

COMMON = ("base", "virtio", "filesystems", "network", "containers", "hardening")
"""The fragments of every kernel, by concern."""


class FragmentError(Exception):
    """A fragment cannot be read, or the kernel did not take what one asks for."""


@dataclass(frozen=True, slots=True)
class KernelVersion:
    """The part of a kernel's version that decides which symbols it has."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> KernelVersion:
        """Parse the start of a version such as `6.12.117`; raises FragmentError."""
        if found := re.match(r"(\d+)\.(\d+)", text):
            return cls(int(found[1]), int(found[2]))
        raise FragmentError(f"{text!r} is not a kernel version")


@dataclass(frozen=True, slots=True)
class Request:
    """One symbol's value as a fragment asks for it; value None: the symbol must be off."""

    symbol: str
    value: str | None
    where: str

    def line(self) -> str:
        """The request in Kconfig's own spelling."""
        if self.value is None:
            return f"# CONFIG_{self.symbol} is not set"
        return f"CONFIG_{self.symbol}={self.value}"


def fragment_files(folder: Path, arch: str, variant: str, *, debug: bool) -> list[Path]:
    """The files that make up one kernel, in the order in which they are merged."""
    concerns = (*COMMON, "debug") if debug else COMMON
    files = [folder / "common" / f"{concern}.config" for concern in concerns]
    files += [folder / arch / f"{concern}.config" for concern in concerns]
    last = folder / arch / f"variant-{variant}.config"
    if not last.exists():
        known = ", ".join(sorted(f.stem[8:] for f in folder.glob(f"{arch}/variant-*.config")))
        raise FragmentError(f"{arch} has no kernel variant {variant!r}; known: {known or 'none'}")
    return [*(file for file in files if file.exists()), last]


def significant_lines(files: list[Path]) -> str:
    """The fragments without their comments: what a cached kernel depends on."""
    lines = (line for file in files for line in file.read_text().splitlines())
    return "\n".join(line for line in lines if "CONFIG_" in line)


def read_requests(files: list[Path], version: KernelVersion) -> list[Request]:
    """What the fragments ask of a kernel of this version; a later file's word counts."""
    requests: dict[str, Request] = {}
    for file in files:
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            request = _read_line(line, f"{file.parent.name}/{file.name}:{number}", version)
            if request is not None:
                requests[request.symbol] = request
    return list(requests.values())


def _read_line(line: str, where: str, version: KernelVersion) -> Request | None:
    if mark := _MARK.search(line):
        line = line[: mark.start()]
        limit = (int(mark[2]), int(mark[3]))
        actual = (version.major, version.minor)
        if (actual < limit) if mark[1] == "since" else (actual > limit):
            return None
    if found := _UNSET.fullmatch(line):
        return Request(found[1], None, where)
    if found := _SET.fullmatch(line):
        return Request(found[1], found[2], where)
    if line.strip() and not line.startswith("#") or "CONFIG_" in line:
        raise FragmentError(f"{where}: neither a symbol nor a comment: {line}")
    return None


def defined_symbols(tree: Path) -> frozenset[str]:
    """Every symbol that a kernel source tree's Kconfig files define."""
    texts = (file.read_text(errors="replace") for file in tree.rglob("Kconfig*") if file.is_file())
    return frozenset(symbol for text in texts for symbol in _DEFINITION.findall(text))


def refused(requests: list[Request], config_text: str, defined: frozenset[str]) -> list[str]:
    """What the final .config has otherwise than asked, one line for each symbol.

    A symbol that is to be off must be one of those `defined`: a misspelt one is off as well.
    """
    final = dict(_SET.findall(config_text))
    complaints = []
    for request in requests:
        actual = final.get(request.symbol)
        if actual != request.value:
            became = "off" if actual is None else actual
            complaints.append(f"{request.where}: {request.line()}, but it is {became}")
        elif request.symbol not in defined:
            complaints.append(f"{request.where}: this kernel has no symbol {request.symbol}")
    return complaints
