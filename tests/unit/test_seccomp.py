"""From a seccomp isolator to the program the kernel runs, judged call by call."""

from __future__ import annotations

import base64
import ctypes
import errno
from typing import TYPE_CHECKING, Any

import pytest
from bpf_interpreter import ALLOW, ERRNO, I386, KILL_PROCESS, Answer, judge

import kvmrkt.paths
from kvmrkt.appc import isolators
from kvmrkt.appc.image_manifest import App, Isolator
from kvmrkt.cli.seccomp_flags import GROUPS
from kvmrkt.errors import HostError, ManifestError
from kvmrkt.stage1.kvm.seccomp import libseccomp
from kvmrkt.stage1.kvm.seccomp.libseccomp import compile_policy
from kvmrkt.stage1.kvm.seccomp.policy import ALL, EMPTY, policy_for
from kvmrkt.stage1.kvm.seccomp.program import filter_for
from kvmrkt.stage1.kvm.seccomp.sets import FILES, FOLDER, Call, read_set

if TYPE_CHECKING:
    from pathlib import Path

KILLED = Answer(KILL_PROCESS)
ALLOWED = Answer(ALLOW)
MISSING = Answer(ERRNO, errno.ENOSYS)
NEW_USER, NEW_MOUNT, THREAD = 0x10000000, 0x00020000, 0x003D0F00

# x86-64's numbers, beyond those that Linux 4.9 had from 332 on
READ, WRITE, MMAP, CLONE, EXECVE, EXIT, PTRACE, PERSONALITY, MOUNT, UNSHARE, STATX, RSEQ = (
    0, 1, 9, 56, 59, 60, 101, 135, 165, 272, 332, 334,
)  # fmt: skip
IO_URING_SETUP, OPEN_TREE, CLONE3, CLOSE_RANGE, NOT_YET = 425, 428, 435, 436, 1023


def an_app(*isolators: tuple[str, Any]) -> App:
    listed = [Isolator(f"os/linux/seccomp-{mode}-set", value) for mode, value in isolators]
    return App(exec=["/x"], user="0", group="0", isolators=listed)


def program(mode: str | None = None, *calls: str, errno: str | None = None) -> bytes | None:
    value = {"set": list(calls), **({"errno": errno} if errno is not None else {})}
    asked = isolators.seccomp(an_app((mode, value)) if mode else an_app())
    policy = policy_for(asked)
    return None if policy is None else compile_policy(policy)


def judged(compiled: bytes | None, number: int, *arguments: int, **how: int) -> Answer:
    assert compiled is not None
    return judge(compiled, number, *arguments, **how)


def test_without_an_isolator_it_is_rkts_whitelist_and_the_rest_ends_the_app() -> None:
    default = program()
    for allowed in (READ, WRITE, MMAP, EXECVE, EXIT):
        assert judged(default, allowed) == ALLOWED
    for blocked in (PTRACE, MOUNT, UNSHARE):
        assert judged(default, blocked) == KILLED


def test_what_todays_c_libraries_call_first_is_allowed_by_default() -> None:
    for number in (STATX, RSEQ, CLOSE_RANGE):
        assert judged(program(), number) == ALLOWED


def test_calls_younger_than_rkts_lists_are_missing_by_default() -> None:
    for number in (IO_URING_SETUP, OPEN_TREE, NOT_YET):
        assert judged(program(), number) == MISSING


def test_processes_and_threads_are_made_but_none_in_namespaces_of_its_own() -> None:
    default = program()
    assert judged(default, CLONE, 17) == judged(default, CLONE, THREAD) == ALLOWED
    for flags in (NEW_USER | 17, NEW_MOUNT, NEW_USER | THREAD):
        assert judged(default, CLONE, flags) == MISSING
    assert judged(default, CLONE3) == MISSING  # the C library then takes clone


def test_only_harmless_execution_domains_are_allowed() -> None:
    default = program()
    assert judged(default, PERSONALITY, 0xFFFFFFFF) == judged(default, PERSONALITY, 8) == ALLOWED
    assert judged(default, PERSONALITY, 0x0040000) == MISSING  # ADDR_NO_RANDOMIZE


@pytest.mark.parametrize("mode", [None, "retain", "remove"])
def test_a_call_of_another_architecture_ends_the_app(mode: str | None) -> None:
    compiled = program(mode, "write")
    assert judged(compiled, READ, architecture=I386) == KILLED
    assert judged(compiled, 0x40000000 | READ) == KILLED  # x32


def test_retained_calls_are_allowed_with_what_a_process_needs_to_end() -> None:
    compiled = program("retain", "write", "write")
    assert [judged(compiled, n) for n in (WRITE, EXECVE, EXIT)] == [ALLOWED] * 3
    assert [judged(compiled, n) for n in (READ, MOUNT, NOT_YET)] == [KILLED] * 3


