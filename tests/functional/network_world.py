"""A host of the test's own: network namespaces in which kvmrkt and real peers run.

The world's host has the address 192.0.2.1 on the link to the peer, 192.0.2.2, which stands for all
other machines; nothing of it is seen outside. It has its own runtime folder too, so addresses and
links are no other test's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from real_pods import BUSYBOX, DEADLINE_SECONDS, Kvmrkt

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST, PEER = "192.0.2.1", "192.0.2.2"
HOST6, PEER6 = "2001:db8::1", "2001:db8::2"
ADDRESS_SERVER = Path(__file__).with_name("address_server.py")

_SET_UP = f"""
set -e
mount --make-rprivate /
mkdir -p /run/kvmrkt /run/netns /var/lib/cni
mount -t tmpfs tmpfs /var/lib/cni
mount -t tmpfs tmpfs /run/kvmrkt
mount -t tmpfs tmpfs /run/netns
mount -t sysfs sysfs /sys
ip link set lo up
ip netns add peer
ip link add outside type veth peer name inside netns peer
ip link set outside addrgenmode none
ip -n peer link set inside addrgenmode none
ip address add {HOST}/24 dev outside
ip address add {HOST6}/64 dev outside nodad
ip link set outside up
ip -n peer address add {PEER}/24 dev inside
ip -n peer address add {PEER6}/64 dev inside nodad
ip -n peer link set inside up
ip -n peer link set lo up
echo ready
read end
"""


@dataclass(frozen=True)
class WorldsKvmrkt(Kvmrkt):
    """The command line, run on the world's host."""

    world: NetworkWorld | None = None

    def argv(self, *words: str | Path) -> list[str]:
        """The command's words, in the world's namespaces."""
        assert self.world is not None
        config = f"--local-config={self.world.folder / 'etc'}"
        return self.world.on_host(*super().argv(config, *words))


class NetworkWorld:
    """A host, its peer, and the command line between them."""

    def __init__(self, folder: Path, store: Path) -> None:
        """`store` is the image store to use."""
        self.folder = folder
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "cas").symlink_to(store)
        self._process = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", _SET_UP],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.kvmrkt = WorldsKvmrkt(folder / "data", world=self)

    def close(self) -> None:
        """The namespaces go with their last process."""
        for pod in self.kvmrkt.started:  # of a test that failed
            pod.kill()
            pod.communicate()
        self._process.communicate("\n")

    def on_host(self, *argv: str) -> list[str]:
        """The words that run a command on the world's host."""
        return ["nsenter", f"--target={self._process.pid}", "--net", "--mount", "--", *argv]

    def on_peer(self, *argv: str) -> list[str]:
        """The words that run a command on the peer."""
        return self.on_host("ip", "netns", "exec", "peer", *argv)

    def host(self, *argv: str) -> str:
        """What a command on the host prints."""
        return _output(self.on_host(*argv))

    def peer(self, *argv: str) -> str:
        """What a command on the peer prints."""
        return _output(self.on_peer(*argv))

    def network(self, file: str, **content: Any) -> None:
        """Configure a network."""
        path = self.folder / "etc" / "net.d" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def state(self) -> dict[str, Any]:
        """All links, addresses, routes and rules of the host."""
        state = {what: json.loads(self.host("ip", "-j", *what.split()) or "[]")
                 for what in ("address", "route", "-6 route", "rule")}  # fmt: skip
        for link in state["address"]:  # these count on
            for address in link["addr_info"]:
                address.pop("preferred_life_time", None)
                address.pop("valid_life_time", None)
        return state | {"nft": json.loads(self.host("nft", "-j", "list", "ruleset"))}

    def shell(
        self, networks: str, script: str, *app_flags: str, pod_flags: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a script in a pod's shell."""
        return self.kvmrkt(
            "run", f"--net={networks}", *pod_flags, BUSYBOX, "--exec=/bin/sh", *app_flags, "--",
            "-c", script,
        )  # fmt: skip

    @contextmanager
    def serving(self, where: str, port: int, address: str = "") -> Iterator[None]:
        """A service, by TCP and UDP, that answers with its client's address."""
        place = {"host": self.on_host, "peer": self.on_peer}[where]
        server = subprocess.Popen(
            place(sys.executable, str(ADDRESS_SERVER), str(port), *([address] if address else [])),
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        try:
            yield
        finally:
            server.kill()
            server.communicate()

    @contextmanager
    def pod(
        self, networks: str, script: str, *app_flags: str, pod_flags: tuple[str, ...] = (),
        image: Path = BUSYBOX,
    ) -> Iterator[RunningPod]:  # fmt: skip
        """A pod that runs a script, which prints `ready` in time and then waits."""
        file = self.folder / f"uuid-{len(self.kvmrkt.started)}"
        process = subprocess.Popen(
            self.kvmrkt.argv("run", f"--net={networks}", f"--uuid-file-save={file}", *pod_flags,
                             image, "--exec=/bin/sh", *app_flags, "--", "-c", script),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.kvmrkt.started.append(process)
        assert process.stdout is not None
        seen = _read_until(process, "ready")
        pod = RunningPod(self, process, file.read_text(), seen)
        try:
            yield pod
        finally:
            process.terminate()
            pod.errors = process.communicate(timeout=DEADLINE_SECONDS)[1]


@dataclass
class RunningPod:
    """A pod that runs."""

    world: NetworkWorld
    process: subprocess.Popen[str]
    uuid: str
    lines: list[str]
    """What it had printed when it was ready."""
    errors: str = ""

    def addresses(self) -> dict[str, str]:
        """Its address in each network."""
        status = json.loads(self.world.kvmrkt("status", self.uuid, "--format=json").stdout)
        return {each["netName"]: each.get("ip", "") for each in status["networks"]}


def _read_until(process: subprocess.Popen[str], word: str) -> list[str]:
    out: IO[str] | None = process.stdout
    assert out is not None
    seen: list[str] = []
    for line in out:
        text = line.partition("]: ")[2].rstrip("\n")
        if text == word:
            return seen
        seen.append(text)
    raise AssertionError(f"it ended: {seen} {process.communicate()[1]}")


def _output(argv: list[str]) -> str:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout
