"""Exit statuses: one table in the docs, and it is what the errors say."""

from __future__ import annotations

import re
from pathlib import Path

from kvmrkt import errors
from kvmrkt.errors import EXIT_FAILURE, EXIT_IMAGE_REFUSED, KvmrktError

DOCS = Path(__file__).resolve().parents[2] / "docs" / "exit-statuses.md"
ROW = re.compile(r"^\| (\d+) \| .+ \| `(\w+)` \|$", re.MULTILINE)
SYSTEMD = range(200, 246)
"""systemd.exec(5): what these mean is taken."""


def kinds() -> list[type[KvmrktError]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, KvmrktError)
    ]


def test_the_table_has_every_status_and_its_error() -> None:
    documented = {name: int(status) for status, name in ROW.findall(DOCS.read_text())}
    own = {kind.__name__: kind.exit_status for kind in kinds() if "exit_status" in vars(kind)}
    assert documented == own
    refused = "`ArchiveError`, `ManifestError`, `SignatureError`"
    assert f"| {EXIT_IMAGE_REFUSED} | `run` and `prepare`: " in DOCS.read_text()
    assert refused in DOCS.read_text()


def test_an_error_without_a_status_of_its_own_is_rkts() -> None:
    own = {kind for kind in kinds() if kind.exit_status != EXIT_FAILURE}
    assert {kind.__name__ for kind in kinds()} - {kind.__name__ for kind in own} >= {
        "UsageError", "ConfigError", "ImageNotFoundError", "PodError", "PodNotFoundError",
        "HostError", "StoreError", "AppStartError", "EngineError",
    }  # fmt: skip


def test_no_status_looks_like_a_signal_or_like_one_of_systemds() -> None:
    statuses = {kind.exit_status for kind in kinds()}
    assert min(statuses) > 128 + 64
    assert not statuses & set(SYSTEMD)
    assert max(statuses) == EXIT_FAILURE


def test_every_way_the_machinery_fails_is_told_apart() -> None:
    engine = [kind for kind in kinds() if issubclass(kind, errors.EngineError)]
    distinct = [kind.exit_status for kind in engine if kind.exit_status != EXIT_FAILURE]
    assert len(distinct) == len(set(distinct)) == 6
