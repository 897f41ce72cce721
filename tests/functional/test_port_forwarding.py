"""`--port`: from other hosts, the host's loopback and other pods, by TCP and UDP."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_images import SERVE, serving_image
from network_world import HOST, PEER, NetworkWorld, RunningPod
from real_pods import lines

pytestmark = pytest.mark.functional

ASK = str(Path(__file__).with_name("ask_address.py"))
PORTS = ("--port=web:18080", "--port=dns:15353", "--port=many:19000",)  # fmt: skip
LOCAL = {"name": "local", "type": "bridge", "bridge": "kvbr1", "isGateway": True, "ipMasq": True,
         "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.78.0.0/24"}],
                                                   [{"subnet": "fd00:78::/64"}]],
                  "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[NetworkWorld]:
    world = NetworkWorld(tmp_path_factory.mktemp("networks"), store)
    world.network("10-local.conf", **LOCAL)
    yield world
    world.close()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving_image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module", params=["default", "local"])
def pod(world: NetworkWorld, image: Path, request: pytest.FixtureRequest) -> Iterator[RunningPod]:
    """A pod that is reached in every way, in a network of either kind."""
    flags = (*PORTS, "--port=web:127.0.0.1:18081")
    with world.pod(request.param, SERVE, pod_flags=flags, image=image) as pod:
        yield pod


def gateway(pod: RunningPod) -> str:
    return "172.16.28.1" if "default" in pod.addresses() else "10.78.0.1"


def ask(world: NetworkWorld, where: str, address: str, port: int, kind: str = "tcp") -> str:
    run = world.peer if where == "peer" else world.host
    return run(sys.executable, ASK, address, str(port), kind).strip()


def test_other_hosts_reach_each_forwarded_port_with_their_own_address(
    world: NetworkWorld, pod: RunningPod
) -> None:
    assert ask(world, "peer", HOST, 18080) == PEER
    assert ask(world, "peer", HOST, 15353, "udp") == PEER
    for port in (19000, 19001, 19002):
        assert ask(world, "peer", HOST, port) == PEER
    assert ask(world, "peer", HOST, 19003) == "refused"
    assert ask(world, "peer", HOST, 18080, "udp") == "refused"


def test_the_hosts_loopback_reaches_it(world: NetworkWorld, pod: RunningPod) -> None:
    assert ask(world, "host", "127.0.0.1", 18080) == gateway(pod)
    assert ask(world, "host", "127.0.0.1", 15353, "udp") == gateway(pod)
    assert ask(world, "host", HOST, 19002) in (HOST, gateway(pod))


def test_a_port_of_one_address_is_no_other_addresses(world: NetworkWorld, pod: RunningPod) -> None:
    assert ask(world, "host", "127.0.0.1", 18081) == gateway(pod)
    assert ask(world, "peer", HOST, 18081) == "refused"


def test_other_pods_and_the_pod_itself_reach_it_at_the_hosts_address(
    world: NetworkWorld, pod: RunningPod
) -> None:
    for network, address in [
        ("default", HOST), ("local", HOST), ("default-restricted", "172.31.0.1"),
    ]:  # fmt: skip
        done = world.shell(network, f"nc -w 5 {address} 18080 < /dev/null")
        assert lines(done) == [gateway(pod)], (network, done.stdout)


def test_a_port_in_use_is_refused_before_the_pod_starts(
    world: NetworkWorld, image: Path, pod: RunningPod
) -> None:
    before = set(world.kvmrkt.pods())
    with world.serving("host", 18099):
        for flag, error in [
            ("--port=web:18080", "tcp port 18080 of 0.0.0.0 is in use on this host"),
            ("--port=dns:15353", "udp port 15353 of 0.0.0.0 is in use on this host"),
            (f"--port=web:{HOST}:18080", f"tcp port 18080 of {HOST} is in use on this host"),
            ("--port=web:18099", "tcp port 18099 of 0.0.0.0 is in use on this host"),
            ("--port=many:18998", "tcp port 19000 of 0.0.0.0 is in use on this host"),
        ]:
            done = world.kvmrkt("run", "--net=default", flag, image, "--exec=/bin/true")
            assert done.returncode == 254
            assert f"run: {error}" in done.stderr
    assert set(world.kvmrkt.pods()) == before
