"""Networks that CNI plug-ins make: Debian's own, and some that misbehave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from network_images import SERVE, serving_image
from network_world import HOST, PEER, NetworkWorld
from real_pods import BUSYBOX, DEADLINE_SECONDS, ROOT, lines

sys.path.insert(0, str(ROOT / "tests" / "unit"))

from fault_points import OF_PLUGINS

pytestmark = pytest.mark.functional

ASK = str(Path(__file__).with_name("ask_address.py"))

RECORDER = """#!/usr/bin/python3
import json, os, sys
config = json.load(sys.stdin)
with open(os.path.join(os.path.dirname(__file__), "calls"), "a") as log:
    print(os.environ["CNI_COMMAND"], os.environ["CNI_CONTAINERID"], os.environ["CNI_IFNAME"],
          "prevResult" in config, file=log)
if os.environ["CNI_COMMAND"] == "ADD":
    print(json.dumps(config["prevResult"]))
"""

CHAIN: dict[str, Any] = {
    "cniVersion": "0.4.0",
    "name": "chained",
    "plugins": [
        {"type": "bridge", "bridge": "cnibr", "isGateway": True, "ipMasq": True, "mtu": 1350,
         "ipam": {"type": "host-local",
                  "ranges": [[{"subnet": "10.91.0.0/24"}], [{"subnet": "fd00:91::/64"}]],
                  "routes": [{"dst": "0.0.0.0/0"}, {"dst": "198.51.100.0/24", "gw": "10.91.0.9"},
                             {"dst": "::/0"}]},
         "dns": {"nameservers": ["10.91.0.1"]}},
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        {"type": "bandwidth", "ingressRate": 80_000_000, "ingressBurst": 80_000_000,
         "egressRate": 80_000_000, "egressBurst": 80_000_000},
        {"type": "recorder"},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[NetworkWorld]:
    world = NetworkWorld(tmp_path_factory.mktemp("networks"), store)
    world.network("10-chained.conflist", **CHAIN)
    world.network("11-old.conf", name="old", type="ptp-of-old", ipMasq=True,
                  ipam={"type": "host-local", "subnet": "10.92.0.0/24",
                        "routes": [{"dst": "0.0.0.0/0"}]})  # fmt: skip
    folder = world.folder / "etc" / "net.d"
    scripts = {
        "recorder": RECORDER,
        "ptp-of-old": "#!/bin/sh\nsed 's/ptp-of-old/ptp/' | exec /usr/lib/cni/ptp\n",
        "fails": '#!/bin/sh\n[ $CNI_COMMAND = DEL ] && exit 0\n'
                 'echo \'{"code": 7, "msg": "no room", "details": "at all"}\'; exit 1\n',
        "rubbish": "#!/bin/sh\n[ $CNI_COMMAND = DEL ] || echo hello\n",
        "floods": "#!/bin/sh\n[ $CNI_COMMAND = DEL ] || yes\n",
        "nothing": "#!/bin/sh\nexit 0\n",
    }  # fmt: skip
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    for number, name in enumerate(("fails", "rubbish", "floods", "nothing")):
        world.network(f"2{number}-{name}.conflist", name=name, cniVersion="0.4.0",
                      plugins=[{**CHAIN["plugins"][0], "bridge": f"cnibr{number}"},
                               {"type": "recorder"}, {"type": name}])  # fmt: skip
    world.network("29-bare.conf", name="bare", type="nothing")
    yield world
    world.close()


def calls(world: NetworkWorld) -> list[list[str]]:
    """What the recorder was called with since the last look."""
    log = world.folder / "etc" / "net.d" / "calls"
    text = log.read_text() if log.exists() else ""
    log.write_text("")
    return [line.split() for line in text.splitlines()]


def remains(world: NetworkWorld) -> dict[str, Any]:
    """What must be as before: links, routes, namespaces, the plug-ins' leases."""
    state = {key: value for key, value in world.state().items() if key != "nft"}
    state["address"] = [each for each in state["address"] if not each["ifname"].startswith("cnibr")]
    state["route"] = [each for each in state["route"] if not each["dev"].startswith("cnibr")]
    state["-6 route"] = [each for each in state["-6 route"]
                         if not each["dev"].startswith("cnibr")]  # fmt: skip
    namespaces = world.host("sh", "-c", "ls /run/kvmrkt/net/namespaces 2> /dev/null; true")
    leases = world.host("sh", "-c", "find /var/lib/cni -type f -name '[0-9f]*:*' "
                        "-o -type f -name '1*.*' | sort")  # fmt: skip
    chains = world.host("sh", "-c", "iptables-save | grep -E 'kvmrkt|CNI-[0-9a-f]{16}' ; true")
    return state | {"namespaces": namespaces, "leases": leases, "chains": chains}


