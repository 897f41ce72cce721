"""Options that hold for every command."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

from kvmrkt.errors import UsageError
from kvmrkt.paths import DEFAULT_DATA, DEFAULT_LOCAL_CONFIG, DEFAULT_SYSTEM_CONFIG, DataDir

_GROUPS = {
    "all-fetch": ("image", "tls", "http", "pubkey"),
    "all-run": ("capabilities", "paths", "seccomp"),
}


class InsecureOptions(NamedTuple):
    """What `--insecure-options` switches off (rkt's words, and `jail`)."""

    image: bool = False
    tls: bool = False
    ondisk: bool = False
    http: bool = False
    pubkey: bool = False
    capabilities: bool = False
    paths: bool = False
    seccomp: bool = False
    jail: bool = False
    """Ours: QEMU is not jailed, on hosts that have no right to build a jail."""


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
    dir: Path | None = None
    system_config: Path = DEFAULT_SYSTEM_CONFIG
    local_config: Path = DEFAULT_LOCAL_CONFIG
    user_config: Path | None = None
    insecure: InsecureOptions = InsecureOptions()
    trust_keys_from_https: bool = False

    @property
    def data(self) -> DataDir:
        """The data directory: the one of `--dir`, or the configured one, or the usual one.

        Raises ConfigError for a faulty file of the configuration.
        """
        if self.dir is not None:
            return DataDir(self.dir)
        return DataDir(_configured_data(self.system_config, self.local_config, self.user_config))


@functools.cache  # for one process it is one place
def _configured_data(system: Path, local: Path, user: Path | None) -> Path:
    if not any(root is not None and (root / "paths.d").exists() for root in (system, local, user)):
        return DEFAULT_DATA
    from kvmrkt.configuration import load_configuration

    return load_configuration(system, local, user, folders=("paths.d",)).data or DEFAULT_DATA
