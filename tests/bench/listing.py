"""What `kvmrkt list` costs where a thousand pods have run."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from figures import Figure, Samples
from pod import KVMRKT, PYTHON, time_command, time_run

PODS = 1000
BUDGET_MS = 150.0


def measure_list(data: Path, rounds: int) -> Figure:
    """`kvmrkt list` of 1,000 pods over an interpreter that does nothing, by turns."""
    _make_pods(data)
    extra = []
    for _ in range(rounds):
        bare_seconds = time_command(str(PYTHON), "-c", "pass")
        extra.append((time_command(str(KVMRKT), f"--dir={data}", "list") - bare_seconds) * 1000)
    samples = Samples(tuple(extra))
    name = f"list of {PODS} pods over python -c pass"
    return Figure(name, samples.median, samples.spread, "ms", BUDGET_MS)


def _make_pods(data: Path) -> None:
    """A thousand copies of a pod that has run, each under a name of its own."""
    time_run(data)
    run = data / "pods" / "run"
    (pattern,) = run.iterdir()
    disk = shutil.ignore_patterns("scratch.img")  # a copy of a sparse file is not sparse
    for _ in range(PODS - 1):
        shutil.copytree(pattern, run / str(uuid.uuid4()), ignore=disk)