def test_a_chain_gives_the_guest_what_it_gives_a_container(
    world: NetworkWorld, tmp_path: Path
) -> None:
    calls(world)
    before = remains(world)
    image = serving_image(tmp_path)
    script = "\n".join([
        "cat /sys/class/net/eth0/mtu /sys/class/net/eth0/address",
        "ip -o address show eth0 | grep -v fe80 | awk '{print $4}'",
        "ip route; ip -6 route | grep -v fe80 | grep -v ff00", "cat /etc/resolv.conf", "echo end",
        f"nc -w 5 {PEER} 7000 < /dev/null", SERVE,
    ])  # fmt: skip
    with (
        world.serving("peer", 7000),
        world.pod("chained,default-restricted", script, image=image,
                  pod_flags=("--port=web:28080", "--port=dns:25353")) as pod,
    ):  # fmt: skip
        namespace = f"/run/kvmrkt/net/namespaces/{pod.uuid}"
        (link,) = json.loads(
            world.host("nsenter", f"--net={namespace}", "ip", "-j", "address", "show", "eth0")
        )
        own = [each for each in link["addr_info"] if each["scope"] == "global"]
        end = pod.lines.index("end")
        mtu, mac, *rest = pod.lines[:end]
        assert (int(mtu), mac) == (1350, link["address"])
        assert set(rest[:2]) == {f"{each['local']}/{each['prefixlen']}" for each in own}
        routes = {" ".join(line.split()) for line in rest[2:]}
        for expected in ("default via 10.91.0.1 dev eth0", "10.91.0.0/24 dev eth0 scope link",
                         "198.51.100.0/24 via 10.91.0.9 dev eth0",
                         "default via fd00:91::1 dev eth0 metric 1024"):  # fmt: skip
            assert expected in routes
        assert "nameserver 10.91.0.1" in rest
        assert pod.lines[end + 1] == HOST
        four = pod.addresses()["chained"]
        assert world.host(sys.executable, ASK, four, "8080", "tcp").strip() == "10.91.0.1"
        assert world.peer(sys.executable, ASK, HOST, "28080", "tcp").strip() == PEER
        assert world.peer(sys.executable, ASK, HOST, "25353", "udp").strip() == PEER
        assert world.host(sys.executable, ASK, "127.0.0.1", "28080", "tcp").strip() == "10.91.0.1"
        assert "tbf" in world.host("tc", "qdisc", "show")
    assert remains(world) == before
    assert calls(world) == [["ADD", pod.uuid, "eth0", "True"], ["DEL", pod.uuid, "eth0", "True"]]


def test_a_single_old_configuration_works_with_arguments(world: NetworkWorld) -> None:
    before = remains(world)
    with world.serving("peer", 7000):
        done = world.shell(
            "old:IP=10.92.0.77", f"ip -4 -o address show eth0 | awk '{{print $4}}';"
            f"nc -w 5 {PEER} 7000 < /dev/null",
        )  # fmt: skip
    assert lines(done) == ["10.92.0.77/24", HOST], done.stderr
    assert remains(world) == before


def test_a_guest_of_plugins_cannot_forge_either(world: NetworkWorld) -> None:
    with world.serving("peer", 7000):
        done = world.shell(
            "chained",
            f"ask() {{ nc -w 2 {PEER} 7000 < /dev/null 2> /dev/null || echo nobody; }}; ask;"
            "ip address add 10.91.0.200/24 dev eth0;"
            "ip route replace default via 10.91.0.1 src 10.91.0.200; ask",
            "--caps-retain=CAP_NET_ADMIN,CAP_NET_RAW",
        )
    assert lines(done) == [HOST, "nobody"], done.stdout


@pytest.mark.parametrize(
    ("network", "error"),
    [
        ("fails", "ADD failed: no room; at all"),
        ("rubbish", "ADD printed something that is no result: b'hello"),
        ("floods", "ADD printed more than 1048576 bytes: killed"),
        ("bare", "the CNI plug-ins made no interface eth0"),
    ],
)
def test_a_plugin_that_misbehaves_is_told_of_and_leaves_nothing(
    world: NetworkWorld, network: str, error: str
) -> None:
    calls(world)
    before, pods = remains(world), world.kvmrkt.pods()
    done = world.shell(network, "true")
    assert done.returncode == 254
    assert error in done.stderr
    assert (remains(world), world.kvmrkt.pods()) == (before, pods)
    commands = [command for command, *_ in calls(world)]
    assert commands == ([] if network == "bare" else ["ADD", "DEL"])


POINTS = (*OF_PLUGINS, *(f"plugin-called@{number}" for number in range(2, 5)), "guest-heard",
          *(f"resource-released@{number}" for number in range(1, 4)))  # fmt: skip


def test_del_is_called_exactly_once_after_a_kill_at_any_step(world: NetworkWorld) -> None:
    before = remains(world)
    for point in POINTS:
        calls(world)
        struck = subprocess.run(
            world.kvmrkt.argv("run", "--net=chained", BUSYBOX, "--exec=/bin/true"),
            env={**os.environ, "KVMRKT_FAULT": point}, capture_output=True, text=True,
            timeout=DEADLINE_SECONDS, check=False,
        )  # fmt: skip
        assert struck.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), (point, struck)
        for _ in range(2):
            done = world.kvmrkt("gc", "--grace-period=0s")
            assert done.returncode == 0, done.stderr
        commands = [command for command, *_ in calls(world)]
        early = point in ("plugin-called", "plugin-called@2", "plugin-called@3")
        assert commands == ([] if early else ["ADD", "DEL"]), point
        assert remains(world) == before, point
    assert world.kvmrkt.pods() == []
