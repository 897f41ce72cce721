"""The agent by its own protocol: the life of apps and pods, and refused requests."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from agent_guest import Boot, Guest, RefusedError, app, booted, shell

from kvmrkt.stage1.kvm.agent import AppStarted, PodExited

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.functional

WAITS = "echo ready; sleep 1000 & wait"
"""A script that is there until something happens to it."""


def test_handlers_run_before_and_after_the_app(guest: Guest) -> None:
    ran = guest.run(
        shell(
            "handled",
            "echo main; exit 3",
            pre_start=(("/bin/echo", "first"), ("/bin/sh", "-c", "echo second")),
            post_stop=(("/bin/false",), ("/bin/echo", "last")),
        )
    )
    failed = 'post-stop handler "/bin/false" ended with code 1'
    assert ran.lines == ["first", "second", "main", failed, "last"]
    assert (ran.exit.code, ran.exit.stopped) == (3, False)


def test_a_failing_handler_fails_the_start_and_is_named(boot: Boot, tmp_path: Path) -> None:
    with booted(boot, tmp_path) as guest:
        with pytest.raises(RefusedError, match="/bin/false.* ended with code 1") as refused:
            guest.start_pod(
                app("runs", "/bin/sleep", "1000"),
                shell("fails", "echo never", pre_start=(("/bin/true",), ("/bin/false",))),
                app("waits", "/bin/echo", "never"),
                on_failure="stop",
            )
        assert (refused.value.kind, refused.value.app) == ("handler-failed", "fails")
        end = guest.exit_of("runs")  # what had started is asked and killed in one breath
        assert end.signal in (9, 15)
        assert end.stopped
        guest.call("pod.halt")
        assert guest.exit_status() == 0
        assert guest.records == []


def test_an_app_can_be_started_again_and_keeps_its_files(guest: Guest) -> None:
    guest.add(shell("again", "echo ran >> /state; exit $(wc -l < /state)"))
    for runs in (1, 2, 3):
        guest.call("app.start", {"name": "again"})
        assert guest.exit_of("again").code == runs
    guest.call("app.remove", {"name": "again"})


def test_a_removed_app_leaves_nothing_to_one_of_its_name(guest: Guest) -> None:
    script = "[ -e /state ] && echo kept; touch /state"
    assert guest.run(shell("removed", script)).lines == []
    assert guest.run(shell("removed", script)).lines == []
    with pytest.raises(RefusedError) as refused:
        guest.call("app.start", {"name": "removed"})
    assert refused.value.kind == "no-such-app"


def test_a_stopped_app_is_asked_first(guest: Guest) -> None:
    guest.start(shell("asked", f"trap 'echo asked; exit 5' TERM; {WAITS}"))
    guest.line_of("asked", "ready")
    assert guest.call("app.stop", {"name": "asked", "grace_seconds": 3600}) == {}
    end = guest.exit_of("asked")
    assert (end.code, end.signal, end.stopped) == (5, None, True)
    assert [record.text for record in guest.records_of("asked")] == ["ready", "asked"]
    guest.call("app.remove", {"name": "asked"})


def test_a_stopped_app_that_does_not_listen_is_killed(guest: Guest) -> None:
    guest.start(shell("deaf", f"trap '' TERM; {WAITS}"))
    guest.line_of("deaf", "ready")
    guest.call("app.stop", {"name": "deaf", "grace_seconds": 1})
    end = guest.exit_of("deaf")
    assert (end.code, end.signal, end.stopped) == (None, 9, True)
    guest.call("app.remove", {"name": "deaf"})


def test_a_signal_reaches_the_apps_process(guest: Guest) -> None:
    guest.start(shell("trapped", f"trap 'echo got it; exit 4' USR1; {WAITS}"))
    guest.line_of("trapped", "ready")
    assert guest.call("app.signal", {"name": "trapped", "signal": 10}) == {}
    end = guest.exit_of("trapped")
    assert (end.code, end.stopped) == (4, False)
    assert guest.records_of("trapped")[-1].text == "got it"
    guest.call("app.remove", {"name": "trapped"})


def test_a_signal_that_kills_is_reported(guest: Guest) -> None:
    guest.start(app("killed", "/bin/sleep", "1000"))
    guest.call("app.signal", {"name": "killed", "signal": 12})
    end = guest.exit_of("killed")
    assert (end.code, end.signal, end.stopped) == (None, 12, False)
    guest.call("app.remove", {"name": "killed"})


def test_the_status_tells_an_apps_state(guest: Guest) -> None:
    guest.add(app("life", "/bin/sleep", "1000"))
    assert guest.status_of("life").state == "created"
    pid = guest.call("app.start", {"name": "life"})["pid"]
    assert guest.event(AppStarted, "life").pid == pid
    running = guest.status_of("life")
    assert (running.state, running.pid) == ("running", pid)
    guest.call("app.signal", {"name": "life", "signal": 9})
    guest.exit_of("life")
    exited = guest.status_of("life")
    assert (exited.state, exited.pid, exited.code, exited.signal) == ("exited", None, None, 9)
    guest.call("app.remove", {"name": "life"})
    status = guest.call("pod.status")
    assert "life" not in [entry["name"] for entry in status["apps"]]
    assert 0 < status["memory_available_bytes"] < 256 << 20
    assert status["uptime_ns"] > 0


def test_the_stats_count_what_an_app_uses(guest: Guest) -> None:
    burn = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done"
    guest.start(shell("busy", f"{burn}; sleep 1000 & sleep 1000 & echo ready; wait"))
    guest.line_of("busy", "ready")
    first = _stats(guest, "busy")
    assert first["processes"] == 3
    assert first["cpu_usec"] > 0
    assert 0 < first["memory_bytes"] < 64 << 20
    assert _stats(guest, "busy")["cpu_usec"] >= first["cpu_usec"]
    guest.end("busy")


def _stats(guest: Guest, name: str) -> dict[str, Any]:
    apps: list[dict[str, Any]] = guest.call("pod.stats")["apps"]
    return next(entry for entry in apps if entry["name"] == name)


def test_a_pod_that_continues_outlives_its_apps(boot: Boot, tmp_path: Path) -> None:
    with booted(boot, tmp_path) as guest:
        guest.start_pod(app("fails", "/bin/false"))
        assert guest.exit_of("fails").code == 1
        assert guest.status_of("fails").state == "exited"
        assert guest.run(app("late", "/bin/echo", "late")).lines == ["late"]
        guest.call("pod.stop", {"grace_seconds": 0})
        guest.event(PodExited)
        assert guest.exit_status() == 0
        assert guest.log_ended


def test_a_stopped_pod_kills_what_does_not_listen(boot: Boot, tmp_path: Path) -> None:
    with booted(boot, tmp_path) as guest:
        guest.start_pod(shell("deaf", f"trap '' TERM; {WAITS}"), on_failure="stop")
        guest.line_of("deaf", "ready")
        assert guest.call("pod.stop", {"grace_seconds": 1}) == {}
        with pytest.raises(RefusedError) as refused:
            guest.add(app("late", "/bin/true"))
        assert refused.value.kind == "wrong-state"
        end = guest.exit_of("deaf")
        assert (end.code, end.signal, end.stopped) == (None, 9, True)
        guest.event(PodExited)
        assert guest.exit_status() == 0
        assert guest.log_ended


def test_a_halted_guest_goes_down_at_once(boot: Boot, tmp_path: Path) -> None:
    with booted(boot, tmp_path) as guest:
        guest.start_pod(shell("deaf", f"trap '' TERM; {WAITS}"))
        guest.line_of("deaf", "ready")
        assert guest.call("pod.halt") == {}
        assert guest.exit_status() == 0
        assert [type(event) for event in guest.events] == [AppStarted]


@pytest.mark.parametrize(
    ("kind", "word", "changes"),
    [
        ("no-such-user", "stranger", {"user": "stranger"}),
        ("no-such-user", "/no/such", {"user": "/no/such"}),
        ("no-such-group", "strangers", {"group": "strangers"}),
        ("no-such-group", "/no/such", {"group": "/no/such"}),
        ("no-such-executable", "/no/such", {"argv": ("/no/such",)}),
        ("no-such-executable", "PATH=/bin", {"argv": ("nosuch",), "environment": ("PATH=/bin",)}),
        ("no-such-directory", "/nowhere", {"working_directory": "/nowhere"}),
        ("disk-missing", "image9", {"disk": "image9"}),
        ("invalid-spec", "CAP_FLY", {"capabilities": ("CAP_FLY",)}),
        ("invalid-spec", "empty command", {"argv": ()}),
        ("invalid-spec", "etc", {"working_directory": "etc"}),
        ("handler-failed", "/no/such", {"pre_start": (("/no/such",),)}),
        ("exec-failed", "it is a directory", {"argv": ("/etc",)}),
        ("exec-failed", "permission denied", {"argv": ("/etc/passwd",)}),
    ],
)
def test_an_app_that_cannot_start_says_why(
    guest: Guest, kind: str, word: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(RefusedError, match=word) as refused:
        guest.start(msgspec.structs.replace(app("refused", "/bin/true"), **changes))
    assert (refused.value.code, refused.value.kind) == (-32000, kind)
    assert refused.value.app == "refused"
    with contextlib.suppress(RefusedError):  # most come as far as app.add
        guest.call("app.remove", {"name": "refused"})


def test_two_runs_of_one_name_are_told_apart(guest: Guest) -> None:
    assert guest.run(app("again", "/bin/echo", "first")).lines == ["first"]
    assert guest.run(app("again", "/bin/echo", "second")).lines == ["second"]


def test_others_are_served_while_an_app_waits_for_its_disk(guest: Guest) -> None:
    waiting = msgspec.structs.replace(app("waits", "/bin/true"), disk="image9")
    add = {"jsonrpc": "2.0", "id": "later", "method": "app.add", "params": waiting}
    status = {"jsonrpc": "2.0", "id": "now", "method": "pod.status"}
    first = guest.send_line(msgspec.json.encode(add) + b"\n" + msgspec.json.encode(status))
    assert first["id"] == "now"
    second = guest.next_answer()
    assert (second["id"], second["error"]["data"]["kind"]) == ("later", "disk-missing")


def test_a_missing_interpreter_is_named(guest: Guest) -> None:
    write = "printf '#!/no/interpreter -x\\n' > /script; chmod +x /script"
    guest.add(app("script", "/script", pre_start=(("/bin/sh", "-c", write),)))
    with pytest.raises(RefusedError, match="its interpreter .*/no/interpreter") as refused:
        guest.call("app.start", {"name": "script"})
    assert (refused.value.kind, refused.value.app) == ("exec-failed", "script")
    assert guest.status_of("script").state == "created"
    guest.call("app.remove", {"name": "script"})


def test_a_request_at_the_wrong_time_is_refused(guest: Guest) -> None:
    runs = app("runs", "/bin/sleep", "1000")
    guest.add(runs)
    refused_calls: list[tuple[str, object]] = [
        ("app.add", runs),
        ("app.signal", {"name": "runs", "signal": 15}),
        ("app.resize", {"name": "runs", "rows": 24, "columns": 80}),
    ]
    for method, params in refused_calls:
        assert _refusal(guest, method, params) == (-32000, "wrong-state")
    guest.call("app.start", {"name": "runs"})
    for method in ("app.start", "app.remove"):
        assert _refusal(guest, method, {"name": "runs"}) == (-32000, "wrong-state")
    with pytest.raises(RefusedError, match="already started") as refused:
        guest.start_pod()
    assert refused.value.kind == "wrong-state"
    assert _refusal(guest, "app.signal", {"name": "runs", "signal": 99}) == (-32000, "invalid-spec")
    guest.end("runs")


def test_an_app_that_does_not_exist_is_refused_by_every_method(guest: Guest) -> None:
    more: dict[str, dict[str, int]] = {
        "app.start": {},
        "app.stop": {"grace_seconds": 1},
        "app.signal": {"signal": 15},
        "app.remove": {},
        "app.resize": {"rows": 24, "columns": 80},
    }
    for method, params in more.items():
        refusal = _refusal(guest, method, {"name": "nobody", **params})
        assert refusal == (-32000, "no-such-app"), method


def test_requests_without_a_pod_are_refused(boot: Boot, tmp_path: Path) -> None:
    with booted(boot, tmp_path) as guest:
        hello = guest.hello()
        assert (hello.protocol, hello.uptime_ns > 0) == (1, True)
        assert guest.call("pod.status")["apps"] == []
        assert _refusal(guest, "pod.stop", {"grace_seconds": 0}) == (-32000, "wrong-state")
        assert _refusal(guest, "app.add", app("early", "/bin/true")) == (-32000, "wrong-state")
        twins = (app("twin", "/bin/true"), app("twin", "/bin/true"))
        with pytest.raises(RefusedError, match="two apps are named twin") as refused:
            guest.start_pod(*twins)
        assert refused.value.kind == "invalid-spec"
        guest.start_pod()  # nothing was begun: a better spec is welcome
        guest.call("pod.halt")
        assert guest.exit_status() == 0


def test_what_is_no_request_gets_json_rpcs_codes(guest: Guest) -> None:
    assert _refusal(guest, "pod.dance", {}) == (-32601, None)
    assert _refusal(guest, "app.start", {"nam": "x"}) == (-32602, None)
    for line, code in ((b"garbage", -32700), (b'{"jsonrpc":"1.0","id":1}', -32600)):
        answer = guest.send_line(line)
        assert (answer["id"], answer["error"]["code"]) == (None, code)
    assert guest.call("pod.status")["uptime_ns"] > 0  # and the agent goes on


def _refusal(guest: Guest, method: str, params: object) -> tuple[int, str | None]:
    with pytest.raises(RefusedError) as refused:
        guest.call(method, params)
    return refused.value.code, refused.value.kind
