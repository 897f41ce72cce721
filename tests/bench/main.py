"""The benchmark: what a pod costs, and an image, beside the least each could cost, by turns.

Writes results.json and start.svg beside this file, prints a table, and fails when a budget is
missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from figures import Figure, Samples, ratio, table
from images import measure_fetches
from instructions import build_plugin, count_instructions
from kvmrkt.paths import RUNTIME
from kvmrkt.stage1.kvm.accel import choose_accelerator
from kvmrkt.stage1.kvm.machine import Accelerator
from kvmrkt.stage1.kvm.sizing import DEFAULT_APPS_BYTES, SYSTEM_BYTES
from listing import measure_list
from machine import FOLDER, Boot, make_bare_initrd, time_bare_boot
from plot import strip_plot
from pod import KVMRKT, PYTHON, Memory, Run, measure_idle_memory, time_command, time_run

MIB = 1 << 20
START_BUDGET = 1.6  # the goal is 1.25
HOST_CPU_BUDGET_SECONDS = 0.15
HELP_BUDGET_MS = 60.0
INSTRUCTIONS_BUDGET_MILLIONS = 60.0
IMAGE_ROUNDS = 3


def measure_starts(data: Path, boot: Boot, rounds: int) -> tuple[list[Run], Samples]:
    """Pod and bare machine by turns, after one of each that warms the caches."""
    time_run(data)
    time_bare_boot(boot)
    runs, bare = [], []
    for number in range(rounds):
        progress(f"start {number + 1} of {rounds}")
        bare.append(time_bare_boot(boot))
        runs.append(time_run(data))
    return runs, Samples(tuple(bare))


def measure_help(rounds: int) -> Figure:
    """What `kvmrkt --help` adds to an interpreter that does nothing."""
    progress("kvmrkt --help")
    extra = []
    for _ in range(rounds):
        bare_seconds = time_command(str(PYTHON), "-I", "-c", "pass")
        extra.append((time_command(str(KVMRKT), "--help") - bare_seconds) * 1000)
    samples = Samples(tuple(extra))
    name = "kvmrkt --help over python -c pass"
    return Figure(name, samples.median, samples.spread, "ms", HELP_BUDGET_MS)


def measure_thousand_pods(folder: Path, rounds: int) -> Figure:
    """What `kvmrkt list` adds to an interpreter that does nothing."""
    progress("kvmrkt list")
    return measure_list(folder / "thousand", rounds)


def measure_instructions(folder: Path, rounds: int) -> Figure:
    """Guest instructions from reset until the agent's hello."""
    progress("guest instructions")
    plugin = build_plugin(folder)
    counts = [count_instructions(plugin, folder) / 1e6 for _ in range(rounds)]
    samples = Samples(tuple(counts))
    name = "guest instructions, reset to agent ready"
    budget = INSTRUCTIONS_BUDGET_MILLIONS
    return Figure(name, samples.median, samples.spread, "M", budget)


def memory_figure(memory: Memory, accelerator: Accelerator) -> Figure:
    """An idle pod's memory beside what its guest uses."""
    note = f"all processes {memory.total_bytes / MIB:.0f} MiB, guest {memory.guest_bytes / MIB:.0f}"
    if accelerator == "tcg":
        note += f", translated code {memory.translated_bytes / MIB:.0f}"
    overhead = memory.overhead_bytes / MIB
    return Figure("memory of an idle pod beside its guest", overhead, 0.0, "MiB", None, note)


def progress(text: str) -> None:
    """Say on a terminal what is being measured."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print, write; the exit status says whether every budget was met."""
    parser = argparse.ArgumentParser(description="Measure what a pod costs, and an image.")
    parser.add_argument("--rounds", type=int, default=11, help="samples of each start")
    rounds: int = parser.parse_args().rounds
    accelerator = choose_accelerator("auto", RUNTIME).kind
    with tempfile.TemporaryDirectory(prefix="kvmrkt-bench-") as name:
        folder = Path(name)
        data = folder / "data"
        runs, bare = measure_starts(data, Boot(accelerator, make_bare_initrd(folder)), rounds)
        walls = Samples(tuple(run.wall_seconds for run in runs))
        cpu = Samples(tuple(run.own_cpu_seconds for run in runs))
        figures = [
            ratio("run of /bin/true over the bare machine", walls, bare, START_BUDGET),
            Figure("host CPU of a run", cpu.median, cpu.spread, "s", HOST_CPU_BUDGET_SECONDS),
            measure_help(2 * rounds),
            measure_thousand_pods(folder, 2 * rounds),
            measure_instructions(folder, 3),
            memory_figure(
                measure_idle_memory(data, SYSTEM_BYTES + DEFAULT_APPS_BYTES), accelerator
            ),
        ]
        progress("fetching a large image")
        figures += measure_fetches(folder, IMAGE_ROUNDS)
    progress("")
    print(f"accelerator {accelerator}, {rounds} rounds, spread is half the interquartile range")
    print(table(figures))
    samples = {"bare machine": bare, "kvmrkt run /bin/true": walls}
    write_results(figures, samples, accelerator)
    return 0 if all(figure.is_met for figure in figures) else 1


def write_results(
    figures: list[Figure], samples: dict[str, Samples], accelerator: Accelerator
) -> None:
    """Write the figures as JSON and the starts as a picture."""
    document = {
        "accelerator": accelerator,
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release()},
        "figures": [{**asdict(figure), "met": figure.is_met} for figure in figures],
        "samples_seconds": {name: list(s.values) for name, s in samples.items()},
    }
    (FOLDER / "results.json").write_text(json.dumps(document, indent=2) + "\n")
    in_ms = {name: Samples(tuple(v * 1000 for v in s.values)) for name, s in samples.items()}
    picture = strip_plot(f"A pod's start ({accelerator})", in_ms, "ms")
    (FOLDER / "start.svg").write_text(picture)


if __name__ == "__main__":
    sys.exit(main())
