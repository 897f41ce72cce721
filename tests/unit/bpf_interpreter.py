"""Classic BPF as seccomp uses it, interpreted: what a filter answers to one system call.

Only the instructions that a filter of libseccomp holds (linux/bpf_common.h); anything else is an
error, as for the kernel.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

ALLOW, ERRNO, KILL_PROCESS, KILL_THREAD = 0x7FFF0000, 0x00050000, 0x80000000, 0
X86_64, I386 = 0xC000003E, 0x40000003

_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_GREATER_EQUAL, _JUMP_SET, _JUMP, _RETURN, _AND = (
    0x20, 0x15, 0x25, 0x35, 0x45, 0x05, 0x06, 0x54,
)  # fmt: skip


class Answer(NamedTuple):
    """An action, and its errno."""

    action: int
    errno: int = 0


def judge(program: bytes, number: int, *arguments: int, architecture: int = X86_64) -> Answer:
    """What the filter answers to a call with these arguments."""
    six = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *six)
    code = list(struct.iter_unpack("<HBBI", program))
    at, accumulator = 0, 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == _LOAD:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == _AND:
            accumulator &= value
        elif operation == _JUMP:
            at += value
        elif operation == _RETURN:
            return Answer(value & 0xFFFF0000, value & 0xFFFF)
        else:
            at += yes if _holds(operation, accumulator, value) else no


def _holds(operation: int, left: int, right: int) -> bool:
    return {
        _JUMP_EQUAL: left == right,
        _JUMP_GREATER: left > right,
        _JUMP_GREATER_EQUAL: left >= right,
        _JUMP_SET: bool(left & right),
    }[operation]