def test_removed_calls_are_blocked_and_nothing_else() -> None:
    compiled = program("remove", "mount", "@rkt/default-blacklist")
    assert [judged(compiled, n) for n in (MOUNT, PTRACE, IO_URING_SETUP)] == [KILLED] * 3
    assert [judged(compiled, n) for n in (READ, CLONE3, NOT_YET)] == [ALLOWED] * 3
    assert judged(compiled, CLONE, NEW_USER) == ALLOWED


@pytest.mark.parametrize("mode", ["retain", "remove"])
def test_an_error_takes_the_place_of_the_end(mode: str) -> None:
    compiled = program(mode, "mount", errno="ENOTSUP")
    blocked = MOUNT if mode == "remove" else PTRACE
    assert judged(compiled, blocked) == Answer(ERRNO, errno.ENOTSUP)


def test_a_removed_set_with_rules_is_removed_whole() -> None:
    compiled = program("remove", "@rkt/default-whitelist")
    assert judged(compiled, CLONE, 17) == judged(compiled, CLONE3) == KILLED


def test_a_call_named_by_itself_is_retained_without_the_conditions_of_a_set() -> None:
    compiled = program("retain", "clone", "@docker/default-whitelist")
    assert judged(compiled, CLONE, NEW_USER) == ALLOWED
    compiled = program("retain", "@docker/default-whitelist")
    assert judged(compiled, CLONE, NEW_USER) == KILLED


def test_all_retained_is_no_filter_and_nothing_removed_is_the_default() -> None:
    assert program("retain", "read", ALL) is None
    assert program("remove", "read", EMPTY) == program()
    assert judged(program("remove", EMPTY, errno="EPERM"), MOUNT) == Answer(ERRNO, errno.EPERM)


def test_the_other_modes_wildcard_says_nothing() -> None:
    assert program("retain", EMPTY, "read") == program("retain", "read")
    assert program("remove", ALL, "read") == program("remove", "read")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({}, "set: is required, but missing"),
        ({"set": []}, "set: is required, but missing"),
        ({"set": ["Read"]}, "is not the name of a system call"),
        ({"set": [7]}, "is not the name of a system call"),
        ({"set": ["read"], "errno": "EVERY"}, "there is no error EVERY"),
        ({"set": ["read"], "errno": 1}, "is not the name of an error"),
        ({"set": ["read"], "errno": "errorcode"}, "is not the name of an error"),
        ("read", "set: is required, but missing"),
        ({"set": ["@rkt/nothing"]}, 'there is no set of system calls "@rkt/nothing"'),
        ({"set": ["raed"]}, 'names "raed", which is no system call'),
    ],
)
def test_faulty_isolators_are_refused(value: Any, why: str) -> None:
    with pytest.raises(ManifestError) as caught:
        filter_for(an_app(("remove", value)))
    assert why in caught.value.message


def test_an_app_has_one_seccomp_isolator() -> None:
    one = ("retain", {"set": ["read"]})
    with pytest.raises(ManifestError, match="too many seccomp isolators specified"):
        filter_for(an_app(one, ("remove", one[1])))


def test_every_set_of_the_command_line_has_a_file_with_its_source() -> None:
    assert set(FILES) | {ALL, EMPTY} == GROUPS
    assert {path.stem for path in FOLDER.iterdir()} == set(FILES.values())
    for path in FOLDER.iterdir():
        assert "rkt" in path.read_text().partition("\n\n")[0]


YOUNGER_THAN_LIBSECCOMP_2_5 = {"mseal"}


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_name_of_a_set_is_a_system_call_of_some_machine(name: str) -> None:
    resolve = ctypes.CDLL(libseccomp.LIBRARY).seccomp_syscall_resolve_name
    unknown = {call.name for call in read_set(name) if resolve(call.name.encode()) == -1}
    assert unknown <= YOUNGER_THAN_LIBSECCOMP_2_5 | NEVER_BUILT


NEVER_BUILT = {"epoll_ctl_old", "epoll_wait_old"}


def test_rules_of_a_set_are_read() -> None:
    calls = {call.name: call for call in read_set("@rkt/default-whitelist")}
    assert calls["clone"] == Call("clone", (0,), 0x7E020000)
    assert calls["clone3"].errno == errno.ENOSYS
    assert len(calls["personality"].values) == 5
    assert calls["read"] == Call("read")
    assert len(calls) > 300


def test_the_default_filter_is_compiled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvmrkt.paths, "RUNTIME", tmp_path / "run")
    first = filter_for(an_app())
    monkeypatch.setattr(libseccomp, "compile_policy", None)
    assert filter_for(an_app()) == first
    assert base64.b64decode(first or "") == program()


def test_a_kept_filter_of_another_policy_or_a_damaged_one_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvmrkt.paths, "RUNTIME", tmp_path)
    first = filter_for(an_app())
    for text in ('{"policy":"old","program":"AAAA"}', "{"):
        (tmp_path / "seccomp-default.json").write_text(text)
        assert filter_for(an_app()) == first


def test_a_host_without_libseccomp_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libseccomp, "LIBRARY", "libseccomp.so.nothing")
    with pytest.raises(HostError) as caught:
        program()
    assert caught.value.hint == "install the package libseccomp2"
