"""Apps that take all they can get: their neighbours go on, and it is told what happened."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from agent_guest import app, booted, prepare_boot, shell
from real_pods import BUSYBOX, INSIDE, lines_of

from kvmrkt.stage1.kvm.sizing import MIB, share_fairly, size_machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent_guest import Guest
    from real_pods import Kvmrkt

    from kvmrkt.stage1.kvm.podspec import AppSpec

pytestmark = pytest.mark.functional

SCRATCH_BYTES = 64 * MIB
NEIGHBOUR = "while [ ! -e /dev/shm/$0 ]; do sleep 0.1; done; echo alive"


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest whose apps have the image `inside`, and a small disk to write to."""
    boot = prepare_boot(tmp_path_factory.mktemp("boot"), INSIDE)
    folder = tmp_path_factory.mktemp("guest")
    with booted(boot, folder, scratch_bytes=SCRATCH_BYTES) as guest:
        guest.start_pod()
        yield guest


def bad_and_good(how: str) -> tuple[AppSpec, AppSpec]:
    """An app that misbehaves and its neighbour, with the limits that a pod of both would have."""
    bad = app(f"bad-{how}", "/bin/inside", "misbehave", how)
    good = app(f"good-{how}", "/bin/sh", "-c", NEIGHBOUR, how)
    size = size_machine([None], [], host_cpus=1, emulated=True)
    bad, good = share_fairly((bad, good), size.memory_bytes)
    return bad, good


def is_alive(guest: Guest, good: AppSpec) -> bool:
    """The neighbour does what it is told, by a third app, and removes itself."""
    how = good.name.removeprefix("good-")
    assert guest.run(app(f"ask-{how}", "/bin/inside", "touch", f"/dev/shm/{how}")).exit.code == 0
    ended = guest.exit_of(good.name)
    alive = ended.code == 0 and guest.records_of(good.name)[-1].text == "alive"
    guest.call("app.remove", {"name": good.name})
    return alive


def processes_of(guest: Guest, name: str) -> int:
    stats = guest.call("pod.stats")["apps"]
    return next(int(one["processes"]) for one in stats if one["name"] == name)


def test_an_app_that_fills_memory_is_killed_alone_and_it_is_told_why(inside: Guest) -> None:
    bad, good = bad_and_good("memory")
    inside.start(good)
    ran = inside.run(bad)
    assert (ran.exit.signal, ran.exit.oom_kills) == (9, 1)
    assert "Memory cgroup out of memory" in inside.console()  # and not the whole machine
    assert is_alive(inside, good)


def test_an_app_that_forks_without_end_leaves_processes_to_others(inside: Guest) -> None:
    bad, good = bad_and_good("fork")
    limit = bad.limits.processes
    assert limit
    inside.start(good)
    inside.start(bad)
    while processes_of(inside, bad.name) < limit:
        time.sleep(0.05)  # each look is a request that the agent answers
    assert is_alive(inside, good)
    inside.end(bad.name)


def test_an_app_that_fills_the_disk_is_told_so_and_its_space_comes_back(inside: Guest) -> None:
    bad, good = bad_and_good("disk")
    inside.start(good)
    ran = inside.run(bad)
    assert (ran.exit.code, ran.lines) == (0, ["disk ENOSPC"])
    assert is_alive(inside, good)
    fits = inside.run(shell("after", f"head -c {SCRATCH_BYTES // 2} /dev/zero > /x && echo fits"))
    assert fits.lines == ["fits"]


def test_an_app_that_ignores_being_asked_to_end_is_killed(inside: Guest) -> None:
    bad, good = bad_and_good("deaf")
    inside.start(good)
    inside.start(bad)
    inside.line_of(bad.name, "deaf")
    inside.call("app.stop", {"name": bad.name, "grace_seconds": 1})
    ended = inside.exit_of(bad.name)
    assert (ended.signal, ended.stopped, ended.oom_kills) == (9, True, 0)
    inside.call("app.remove", {"name": bad.name})
    assert is_alive(inside, good)


def test_zombies_go_with_the_app_that_left_them(inside: Guest) -> None:
    bad, good = bad_and_good("zombies")
    inside.start(good)
    assert inside.run(bad).lines == ["zombies 40"]
    assert is_alive(inside, good)


def test_an_app_that_closes_its_streams_runs_on(inside: Guest) -> None:
    bad, good = bad_and_good("close")
    inside.start(good)
    ran = inside.run(bad)
    assert (ran.exit.code, ran.lines) == (0, [])
    assert is_alive(inside, good)


def test_a_flood_on_both_streams_arrives_and_holds_nobody_up(inside: Guest) -> None:
    bad, good = bad_and_good("flood")
    inside.start(good)
    inside.start(bad)
    assert is_alive(inside, good)
    ran = inside.exit_of(bad.name)
    inside.call("app.remove", {"name": bad.name})
    assert ran.code == 0
    assert _bytes_of(inside, bad.name) == 2 * 400 * (1 << 16) - 400  # less the line ends


def _bytes_of(guest: Guest, name: str) -> int:
    return sum(len(record.text or "") for record in guest.records_of(name))


def test_status_tells_of_an_app_that_ran_out_of_memory(kvmrkt: Kvmrkt) -> None:
    """And a pod whose app has no limit is stopped by it, not by the whole machine's end."""
    uuid_file = kvmrkt.dir / "uuid"
    done = kvmrkt.run(
        f"--uuid-file-save={uuid_file}",
        INSIDE, "--name=hog", "--memory=24Mi", "--exec=/bin/inside", "--", "misbehave", "memory",
        "---",
        BUSYBOX, "--name=neighbour", "--exec=/bin/sh", "--",
        "-c", "trap 'echo asked to end; exit 0' TERM; while :; do sleep 0.1; done",
    )  # fmt: skip
    assert done.returncode == 137
    assert 'app "hog" ran out of memory: 1 of its processes were killed' in done.stderr
    assert lines_of(done, "neighbour") == ["asked to end"]
    uuid = uuid_file.read_text()
    status = kvmrkt("status", uuid).stdout.splitlines()
    assert status[-3:] == ["app-hog=137", "app-neighbour=0", "oom-kills-hog=1"]
    (hog, neighbour) = json.loads(kvmrkt("status", "--format=json", uuid).stdout)["apps"]
    assert (hog["oom_kills"], neighbour.get("oom_kills")) == (1, None)


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(inside: Guest) -> None:
    """The agent reads /etc/passwd, and the head of a program that could not be executed."""
    spoil = (
        "b=/bin/busybox; $b rm /etc/passwd /etc/group; $b mkfifo /etc/passwd /etc/group /handler; "
        "$b chmod 755 /handler"
    )
    after = (("/bin/inside", "say", "after"), ("/handler",))
    given = {"user": "root", "group": "root", "post_stop": after}
    ran = inside.run(shell("pipes", spoil, **given))
    assert ran.exit.code == 0
    assert ran.lines[0] == "after"
    assert 'post-stop handler "/handler" failed: cannot execute "/handler"' in (ran.lines[1] or "")
