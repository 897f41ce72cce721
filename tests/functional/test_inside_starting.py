"""Starting a program in an app: what it may do from its first instruction, and why it could not."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from agent_guest import RefusedError, app, booted, prepare_boot
from real_pods import INSIDE

from kvmrkt.appc.isolators import SeccompSet
from kvmrkt.stage1.kvm.seccomp.libseccomp import compile_policy
from kvmrkt.stage1.kvm.seccomp.policy import policy_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent_guest import Guest

    from kvmrkt.stage1.kvm.podspec import AppSpec

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest whose apps have the image `inside`."""
    boot = prepare_boot(tmp_path_factory.mktemp("boot"), INSIDE)
    with booted(boot, tmp_path_factory.mktemp("guest")) as guest:
        guest.start_pod()
        yield guest


def seccomp(mode: Any, *calls: str) -> str:
    """A filter in base64."""
    policy = policy_for(SeccompSet(mode, calls, None))
    assert policy is not None
    return base64.b64encode(compile_policy(policy)).decode()


def looking(name: str, *words: str, **changes: Any) -> AppSpec:
    return app(name, "/bin/inside", *words, **changes)


FAULTS = [
    ("/bad/none", "no-such-executable", 'there is no executable "/bad/none" in the image'),
    ("none", "no-such-executable", 'there is no executable "none" in PATH='),
    ("/bad/dangling", "no-such-executable", 'there is no executable "/bad/dangling"'),
    ("/bad/folder", "exec-failed", "it is a directory"),
    ("/bad/mode", "exec-failed", "permission denied (is it marked executable for this user?)"),
    ("/bad/text", "exec-failed", "neither a program for this machine nor starts with #!"),
    ("/bad/script", "exec-failed", '"/no/such/interpreter" does not exist in the image'),
    ("/bad/loader", "exec-failed", "ld-linux-x86-64.so.2"),
    ("/bad/processor", "exec-failed", "it was built for another kind of processor"),
]


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize(("path", "kind", "why"), FAULTS)
def test_what_cannot_start_says_why_even_when_it_may_not_say_anything(
    inside: Guest, path: str, kind: str, why: str, filtered: bool
) -> None:
    filter_ = seccomp("retain", "execve") if filtered else None
    with pytest.raises(RefusedError) as caught:
        inside.run(app("faulty", path, seccomp=filter_))
    assert (caught.value.kind, caught.value.app) == (kind, "faulty")
    assert why in caught.value.message


def test_even_a_filter_that_lets_no_process_end_does_not_hide_why(inside: Guest) -> None:
    everything = seccomp("remove", "exit_group", "exit", "write")
    with pytest.raises(RefusedError, match="another kind of processor"):
        inside.run(app("stuck", "/bad/processor", seccomp=everything))


def test_a_program_of_roots_alone_is_not_another_users(inside: Guest) -> None:
    with pytest.raises(RefusedError, match="marked executable for this user"):
        inside.run(app("other", "/bin/inside-of-root", user="1000", group="1000"))
    assert inside.run(app("root", "/bin/inside-of-root", "say", "hi")).lines == ["hi"]


def test_a_set_user_id_program_gains_nothing_with_no_new_privileges(inside: Guest) -> None:
    for locked, uids in ((False, "uids 1000 0 0"), (True, "uids 1000 1000 1000")):
        given = {"user": "reader", "group": "readers", "no_new_privileges": locked}
        ran = inside.run(app(f"setuid-{locked}".lower(), "/bin/inside-setuid", "report", **given))
        assert ran.lines[0] == uids


def test_a_user_other_than_root_opens_his_streams_by_name(inside: Guest) -> None:
    words = ("-c", "echo out > /dev/stdout; echo err > /dev/stderr; echo console > /dev/console")
    ran = inside.run(app("named", "/bin/sh", *words, user="reader", group="readers"))
    assert sorted(ran.lines) == ["console", "err", "out"]


def test_handlers_have_the_apps_privileges(inside: Guest) -> None:
    report = ("/bin/inside", "report")
    locked = seccomp("remove", "mount")
    given = {"user": "reader", "group": "readers", "capabilities": ("CAP_KILL",), "seccomp": locked}
    main = app("main", "/bin/inside", "say", "main", pre_start=(report,), post_stop=(report,))
    lines = inside.run(msgspec.structs.replace(main, **given)).lines
    middle = lines.index("main")
    for part in (lines[:middle], lines[middle + 1 :]):
        assert "uids 1000 1000 1000" in part
        assert "status CapBnd:\t0000000000000020" in part
        assert {"status Seccomp:\t2", "status NoNewPrivs:\t1"} <= set(part)


def test_every_call_but_those_retained_ends_the_app(inside: Guest) -> None:
    ran = inside.run(looking("killed", "say", "x", seccomp=seccomp("retain", "write")))
    assert (ran.exit.code, ran.exit.signal) == (None, 31)  # SIGSYS


def test_a_user_whose_group_has_another_name_is_in_it(inside: Guest) -> None:
    ran = inside.run(app("docker", "/bin/inside", "report", user="reader", group="reader"))
    assert {"uids 1000 1000 1000", "gids 1001 1001 1001"} <= set(ran.lines)
    with pytest.raises(RefusedError, match='no group "readings"'):
        inside.run(app("no-group", "/bin/inside", "report", user="reader", group="readings"))
    with pytest.raises(RefusedError, match='no user "writer"'):
        inside.run(app("no-user", "/bin/inside", "report", user="writer", group="writers"))
