"""What a guest forges reaches nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_world import NetworkWorld
from real_pods import ROOT, lines

pytestmark = pytest.mark.functional

FORGE = str(Path(__file__).with_name("forge_frames.py"))
ADDRESSES = {"type": "host-local", "ranges": [[{"subnet": "10.79.0.0/24"}],
                                              [{"subnet": "fd00:79::/64"}]]}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[NetworkWorld]:
    world = NetworkWorld(tmp_path_factory.mktemp("networks"), store)
    world.network("10-a.conf", name="bridged", type="bridge", bridge="kvbr2", ipam=ADDRESSES)
    world.network("11-b.conf", name="macvtap", type="macvlan", master="outside", ipam=ADDRESSES)
    yield world
    world.close()


@pytest.mark.parametrize("network", ["bridged", "macvtap"])
def test_only_honest_frames_arrive(world: NetworkWorld, network: str) -> None:
    before = world.state()
    python = str(ROOT / ".venv" / "bin" / "python")
    arrived = json.loads(world.host(python, FORGE, str(world.folder), network))
    assert len(arrived) > 20
    assert {name for name, did in arrived.items() if did} == {
        name for name in arrived if name.startswith("honest")
    }
    assert world.state() == before


def test_a_pod_with_a_forged_address_reaches_nobody(world: NetworkWorld) -> None:
    with world.serving("peer", 7000):
        done = world.shell(
            "default",
            "ask() { nc -w 2 192.0.2.2 7000 < /dev/null 2> /dev/null || echo nobody; }; ask;"
            "ip address add 172.16.28.200/32 dev eth0;"
            "ip route replace default via 172.16.28.1 src 172.16.28.200; ask;"
            "ip route replace default via 172.16.28.1; ask;"
            "ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:77;"
            "ip link set eth0 up;"
            "ip route add 172.16.28.1 dev eth0; ip route add default via 172.16.28.1; ask",
            "--caps-retain=CAP_NET_ADMIN,CAP_NET_RAW",
        )
    assert lines(done) == ["192.0.2.1", "nobody", "192.0.2.1", "nobody"], done.stdout
