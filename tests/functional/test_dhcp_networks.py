"""`ipam: dhcp`: a real server's address becomes the guest's, is renewed, and is given back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from network_world import NetworkWorld
from real_pods import DEADLINE_SECONDS, ROOT, lines

pytestmark = pytest.mark.functional

RENEW = str(Path(__file__).with_name("renew_lease.py"))
SERVER = "198.51.100.1"
LAN = f"""
ip link add lan type bridge
ip link set lan addrgenmode none
ip link add lanport type veth peer name lanpeer netns peer
ip link set lanport addrgenmode none
ip -n peer link set lanpeer addrgenmode none
ip link set lanport master lan
ip link set lan up
ip link set lanport up
ip -n peer address add {SERVER}/24 dev lanpeer
ip -n peer link set lanpeer up
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[NetworkWorld]:
    world = NetworkWorld(tmp_path_factory.mktemp("networks"), store)
    world.host("sh", "-ec", LAN)
    world.network("10-leased.conf", name="leased", type="bridge", bridge="lan",
                  ipam={"type": "dhcp"})  # fmt: skip
    world.network("11-tapped.conf", name="tapped", type="macvlan", master="lanport2",
                  ipam={"type": "dhcp"})  # fmt: skip
    world.host("sh", "-ec", "ip link add lanport2 type veth peer name lanport3;"
               "ip link set lanport3 master lan; ip link set lanport2 addrgenmode none;"
               "ip link set lanport3 addrgenmode none; ip link set lanport2 up;"
               "ip link set lanport3 up")  # fmt: skip
    world.network("12-deaf.conf", name="deaf", type="bridge", bridge="kvdeaf",
                  ipam={"type": "dhcp"})  # fmt: skip
    yield world
    world.close()


@pytest.fixture(scope="module")
def log(world: NetworkWorld) -> Iterator[IO[str]]:
    """What dnsmasq tells of leases, from now on."""
    server = subprocess.Popen(
        world.on_peer("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0",
                      "--interface=lanpeer", "--bind-interfaces", "--user=root", "--pid-file=",
                      "--log-facility=-", "--no-ping",
                      f"--dhcp-leasefile={world.folder / 'leases'}",
                      "--dhcp-range=198.51.100.50,198.51.100.60,255.255.255.0,2m",
                      f"--dhcp-option=3,{SERVER}", f"--dhcp-option=6,{SERVER}",
                      "--dhcp-option=15,lan.example", "--dhcp-option-force=26,1400"),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stderr is not None
    seen(server.stderr, "DHCP, ")
    yield server.stderr
    server.kill()
    server.communicate()


def seen(log: IO[str], word: str) -> str:
    """The next line with the word."""
    for line in log:
        if word in line:
            return line
    raise AssertionError(f"the server ended before it said {word}")


@pytest.mark.parametrize("network", ["leased", "tapped"])
def test_a_leased_address_is_the_guests_and_is_given_back(
    world: NetworkWorld, log: IO[str], network: str
) -> None:
    before = world.state()
    with world.serving("peer", 7000):
        done = world.shell(
            network,
            "ip -4 -o address show eth0 | awk '{print $4}'; ip route | grep ^default;"
            f"cat /sys/class/net/eth0/mtu; grep -v '#' /etc/resolv.conf;"
            f"nc -w 5 {SERVER} 7000 < /dev/null",
        )
    assert done.returncode == 0, done.stderr
    address, route, *rest = lines(done)
    own = address.removesuffix("/24")
    assert own.startswith("198.51.100.")
    assert own in seen(log, "DHCPACK")
    assert own in seen(log, "DHCPRELEASE")
    assert route.strip() == f"default via {SERVER} dev eth0"
    assert rest == ["1400", "", f"nameserver {SERVER}", "domain lan.example", own]
    assert f"{network}:ip4={own}" in world.kvmrkt("list").stdout
    assert world.state() == before


def test_a_lease_is_renewed_while_it_is_held(world: NetworkWorld, log: IO[str]) -> None:
    python = str(ROOT / ".venv" / "bin" / "python")
    holder = subprocess.Popen(
        world.on_host(python, RENEW, str(world.folder), "leased"),
        stdin=subprocess.PIPE, text=True,
    )  # fmt: skip
    first = seen(log, "DHCPACK").split()
    again = seen(log, "DHCPACK").split()
    assert first[first.index("DHCPACK(lanpeer)") :] == again[again.index("DHCPACK(lanpeer)") :]
    holder.communicate("\n", timeout=DEADLINE_SECONDS)
    assert holder.returncode == 0
    assert "DHCPRELEASE" in seen(log, "DHCPRELEASE")


def test_without_a_server_the_pod_does_not_run(world: NetworkWorld) -> None:
    before = world.state()
    done = world.shell("deaf", "true")
    assert done.returncode == 254
    assert "run: no DHCP server answered on kv" in done.stderr
    assert world.state() == before
