"""Where the time of one start goes: consecutive phases, from the process's birth to its end."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


class Trace:
    """A chain of phases; each `end` closes the phase that began where the last one ended."""

    def __init__(self, began_seconds: float) -> None:
        """`began_seconds` on CLOCK_BOOTTIME."""
        self._began = self._last = began_seconds
        self._phases: dict[str, float] = {}

    @classmethod
    def since_process_start(cls) -> Trace:
        """The interpreter's own start is part of what a user waits for."""
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return cls(int(fields[19]) / os.sysconf("SC_CLK_TCK"))  # starttime, proc(5)

    def end(self, phase: str) -> None:
        """End a phase now; a name that comes again adds up."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._phases[phase] = self._phases.get(phase, 0.0) + now - self._last
        self._last = now

    def write(self, target: Path) -> None:
        """Write phases in seconds, their sum, and this process's own CPU time, as JSON."""
        document = {
            "phases": {name: round(seconds, 6) for name, seconds in self._phases.items()},
            "total_seconds": round(self._last - self._began, 6),
            "host_cpu_seconds": round(time.process_time(), 6),
        }
        target.write_text(json.dumps(document, indent=2) + "\n")
