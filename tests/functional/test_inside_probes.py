"""docs/inside-a-pod.md says what a default app is given and refused: it is tried row by row."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from real_pods import INSIDE, ROOT, lines_of

if TYPE_CHECKING:
    from real_pods import Kvmrkt

pytestmark = pytest.mark.functional

DOCUMENT = ROOT / "docs" / "inside-a-pod.md"
ROW = re.compile(r"\| `([A-Za-z0-9-]+)` \| [^|]+ \| ([A-Za-z]+) \| [^|]+ \|")


def table() -> dict[str, str]:
    """The outcomes that the document promises."""
    text = DOCUMENT.read_text().partition("## Probes")[2].partition("\n## ")[0]
    rows = [ROW.fullmatch(line) for line in text.splitlines() if line.startswith("| `")]
    assert all(rows), "a row has another form"
    return {row[1]: row[2] for row in rows if row}


def test_every_probe_comes_to_what_the_document_says(kvmrkt: Kvmrkt) -> None:
    secret = "neighbours-secret"
    done = kvmrkt.run(
        "--volume=data,kind=empty",
        INSIDE, "--name=neighbour", "--exec=/bin/inside", "--",
        "touch", f"/{secret}", "touch", f"/tmp/{secret}", "touch", "/data/ready",
        "await", "/data/done", "---",
        INSIDE, "--name=prober", "--exec=/bin/inside", "--",
        "await", "/data/ready", "probes", "touch", "/data/done",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(line.split(" ") for line in lines_of(done, "prober"))
    assert found == table()
    assert len(found) >= 60
