"""`--net=default` and `default-restricted`: packets that really go both ways, and no further."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from network_world import HOST, PEER, NetworkWorld
from real_pods import lines

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, store) -> Iterator[NetworkWorld]:  # type: ignore[no-untyped-def]
    world = NetworkWorld(tmp_path_factory.mktemp("networks"), store)
    yield world
    world.close()


ROUTER = ("--caps-retain=CAP_NET_ADMIN,CAP_NET_RAW",)
"""For an app that changes its pod's network."""
ASK = "nc -w 3 {} 7000 < /dev/null || echo refused"


def test_a_pod_reaches_the_world_masqueraded_and_not_the_hosts_services(
    world: NetworkWorld,
) -> None:
    before = world.state()
    script = "\n".join([
        "ip -4 -o address show eth0 | awk '{print $4}'",
        "ip route | head -n 1",
        ASK.format(PEER),
        ASK.format(HOST),
        ASK.format("172.16.28.1"),
        "ping -c 1 -w 5 172.16.28.1 > /dev/null && echo gateway",
        "cat /etc/resolv.conf 2> /dev/null || echo none",
    ])  # fmt: skip
    with world.serving("peer", 7000), world.serving("host", 7000):
        done = world.shell("default", script)
    assert done.returncode == 0, done.stderr
    address, route, *answers = lines(done)
    assert address.startswith("172.16.28.")
    assert address.endswith("/24")
    assert route.strip() == "default via 172.16.28.1 dev eth0"
    refused = f"nc: can't connect to remote host ({HOST}): Connection refused"
    assert [answer for answer in answers if not answer.startswith("nc: ")] == [
        HOST, "refused", "refused", "gateway", "none",
    ], refused  # fmt: skip
    assert world.state() == before


def test_list_and_status_show_the_network_in_rkts_form(world: NetworkWorld) -> None:
    with world.pod("default", "echo ready; sleep 1000") as pod:
        listed = json.loads(world.kvmrkt("list", "--format=json").stdout)
        (networks,) = [each["networks"] for each in listed if each["name"] == pod.uuid]
        address = pod.addresses()["default"]
        assert networks == [
            {"netName": "default", "netConf": "99-default.conf", "ifName": "eth0", "ip": address,
             "mask": "255.255.255.0"}
        ]  # fmt: skip
        assert f"default:ip4={address}" in world.kvmrkt("list").stdout
        assert world.host("busybox", "ping", "-c", "1", "-w", "5", address)


def test_a_restricted_pod_reaches_the_host_and_nothing_beyond(world: NetworkWorld) -> None:
    script = "\n".join([
        "ip route add 192.0.2.0/24 via 172.31.0.1",
        "ping -c 1 -w 5 172.31.0.1 > /dev/null && echo gateway",
        ASK.format(PEER),
    ])  # fmt: skip
    with world.serving("peer", 7000):
        done = world.shell("default-restricted", script, *ROUTER)
        assert done.returncode == 0, done.stderr
        assert [line for line in lines(done) if not line.startswith("nc: ")] == [
            "gateway", "refused",
        ]  # fmt: skip


def test_pods_of_a_network_reach_each_other_and_no_other_networks(world: NetworkWorld) -> None:
    serve = "while :; do echo hello | nc -l -p 7001; done & echo ready; wait"
    with world.pod("default", serve) as one, world.pod("default-restricted", serve) as other:
        script = "\n".join([
            f"nc -w 5 {one.addresses()['default']} 7001 < /dev/null",
            "ip route add 172.31.0.0/16 via 172.16.28.1",
            f"nc -w 5 {other.addresses()['default-restricted']} 7001 < /dev/null || echo refused",
        ])  # fmt: skip
        done = world.shell("default", script, *ROUTER)
        assert [line for line in lines(done) if not line.startswith("nc: ")] == ["hello", "refused"]


COUNT_LINES = """
import socket
with socket.create_server(("", 7200)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    for line in connection.makefile():
        print(line.strip(), flush=True)
"""


def test_a_connection_goes_on_while_other_pods_come_and_go(world: NetworkWorld) -> None:
    server = subprocess.Popen(
        world.on_peer(sys.executable, "-c", COUNT_LINES), stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        beats = f"(n=0; while :; do echo $n; n=$((n+1)); sleep 0.2; done) | nc {PEER} 7200"
        with world.pod("default", f"{beats} & echo ready; wait"):
            assert server.stdout.readline() == "0\n"
            for expected in range(1, 3):
                assert world.shell("default,default-restricted", "true").returncode == 0
                while server.stdout.readline() != f"{expected * 20}\n":
                    assert server.poll() is None
    finally:
        server.kill()
        server.communicate()
