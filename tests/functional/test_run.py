"""A pod from the command line to its exit status."""

from __future__ import annotations

import io
import json
import re
import tarfile
from typing import TYPE_CHECKING

import pytest
from real_pods import BUSYBOX, Kvmrkt, lines

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.functional

SH = ("--exec=/bin/sh",)


def test_an_apps_line_is_shown_and_its_status_returned(kvmrkt: Kvmrkt) -> None:
    done = kvmrkt.run(BUSYBOX, "--exec", "/bin/sh", "--", "-c", "echo hi; exit 7")
    assert done.returncode == 7
    assert re.fullmatch(r"\[ *\d+\.\d{6}\] busybox\[\d+\]: hi\n", done.stdout)


def test_a_pod_of_three_apps_ends_with_the_first_that_failed(kvmrkt: Kvmrkt) -> None:
    words: list[str] = []
    scripts = {"a": "sleep 1000", "b": "sleep 1; exit 3", "c": "echo c; exit 0"}
    for name, script in scripts.items():
        words += [str(BUSYBOX), f"--name={name}", *SH, "--", "-c", script, "---"]
    done = kvmrkt.run(*words)
    assert done.returncode == 3, done.stderr
    assert lines(done) == ["c"]


def test_a_signalled_app_gives_128_and_the_signal(kvmrkt: Kvmrkt) -> None:
    # in its PID namespace the app is not process 1: signals do to it what they do anywhere
    done = kvmrkt.shell("kill -USR1 $$; sleep 1000")
    assert done.returncode == 128 + 10


def test_both_streams_are_logged(kvmrkt: Kvmrkt) -> None:
    done = kvmrkt.shell("echo out; echo err >&2; printf 'no newline'")
    assert sorted(lines(done)) == ["err", "no newline", "out"]


def test_the_environment_has_rkts_precedence_and_defaults(kvmrkt: Kvmrkt) -> None:
    done = kvmrkt.run(
        "--set-env=A=pod", "--set-env=B=pod", BUSYBOX, "--exec=/bin/sh", "--environment=A=app",
        "--", "-c", 'echo "$A $B $AC_APP_NAME $HOME $USER $LOGNAME $SHELL $PATH"',
    )  # fmt: skip
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert lines(done) == [f"app pod busybox /root root root /bin/sh {path}"]


def test_user_and_group_are_looked_up_inside_the_image(kvmrkt: Kvmrkt) -> None:
    done = kvmrkt.shell("id -u; id -g; id -un", "--user=nobody", "--group=nogroup")
    assert done.returncode == 0, done.stderr
    assert lines(done)[0] == "65534"
    assert lines(done)[2] == "nobody"


def test_the_working_directory_is_where_the_app_starts(kvmrkt: Kvmrkt) -> None:
    assert lines(kvmrkt.shell("pwd", "--working-dir=/etc")) == ["/etc"]


def test_the_host_name_is_the_pods(kvmrkt: Kvmrkt) -> None:
    done = kvmrkt.run("--hostname=web", BUSYBOX, *SH, "--", "-c", "hostname; cat /etc/hostname")
    assert lines(done) == ["web", "web"]


def test_the_uuid_is_saved_and_names_the_pod(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    file = tmp_path / "uuid"
    done = kvmrkt.run(f"--uuid-file-save={file}", BUSYBOX, *SH, "--", "-c", "hostname; exit 4")
    uuid = file.read_text()
    assert lines(done) == [f"rkt-{uuid}"]
    status = kvmrkt("status", uuid)
    assert "state=exited" in status.stdout
    assert "app-busybox=4" in status.stdout


def test_an_app_past_its_memory_limit_is_killed(kvmrkt: Kvmrkt) -> None:
    done = kvmrkt.shell("head -c 200000000 /dev/zero | tail | wc -c", "--memory=32Mi")
    assert "200000000" not in done.stdout
    assert kvmrkt.shell("head -c 2000000 /dev/zero | tail | wc -c").returncode == 0


def test_the_apps_of_a_pod_share_the_loopback(kvmrkt: Kvmrkt) -> None:
    serve = "echo hello | nc -l -p 7"
    ask = "until nc 127.0.0.1 7 </dev/null; do sleep 0.1; done"
    done = kvmrkt.run(
        BUSYBOX, "--name=a", *SH, "--", "-c", serve, "---",
        BUSYBOX, "--name=b", *SH, "--", "-c", ask,
    )  # fmt: skip
    assert "hello" in lines(done)
    assert done.returncode == 0


def test_apps_do_not_see_each_others_files_and_processes(kvmrkt: Kvmrkt) -> None:
    write = "echo secret > /file; sleep 5"
    look = "sleep 1; cat /file; ps | grep -c secret | head -1; ls /proc | grep -c '^[0-9]'"
    done = kvmrkt.run(
        BUSYBOX, "--name=a", *SH, "--", "-c", write, "---",
        BUSYBOX, "--name=b", *SH, "--", "-c", look,
    )  # fmt: skip
    assert "secret" not in lines(done)


def test_the_trace_adds_up(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    kvmrkt.run(f"--trace={tmp_path / 'trace'}", BUSYBOX, "--exec=/bin/true")
    trace = json.loads((tmp_path / "trace").read_text())
    phases = ("python", "image", "prepare", "spawn", "qmp", "kernel", "agent", "app", "end")
    assert tuple(trace["phases"]) == phases
    assert sum(trace["phases"].values()) == pytest.approx(trace["total_seconds"], rel=0.001)


def test_a_pod_boots_on_the_scsi_controller_when_slots_run_out(
    kvmrkt: Kvmrkt, tmp_path: Path
) -> None:
    words: list[str | Path] = []
    for number in range(6):
        image = different_image(tmp_path, number)
        words += [image, f"--name=app{number}", *SH, "--", "-c", f"echo {number}", "---"]
    done = kvmrkt.run(*words)
    assert done.returncode == 0, done.stderr
    assert sorted(lines(done)) == [str(number) for number in range(6)]


def different_image(folder: Path, number: int) -> Path:
    """busybox again, with another name and so another ID."""
    target = folder / f"busybox{number}.aci"
    with tarfile.open(BUSYBOX) as source, tarfile.open(target, "w") as copy:
        for member in source:
            content = source.extractfile(member) if member.isreg() else None
            if member.name == "manifest":
                assert content is not None
                manifest = json.loads(content.read())
                manifest["name"] += str(number)
                raw = json.dumps(manifest).encode()
                member.size = len(raw)
                content = io.BytesIO(raw)  # type: ignore[assignment]
            copy.addfile(member, content)
    return target
