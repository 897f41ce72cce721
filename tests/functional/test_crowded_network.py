"""A hundred pods on one bridge: no address twice, nothing left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from network_world import NetworkWorld
from real_pods import ROOT

pytestmark = pytest.mark.functional

CROWD = str(Path(__file__).with_name("join_crowd.py"))
COUNT = 100


def test_a_hundred_pods_come_and_go(tmp_path: Path, store: Path) -> None:
    world = NetworkWorld(tmp_path / "world", store)
    try:
        world.network("10-bridged.conf", name="bridged", type="bridge", bridge="kvbr5",
                      isGateway=True, ipMasq=True,
                      ipam={"type": "host-local", "subnet": "10.95.0.0/24"})  # fmt: skip
        world.host("nft", "add table ip another; add chain ip another c")
        before = world.state()
        python = str(ROOT / ".venv" / "bin" / "python")
        done = json.loads(world.host(python, CROWD, str(world.folder), "bridged", str(COUNT)))
        assert done["failed"] == []
        assert done["killed"] == (COUNT + 2) // 3
        addresses = [address for links in done["joined"] for own in links for address in own]
        assert len(addresses) == len(set(addresses)) == 2 * COUNT
        assert world.state() == before
        leases = world.host("sh", "-c", "cat /run/kvmrkt/net/leases/*.json")
        assert leases.count('"holders":{}') == 2
        assert world.host("ls", "/run/kvmrkt/net/rules").split() == ["rules.nft"]
    finally:
        world.close()
