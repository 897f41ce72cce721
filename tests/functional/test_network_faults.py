"""Killed at any step of a network's making or end, a pod leaves the host exactly as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_world import NetworkWorld
from real_pods import BUSYBOX, DEADLINE_SECONDS, ROOT, lines

sys.path.insert(0, str(ROOT / "tests" / "unit"))

from fault_points import OF_THE_NETWORK

pytestmark = pytest.mark.functional

BRIDGED = {
    "name": "bridged", "type": "bridge", "bridge": "kvbr0", "isGateway": True, "ipMasq": True,
    "ipam": {"type": "host-local", "subnet": "10.77.0.0/29"},
}  # fmt: skip
NETWORKS = "default,bridged"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[NetworkWorld]:
    world = NetworkWorld(tmp_path_factory.mktemp("networks"), store)
    world.network("10-bridged.conf", **BRIDGED)
    yield world
    world.close()


def gone(world: NetworkWorld) -> None:
    done = world.kvmrkt("gc", "--grace-period=0s")
    assert done.returncode == 0, done.stderr
    assert world.kvmrkt.pods() == []


# resource-recorded: rules, then each network's lease, bridge and link
POINTS = [*OF_THE_NETWORK, "lease-taken@2", "link-joined@2",
          *(f"resource-recorded@{number}" for number in range(1, 7))]  # fmt: skip


def test_gc_restores_the_host_exactly_after_a_kill_at_any_step(world: NetworkWorld) -> None:
    world.host("nft", "add table inet another; add chain inet another c { type filter hook "
               "input priority 5; policy accept; }")  # fmt: skip
    before = world.state()
    for point in POINTS:
        argv = world.kvmrkt.argv(
            "run", f"--net={NETWORKS}", BUSYBOX, "--exec=/bin/true",
        )  # fmt: skip
        struck = subprocess.run(
            argv, env={**os.environ, "KVMRKT_FAULT": point}, capture_output=True, text=True,
            timeout=DEADLINE_SECONDS, check=False,
        )  # fmt: skip
        assert struck.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), (point, struck)
        gone(world)
        assert world.state() == before, point
    # and all addresses are there again: the subnet has five
    for _ in range(6):
        assert world.shell("bridged", "true").returncode == 0
    gone(world)


def test_gc_restores_the_host_exactly_after_supervisor_and_machine_are_killed(
    world: NetworkWorld,
) -> None:
    before = world.state()
    with world.pod(NETWORKS, "echo ready; sleep 1000") as pod:
        pod.process.kill()
        pod.process.wait()
    gone(world)
    assert world.state() == before


def test_gc_restores_the_host_exactly_after_a_kill_while_things_are_given_back(
    world: NetworkWorld,
) -> None:
    before = world.state()
    for number in range(1, 7):
        argv = world.kvmrkt.argv("run", f"--net={NETWORKS}", BUSYBOX, "--exec=/bin/true")
        env = {**os.environ, "KVMRKT_FAULT": f"resource-released@{number}"}
        struck = subprocess.run(argv, env=env, capture_output=True, timeout=DEADLINE_SECONDS,
                                check=False)  # fmt: skip
        assert struck.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), number
        gone(world)
        assert world.state() == before, number


def test_a_pod_in_several_networks_has_a_link_in_each(world: NetworkWorld) -> None:
    with world.serving("peer", 7000):
        done = world.shell(
            "bridged:IP=10.77.0.5;MAC=02-00-00-00-00-99,default",
            "ip -4 -o address | awk '{print $2, $4}'; cat /sys/class/net/eth0/address;"
            "ip route | grep default; nc -w 5 192.0.2.2 7000 < /dev/null;"
            "ping -c 1 -w 5 10.77.0.1 > /dev/null && echo bridge",
        )
    assert done.returncode == 0, done.stderr
    loopback, eth0, eth1, *rest = lines(done)
    assert (loopback, eth0) == ("lo 127.0.0.1/8", "eth0 10.77.0.5/29")
    assert eth1.startswith("eth1 172.16.28.")
    assert rest == ["02:00:00:00:00:99", "default via 172.16.28.1 dev eth1 ", "192.0.2.1", "bridge"]
