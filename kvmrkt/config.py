"""Options that hold for every command."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from kvmrkt.errors import UsageError
from kvmrkt.paths import DEFAULT_DATA, DEFAULT_LOCAL_CONFIG, DEFAULT_SYSTEM_CONFIG, DataDir

_GROUPS = {
    "all-fetch": ("image", "tls", "http", "pubkey"),
    "all-run": ("capabilities", "paths", "seccomp"),
}


class InsecureOptions(NamedTuple):
    """What `--insecure-options` switches off (rkt's words)."""

    image: bool = False
    tls: bool = False
    ondisk: bool = False
    http: bool = False
    pubkey: bool = False
    capabilities: bool = False
    paths: bool = False
    seccomp: bool = False


def parse_insecure_options(text: str) -> InsecureOptions:
    """Parse rkt's comma list; raises UsageError on a word it does not know."""
    known = set(InsecureOptions._fields)
    chosen: set[str] = set()
    for word in text.split(","):
        if word == "all":
            chosen |= known
        elif word in _GROUPS:
            chosen.update(_GROUPS[word])
        elif word in known:
            chosen.add(word)
        elif word != "none":
            raise UsageError(
                f'invalid argument "{text}" for --insecure-options={text}: unknown option "{word}"',
                hint="options: none, " + ", ".join(sorted(known | set(_GROUPS))) + ", all",
            )
    return InsecureOptions(**dict.fromkeys(chosen, True))


class GlobalOptions(NamedTuple):
    """rkt's global flags."""

    debug: bool = False
    dir: Path = DEFAULT_DATA
    system_config: Path = DEFAULT_SYSTEM_CONFIG
    local_config: Path = DEFAULT_LOCAL_CONFIG
    user_config: Path | None = None
    insecure: InsecureOptions = InsecureOptions()
    trust_keys_from_https: bool = False

    @property
    def data(self) -> DataDir:
        """The data directory these options name."""
        return DataDir(self.dir)
