"""What flags, isolators and the OS specification come to, seen from inside the apps of one pod."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import pytest
from real_pods import BUSYBOX, INSIDE, Kvmrkt, lines, lines_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.functional

REPORT = ("--exec=/bin/inside",)
DEFAULT_CAPABILITIES = 0xA80425FB  # rkt's 14, as capabilities(7) numbers them
UMASK = "95"  # x86-64's number of a call that nothing else here makes

CGROUPS = (
    "mount -t cgroup2 x /tmp; for f in memory.max cpu.max cpu.weight pids.max; "
    "do echo $f $(cat /tmp/app-limited/$f); done; "
    "echo all $(cat /tmp/app-plain/memory.max) $(cat /tmp/app-plain/pids.max)"
)


class Seen(NamedTuple):
    """What an app reported: the values of each key, in order."""

    facts: dict[str, list[str]]
    lines: list[str]

    def one(self, key: str) -> str:
        """The value of a key that is there once."""
        (value,) = self.facts[key]
        return value

    def status(self, field: str) -> str:
        """A field of /proc/self/status."""
        found = [text.partition(":") for text in self.facts["status"]]
        return next(value.strip() for name, _, value in found if name == field)

    def mounts(self) -> dict[str, tuple[str, set[str]]]:
        """Type and flags of what is mounted where."""
        split = (text.split(" ") for text in self.facts["mount"])
        return {place: (kind, set(flags.split(","))) for place, kind, flags in split}


@pytest.fixture(scope="module")
def seen(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Seen]]:
    """One pod whose apps differ in their flags; what each of them saw, by name."""
    folder = tmp_path_factory.mktemp("inside")
    (folder / "cas").symlink_to(store)
    done = Kvmrkt(folder).run(
        "--volume=data,kind=empty,mode=0777", "--hostname=a-pod", "--dns=192.0.2.1",
        INSIDE, "--name=plain", *REPORT, "--", "report", "environment", "---",
        INSIDE, "--name=reader", "--user=reader", "--group=writers", "--supplementary-gids=5,7",
        "--caps-retain=CAP_KILL,CAP_CHOWN", "--working-dir=/home/reader", *REPORT,
        "--", "report", "environment", "---",
        INSIDE, "--name=numbered", "--user=4321", "--group=8765", *REPORT, "--", "report", "---",
        INSIDE, "--name=owner", "--user=/owned", "--group=/owned", *REPORT, "--", "report", "---",
        INSIDE, "--name=fixed", "--readonly-rootfs=true", "--caps-remove=CAP_CHOWN,CAP_SYS_ADMIN",
        "--oom-score-adj=500", *REPORT,
        "--", "report", "probe", "image-file", "touch", "/data/writable", "say", "written", "---",
        INSIDE, "--name=unfiltered", "--seccomp=mode=retain,@appc.io/all", *REPORT,
        "--", "report", "probe", "mount-tmpfs", "probe", "clone-user", "---",
        INSIDE, "--name=removed", "--seccomp=mode=remove,errno=ENOTSUP,umask", *REPORT,
        "--", "call", UMASK, "probe", "ptrace-traceme", "---",
        INSIDE, "--name=retained", "--seccomp=mode=retain,errno=EXDEV,write,fstat,newfstatat,brk,"
        "mmap,mprotect,arch_prctl,set_tid_address,set_robust_list,prlimit64,getrandom,readlinkat,"
        "readlink,ioctl,munmap", *REPORT, "--", "call", UMASK, "say", "still here", "---",
        INSIDE, "--name=limited", "--memory=24Mi", "--cpu=300m", "--cpu-shares=512", *REPORT,
        "--", "touch", "/data/made", "await", "/data/looked", "---",
        BUSYBOX, "--name=looker", "--caps-retain=CAP_SYS_ADMIN,CAP_DAC_OVERRIDE",
        "--seccomp=mode=retain,@appc.io/all", "--mount=volume=data,target=/data", "--exec=/bin/sh",
        "--", "-c", f"until [ -d /data/made ]; do sleep 0.1; done; {CGROUPS}; mkdir /data/looked",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    yield {name: _seen(lines_of(done, name)) for name in NAMES}


NAMES = (
    "plain", "reader", "numbered", "owner", "fixed", "unfiltered", "removed", "retained", "limited",
    "looker",
)  # fmt: skip


def _seen(lines: list[str]) -> Seen:
    facts: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        key, _, value = line.partition(" ")
        facts[key].append(value)
    return Seen(facts, lines)


# -- whom an app runs as ---------------------------------------------------------------------------


def test_root_is_root_without_groups(seen: dict[str, Seen]) -> None:
    plain = seen["plain"]
    assert (plain.one("uids"), plain.one("gids"), plain.one("groups")) == ("0 0 0", "0 0 0", "")


def test_user_and_group_by_name_number_and_owner_of_a_path(seen: dict[str, Seen]) -> None:
    assert seen["reader"].one("uids") == "1000 1000 1000"
    assert seen["reader"].one("gids") == "1002 1002 1002"
    assert seen["numbered"].one("uids") == "4321 4321 4321"
    assert seen["numbered"].one("gids") == "8765 8765 8765"
    assert seen["owner"].one("uids") == "1234 1234 1234"
    assert seen["owner"].one("gids") == "5678 5678 5678"


def test_supplementary_groups_are_those_asked_for(seen: dict[str, Seen]) -> None:
    assert seen["reader"].one("groups") == "5 7"


# -- capabilities, no_new_privs, seccomp -----------------------------------------------------------


def test_rkts_default_capabilities_are_roots_and_bound_everyone(seen: dict[str, Seen]) -> None:
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert int(seen["plain"].status(kind), 16) == DEFAULT_CAPABILITIES
    assert int(seen["numbered"].status("CapBnd"), 16) == DEFAULT_CAPABILITIES
    for kind in ("CapPrm", "CapEff"):
        assert int(seen["numbered"].status(kind), 16) == 0
    for app in ("plain", "numbered"):
        assert {seen[app].status(kind) for kind in ("CapInh", "CapAmb")} == {"0" * 16}


def test_capabilities_are_retained_or_removed(seen: dict[str, Seen]) -> None:
    assert int(seen["reader"].status("CapBnd"), 16) == 1 << 0 | 1 << 5  # CHOWN, KILL
    assert int(seen["fixed"].status("CapEff"), 16) == DEFAULT_CAPABILITIES & ~1


def test_every_app_has_a_filter_unless_it_retains_all(seen: dict[str, Seen]) -> None:
    assert seen["plain"].status("Seccomp") == "2"
    assert seen["reader"].status("Seccomp") == "2"
    unfiltered = seen["unfiltered"]
    assert unfiltered.status("Seccomp") == "0"
    assert (unfiltered.one("mount-tmpfs"), unfiltered.one("clone-user")) == ("EPERM", "allowed")


def test_a_filter_takes_new_privileges_from_all_but_root(seen: dict[str, Seen]) -> None:
    assert seen["plain"].status("NoNewPrivs") == "0"
    assert seen["reader"].status("NoNewPrivs") == "1"


def test_a_removed_call_gives_the_error_asked_for_and_others_are_allowed(
    seen: dict[str, Seen],
) -> None:
    assert seen["removed"].lines == [
        "EOPNOTSUPP",
        "ptrace-traceme allowed",
    ]  # one number, two names


def test_only_retained_calls_are_allowed(seen: dict[str, Seen]) -> None:
    assert seen["retained"].lines == ["EXDEV", "still here"]


# -- limits ----------------------------------------------------------------------------------------


def test_limits_have_the_isolators_meaning(seen: dict[str, Seen]) -> None:
    looked = seen["looker"]
    assert looked.one("memory.max") == str(24 << 20)
    assert looked.one("cpu.max") == "30000 100000"
    assert looked.one("cpu.weight") == "20"  # 512 of 1024 shares
    assert seen["fixed"].one("oom-score-adj") == "500"
    assert seen["plain"].one("oom-score-adj") == "0"


def test_resource_limits_are_a_distributions(seen: dict[str, Seen]) -> None:
    plain = seen["plain"]
    assert plain.one("limit-nofile") == "1024 524288"
    assert plain.one("limit-core") == "0 -1"
    assert plain.one("limit-memlock") == f"{8 << 20} {8 << 20}"
    assert plain.one("limit-stack") == f"{8 << 20} -1"
    assert (plain.one("limit-fsize"), plain.one("limit-as")) == ("-1 -1", "-1 -1")
    assert (plain.one("limit-rtprio"), plain.one("limit-nice")) == ("0 0", "0 0")


# -- environment and working directory (executor page) ---------------------------------------------


def test_the_environment_is_the_specifications(seen: dict[str, Seen]) -> None:
    plain, reader = seen["plain"].lines, seen["reader"].lines
    assert "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in plain
    assert "AC_APP_NAME=plain" in plain
    assert "container=kvmrkt" in plain
    assert {"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh"} < set(plain)
    assert {"HOME=/home/reader", "USER=reader", "SHELL=/bin/inside"} < set(reader)


def test_an_app_begins_where_it_is_to_work(seen: dict[str, Seen]) -> None:
    assert seen["plain"].one("directory") == "/"
    assert seen["reader"].one("directory") == "/home/reader"
    assert (seen["plain"].one("umask"), seen["plain"].one("session")) == ("022", "own")


# -- filesystems and devices (OS page) -------------------------------------------------------------

TMPFS, PROC, SYSFS, DEVPTS, OVERLAY = "1021994", "9fa0", "62656572", "1cd1", "794c7630"


def test_proc_sys_and_shared_memory_are_what_their_names_say(seen: dict[str, Seen]) -> None:
    assert set(seen["plain"].facts["filesystem"]) == {
        f"/ {OVERLAY}", f"/proc {PROC}", f"/sys {SYSFS}", f"/dev {TMPFS}", f"/dev/shm {TMPFS}",
        f"/dev/pts {DEVPTS}",
    }  # fmt: skip


def test_the_devices_of_the_specification_are_there_and_work_for_every_user(
    seen: dict[str, Seen],
) -> None:
    for app in ("plain", "reader"):
        devices = set(seen[app].facts["device"])
        assert devices == {
            "null 1:3 666 opens", "zero 1:5 666 opens", "full 1:7 666 opens",
            "random 1:8 666 opens", "urandom 1:9 666 opens", "tty 5:0 666 ENXIO",
            "console -> /proc/self/fd/1", "ptmx -> pts/ptmx", "fd -> /proc/self/fd",
            "stdin -> /proc/self/fd/0", "stdout -> /proc/self/fd/1", "stderr -> /proc/self/fd/2",
            "pts folder", "shm folder", "net folder",
        }  # fmt: skip
        assert seen[app].one("null") == "1 0"
        assert seen[app].one("zero") == "1 0"
        assert seen[app].one("full") == "ENOSPC"
        assert seen[app].one("random") == "64 64"


def test_nothing_an_app_can_write_to_takes_device_nodes(seen: dict[str, Seen]) -> None:
    nodes = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}
    for app in ("plain", "fixed"):
        open_to_devices = {
            place for place, (_, flags) in seen[app].mounts().items() if "nodev" not in flags
        }
        assert open_to_devices == nodes | {"/dev/net/tun", "/dev/pts"}


def test_a_read_only_root_leaves_volumes_writable(seen: dict[str, Seen]) -> None:
    fixed = seen["fixed"]
    assert "ro" in fixed.mounts()["/"][1]
    assert fixed.one("image-file") == "EROFS"
    assert "written" in fixed.lines
    assert "rw" in seen["plain"].mounts()["/"][1]


def test_what_the_kernel_shows_is_protected(seen: dict[str, Seen]) -> None:
    mounts = seen["plain"].mounts()
    for path in ("/sys", "/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"):
        assert "ro" in mounts[path][1], path
    for path in ("/sys/firmware", "/sys/fs", "/sys/module"):
        assert mounts[path][0] == "tmpfs", path


def test_names_of_the_pod_are_its_files(seen: dict[str, Seen]) -> None:
    plain = seen["plain"]
    assert plain.one("hostname") == plain.one("node") == "a-pod"
    assert "nameserver 192.0.2.1" in plain.facts["resolver"]
    assert plain.facts["hosts"] == ["127.0.0.1\tlocalhost", "::1\tlocalhost", "127.0.1.1\ta-pod"]
    assert plain.one("mtab") == "../proc/self/mounts"
    assert len(plain.one("machine-id")) == 32
    assert seen["reader"].one("machine-id") == plain.one("machine-id")
    int(plain.one("machine-id"), 16)


def test_what_an_app_writes_to_the_pods_names_no_other_app_reads(kvmrkt: Kvmrkt) -> None:
    spoil = "for f in hosts hostname machine-id resolv.conf; do echo spoilt > /etc/$f; done"
    look = "until [ -d /data/done ]; do sleep 0.1; done; cd /etc; cat hosts hostname machine-id"
    done = kvmrkt.run(
        "--volume=data,kind=empty", "--mount=volume=data,target=/data", "--hostname=a-pod",
        "--dns=192.0.2.1",
        BUSYBOX, "--name=spoiler", "--exec=/bin/sh", "--",
        "-c", f"{spoil}; cat /etc/hosts; mkdir /data/done", "---",
        BUSYBOX, "--name=looker", "--exec=/bin/sh", "--", "-c", f"{look} resolv.conf",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert lines_of(done, "spoiler") == ["spoilt"]
    looked = lines_of(done, "looker")
    assert "a-pod" in looked and "nameserver 192.0.2.1" in looked
    assert "spoilt" not in looked


# -- what holds for the pod as a whole -------------------------------------------------------------


def test_a_pods_sysctls_are_set_and_impossible_ones_are_an_error(
    kvmrkt: Kvmrkt, tmp_path: Path
) -> None:
    read = ("-c", "busybox cat /proc/sys/net/core/somaxconn")
    prepared = kvmrkt("prepare", INSIDE, "--exec=/bin/sh", "--", *read)
    manifest = json.loads(kvmrkt("cat-manifest", prepared.stdout.strip()).stdout)
    assert kvmrkt("rm", prepared.stdout.strip()).returncode == 0

    def run_with(parameters: dict[str, str]) -> subprocess.CompletedProcess[str]:
        manifest["isolators"] = [{"name": "os/unix/sysctl", "value": parameters}]
        (tmp_path / "pod").write_text(json.dumps(manifest))
        return kvmrkt.run(f"--pod-manifest={tmp_path / 'pod'}")

    done = run_with({"net.core.somaxconn": "777"})
    assert (done.returncode, lines(done)) == (0, ["777"]), done.stderr
    assert "cannot set sysctl net.none to" in run_with({"net.none": "1"}).stderr
    assert "kernel.core_pattern may not be set" in run_with({"kernel.core_pattern": "x"}).stderr
