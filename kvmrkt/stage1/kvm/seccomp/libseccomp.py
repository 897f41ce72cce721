"""Compiling a policy with libseccomp, through ctypes: no binding of it is kept up on PyPI, and
Debian's is for Debian's own Python. The symbols and constants are those of seccomp.h, 2.5."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, NoReturn

from kvmrkt.errors import HostError, ManifestError

if TYPE_CHECKING:
    from kvmrkt.stage1.kvm.seccomp.policy import Policy
    from kvmrkt.stage1.kvm.seccomp.sets import Call

LIBRARY = "libseccomp.so.2"
INSTRUCTIONS_MAX = 4096
"""The kernel's BPF_MAXINSNS."""

_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000  # SCMP_ACT_ALLOW, _ERRNO, _KILL_PROCESS
_BAD_ARCHITECTURE, _OPTIMIZE = 2, 8  # SCMP_FLTATR_ACT_BADARCH, SCMP_FLTATR_CTL_OPTIMIZE
_BINARY_TREE = 2
_UNKNOWN = -1  # __NR_SCMP_ERROR; other negative numbers: a call of another architecture
_EQUAL, _MASKED_EQUAL = 4, 7  # SCMP_CMP_EQ, SCMP_CMP_MASKED_EQ
_INSTRUCTION_BYTES = 8
_LAST_OF_4_9 = "pkey_free"
_ENOSYS = 38


class _Compare(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operation", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def compile_policy(policy: Policy) -> bytes:
    """The filter as the kernel takes it, an array of `struct sock_filter` for this architecture.

    Raises ManifestError for a call that does not exist, HostError without libseccomp.
    """
    blocked = _KILL if policy.errno is None else _ERRNO | policy.errno
    rest = blocked if policy.mode == "retain" else _ALLOW
    compiler = _Compiler(_load(), _ERRNO | _ENOSYS if policy.missing_when_newer else rest)
    try:
        compiler.set(_BAD_ARCHITECTURE, _KILL)
        compiler.set(_OPTIMIZE, _BINARY_TREE)
        for call in policy.calls:
            number = compiler.number_of(call.name)
            if number == _UNKNOWN and call.name in policy.asked:
                raise ManifestError(
                    f'the seccomp isolator names "{call.name}", which is no system call'
                )
            for action, compare in _answers(call, blocked, remove=policy.mode == "remove"):
                compiler.add(action, number, compare)
        if policy.missing_when_newer:
            _block_old(compiler, policy, blocked)
        return compiler.export()
    finally:
        compiler.close()


def _answers(call: Call, blocked: int, *, remove: bool) -> list[tuple[int, _Compare | None]]:
    answer = blocked if remove else _ALLOW
    if call.errno is not None:
        return [(_ERRNO | call.errno, None)]
    if call.mask is not None:
        return [(answer, _Compare(0, _MASKED_EQUAL, call.mask, value)) for value in call.values]
    return [(answer, _Compare(0, _EQUAL, value, 0)) for value in call.values] or [(answer, None)]


def _block_old(compiler: _Compiler, policy: Policy, blocked: int) -> None:
    """Block by name what Linux 4.9 had and the policy does not allow; the rest is missing."""
    kept = {compiler.number_of(call.name) for call in policy.calls}
    for number in range(compiler.number_of(_LAST_OF_4_9) + 1):
        if number not in kept and compiler.is_call(number):
            compiler.add(blocked, number, None)


class _Compiler:
    """A filter that is being made."""

    def __init__(self, library: ctypes.CDLL, rest: int) -> None:
        """`rest` is what happens with calls that nothing is said of."""
        self._library = library
        self._rest = rest
        self._context: int = library.seccomp_init(rest) or _fail("begin")

    def set(self, attribute: int, value: int) -> None:
        _check(self._library.seccomp_attr_set(self._context, attribute, value), "set up")

    def number_of(self, name: str) -> int:
        number: int = self._library.seccomp_syscall_resolve_name(name.encode())
        return number

    def is_call(self, number: int) -> bool:
        return bool(self._library.seccomp_syscall_resolve_num_arch(0, number))  # the native one

    def add(self, action: int, number: int, compare: _Compare | None) -> None:
        if number < 0 or action == self._rest:
            return
        count = 0 if compare is None else 1
        array = None if compare is None else ctypes.byref(compare)
        add = self._library.seccomp_rule_add_array
        _check(add(self._context, action, number, count, array), "extend")

    def export(self) -> bytes:
        descriptor = os.memfd_create("seccomp")
        try:
            _check(self._library.seccomp_export_bpf(self._context, descriptor), "export")
            program = os.pread(descriptor, INSTRUCTIONS_MAX * _INSTRUCTION_BYTES + 1, 0)
        finally:
            os.close(descriptor)
        if not program or len(program) > INSTRUCTIONS_MAX * _INSTRUCTION_BYTES:
            _fail("export")
        return program

    def close(self) -> None:
        self._library.seccomp_release(self._context)


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise HostError(
            f"cannot make an app's seccomp filter: {error}", hint="install the package libseccomp2"
        ) from error
    context, number = ctypes.c_void_p, ctypes.c_uint32
    library.seccomp_init.restype = context
    library.seccomp_init.argtypes = (number,)
    library.seccomp_release.argtypes = (context,)
    library.seccomp_attr_set.argtypes = (context, ctypes.c_int, number)
    library.seccomp_export_bpf.argtypes = (context, ctypes.c_int)
    library.seccomp_rule_add_array.argtypes = (
        context, number, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Compare)
    )  # fmt: skip
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_syscall_resolve_num_arch.argtypes = (number, ctypes.c_int)
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    return library


def _check(result: int, attempt: str) -> None:
    if result < 0:
        _fail(attempt, os.strerror(-result))


def _fail(attempt: str, reason: str = "libseccomp did not say why") -> NoReturn:
    raise HostError(f"cannot {attempt} an app's seccomp filter: {reason}")
