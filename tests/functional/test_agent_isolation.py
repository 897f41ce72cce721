"""What the agent gives an app and keeps from it: limits, privileges, paths; and its lines."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from agent_guest import Guest, app, shell

from kvmrkt.stage1.kvm.podspec import Limits

if TYPE_CHECKING:
    from agent_guest import Ran

pytestmark = pytest.mark.functional

READ_STATUS = "while read -r key value; do echo $key $value; done < /proc/self/status"


def test_an_app_past_its_memory_limit_is_killed(guest: Guest) -> None:
    greedy = app("greedy", "/usr/bin/tail", "-c", "64000000", "/dev/zero")  # keeps all it reads
    ran = guest.run(_limited(greedy, memory_bytes=16 << 20))
    assert (ran.exit.code, ran.exit.signal, ran.exit.stopped) == (None, 9, False)


def test_the_memory_limit_is_the_apps_own(guest: Guest) -> None:
    reads = shell("reads", "dd if=/dev/zero of=/dev/null bs=40M count=1 2>/dev/null && echo read")
    assert guest.run(reads).lines == ["read"]


@pytest.mark.parametrize(("limit", "code"), [(4, 2), (None, 0)])
def test_an_app_has_as_many_processes_as_its_limit(
    guest: Guest, limit: int | None, code: int
) -> None:
    forks = shell(f"forks{code}", "for i in 1 2 3 4 5 6; do sleep 1000 & echo $i; done")
    ran = guest.run(_limited(forks, processes=limit))
    assert ran.exit.code == code
    counted = [record.text for record in ran.records if record.stream == "stdout"]
    said = [record.text or "" for record in ran.records if record.stream == "stderr"]
    assert counted == list("123" if limit else "123456")
    assert [("can't fork" in text) for text in said] == ([True] if limit else [])


def _limited(spec: Any, **limits: int | None) -> Any:
    import msgspec

    return msgspec.structs.replace(spec, limits=Limits(**limits))


@pytest.mark.parametrize(("user", "effective"), [("root", 0x421), ("nobody", 0)])
def test_capabilities_bound_all_and_only_root_has_them(
    guest: Guest, user: str, effective: int
) -> None:
    given = ("CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE")  # 0, 5 and 10
    ran = guest.run(shell("caps", READ_STATUS, user=user, capabilities=given))
    status = _fields(ran)
    assert int(status["CapBnd"], 16) == 0x421
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == effective
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0


def test_an_app_without_capabilities_is_bound_by_file_modes(guest: Guest) -> None:
    script = "chown nobody /tmp || echo denied"
    assert guest.run(shell("weak", script)).lines[-1] == "denied"
    assert guest.run(shell("strong", script, capabilities=("CAP_CHOWN",))).lines == []


@pytest.mark.parametrize("wanted", [True, False])
def test_no_new_privileges_is_set_when_asked_for(guest: Guest, wanted: bool) -> None:
    ran = guest.run(shell("nnp", READ_STATUS, no_new_privileges=wanted))
    assert _fields(ran)["NoNewPrivs"] == str(int(wanted))


def _fields(ran: Ran) -> dict[str, str]:
    pairs = [(text or "").split(": ", 1) for text in ran.lines]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


PATHS = """
ls /sys/module | grep -c virtio_
( echo 0 > /proc/sys/vm/panic_on_oom ) 2>/dev/null && echo written || echo refused
"""


def test_protected_paths_are_masked_or_read_only(guest: Guest) -> None:
    assert guest.run(shell("protected", PATHS)).lines == ["0", "refused"]


def test_unprotected_paths_are_the_guests(guest: Guest) -> None:
    ran = guest.run(shell("open", PATHS, protect_paths=False))
    assert int(ran.lines[0] or 0) > 0
    assert ran.lines[1] == "written"


def test_a_long_line_comes_in_pieces(guest: Guest) -> None:
    ran = guest.run(shell("long", "head -c 40000 /dev/zero | tr '\\0' x; echo; echo short"))
    pieces = [(len(record.text or ""), record.partial) for record in ran.records]
    assert pieces == [(16384, True), (16384, True), (7232, False), (5, False)]
    assert set("".join(text or "" for text in ran.lines[:3])) == {"x"}


def test_a_piece_does_not_end_within_a_character(guest: Guest) -> None:
    ran = guest.run(shell("wide", "printf x; yes é | head -n 10000 | tr -d '\\n'"))
    assert [record.partial for record in ran.records] == [True, False]
    assert "".join(text or "?" for text in ran.lines) == "x" + "é" * 10000


def test_a_line_that_is_not_utf8_comes_as_base64(guest: Guest) -> None:
    ran = guest.run(shell("raw", "printf 'a\\377b\\nplain\\n'"))
    raw, plain = ran.records
    assert raw.text is None
    assert base64.b64decode(raw.base64 or "", validate=True) == b"a\xffb"
    assert (plain.text, plain.base64) == ("plain", None)


def test_records_tell_where_and_when_a_line_was_written(guest: Guest) -> None:
    ran = guest.run(shell("clock", "echo $$; echo err >&2"))
    out, err = sorted(ran.records, key=lambda record: record.stream != "stdout")
    assert (out.stream, err.stream, err.text) == ("stdout", "stderr", "err")
    assert out.pid == err.pid > 0
    assert 0 < out.uptime_ns < out.time_ns
    assert ran.exit.time_ns >= 1_700_000_000 * 10**9
