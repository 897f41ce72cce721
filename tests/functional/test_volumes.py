"""Host and empty volumes, over virtiofs and over 9p."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_pods import BUSYBOX, DEADLINE_SECONDS, Kvmrkt, lines

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.functional

SH = ("--exec=/bin/sh",)
WITHOUT_VIRTIOFSD = (
    "for program in /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd; do "
    'if [ -e "$program" ]; then mount --bind /dev/null "$program"; fi; done; exec "$@"'
)
"""For a shell in a mount namespace of its own."""


@pytest.fixture(params=["virtiofs", "9p"])
def served(request: pytest.FixtureRequest, kvmrkt: Kvmrkt) -> Kvmrkt:
    """The command line on a host with virtiofsd, and on one without."""
    if request.param == "virtiofs":
        return kvmrkt

    class Without(Kvmrkt):
        def argv(self, *words: str | Path) -> list[str]:
            hide = ["unshare", "--mount", "sh", "-c", WITHOUT_VIRTIOFSD, "sh"]
            return [*hide, *super().argv(*words)]

    return Without(kvmrkt.dir, kvmrkt.started)


def test_a_host_folder_is_read_and_written(served: Kvmrkt, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "in").write_text("from the host\n")
    done = served.run(
        f"--volume=data,kind=host,source={folder}", "--mount=volume=data,target=/data/deep",
        BUSYBOX, *SH, "--", "-c",
        "cat /data/deep/in; echo from the pod > /data/deep/out; chmod 640 /data/deep/out; "
        "chown 7:8 /data/deep/out; ln /data/deep/out /data/deep/link; "
        "grep ' /data/deep ' /proc/mounts | cut -d' ' -f3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert lines(done)[0] == "from the host"
    status = (folder / "out").stat()
    assert (folder / "out").read_text() == "from the pod\n"
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o640, 7, 8)
    assert status.st_nlink == 2
    assert lines(done)[1] in ("virtiofs", "9p")


def test_a_single_file_is_a_volume_too(served: Kvmrkt, tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("a=1\n")
    done = served.run(
        f"--volume=conf,kind=host,source={tmp_path / 'conf'},readOnly=true",
        "--mount=volume=conf,target=/etc/app.conf", BUSYBOX, *SH, "--", "-c",
        "cat /etc/app.conf; echo b >> /etc/app.conf || echo refused",
    )  # fmt: skip
    assert {"a=1", "refused"} <= set(lines(done))
    assert (tmp_path / "conf").read_text() == "a=1\n"


def test_a_read_only_volume_stays_as_it_was_even_for_root(served: Kvmrkt, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    done = served.run(
        f"--volume=data,kind=host,source={folder},readOnly=true",
        "--mount=volume=data,target=/data", BUSYBOX, *SH, "--", "-c",
        "touch /data/x || mount -o remount,rw /data || echo refused",
    )  # fmt: skip
    assert "refused" in lines(done)
    assert list(folder.iterdir()) == []


def test_an_empty_volume_is_shared_and_has_its_mode_and_owner(kvmrkt: Kvmrkt) -> None:
    done = kvmrkt.run(
        "--volume=tmp,kind=empty,mode=1750,uid=3,gid=4", "--mount=volume=tmp,target=/shared",
        BUSYBOX, "--name=a", *SH, "--", "-c", "echo hello > /shared/f; stat -c '%a %u %g' /shared",
        "---", BUSYBOX, "--name=b", *SH, "--", "-c",
        "until [ -s /shared/f ]; do sleep 0.1; done; cat /shared/f",
    )  # fmt: skip
    assert sorted(lines(done)) == ["1750 3 4", "hello"], done.stderr


def test_an_apps_own_mount_wins_over_the_pods(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    done = kvmrkt.run(
        f"--volume=one,kind=host,source={tmp_path / 'one'}",
        f"--volume=two,kind=host,source={tmp_path / 'two'}",
        "--mount=volume=one,target=/data", BUSYBOX, "--mount=volume=two,target=/data",
        *SH, "--", "-c", "ls /data",
    )  # fmt: skip
    assert lines(done) == ["two"]


def test_the_tree_of_volumes_is_not_visible_on_the_host(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    pod = kvmrkt.start(
        f"--volume=data,kind=host,source={folder}", "--mount=volume=data,target=/data",
        BUSYBOX, *SH, "--", "-c", "touch /data/ready; until [ -e /data/go ]; do sleep 0.1; done",
    )  # fmt: skip
    wait_for(folder / "ready", pod)
    assert "kvmrkt" not in Path("/proc/self/mounts").read_text()
    (folder / "go").touch()
    assert pod.wait(DEADLINE_SECONDS) == 0


def wait_for(file: Path, pod: subprocess.Popen[str]) -> None:
    """Wait until a pod has made a file; fail when the pod ends before."""
    while not file.exists():
        assert pod.poll() is None, pod.communicate()
        time.sleep(0.05)


def test_a_file_in_the_place_of_a_volume_gives_way_to_it(kvmrkt: Kvmrkt) -> None:
    done = kvmrkt.run(
        "--volume=v,kind=empty,mode=0750,uid=7,gid=8", "--mount=volume=v,target=/etc/group",
        "--mount=volume=v,target=/made/for/it", BUSYBOX, *SH, "--", "-c",
        "stat -c '%F %a %u:%g' /etc/group /made/for/it; stat -c '%a %u:%g' /made/for",
    )  # fmt: skip
    assert lines(done) == ["directory 750 7:8"] * 2 + ["755 0:0"], done.stderr
