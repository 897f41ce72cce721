"""A KVM that does as it is told, to test every verdict without a device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvmrkt.stage1.kvm.kvmioctl import API_VERSION, ExitReason, VcpuExit

if TYPE_CHECKING:
    from collections.abc import Sequence


def io_exit(port: int, cpu_seconds: float = 0.000_02) -> VcpuExit:
    """The guest wrote to a port."""
    return VcpuExit(ExitReason.IO, port, None, cpu_seconds)


def other_exit(reason: int, *, suberror: int | None = None, cpu_seconds: float = 0.0) -> VcpuExit:
    """The guest stopped for another reason."""
    return VcpuExit(reason, None, suberror, cpu_seconds)


@dataclass
class FakeKvm:
    """Answers from fields; an error given in place of an answer is raised."""

    version: int | OSError = API_VERSION
    exits: Sequence[VcpuExit | OSError] = ()
    rax: int = 0x08
    khz: int | OSError = 2_900_000
    create_error: OSError | None = None
    code: bytes = b""
    runs: int = field(default=0, init=False)

    def api_version(self) -> int:
        """`version`."""
        return _answer(self.version)

    def create(self, code: bytes) -> None:
        """Keep the code for the test to see."""
        if self.create_error is not None:
            raise self.create_error
        self.code = code

    def run(self) -> VcpuExit:
        """The next of `exits`."""
        answer = self.exits[self.runs]
        self.runs += 1
        if isinstance(answer, OSError):
            raise answer
        return answer

    def accumulator(self) -> int:
        """`rax`."""
        return self.rax

    def tsc_khz(self) -> int:
        """`khz`."""
        return _answer(self.khz)


def _answer(value: int | OSError) -> int:
    if isinstance(value, OSError):
        raise value
    return value
