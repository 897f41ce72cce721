"""Socket activation: an init system listens, and the pod it starts gets the connections."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from network_images import SERVE, serving_image
from network_world import HOST, NetworkWorld
from real_pods import DEADLINE_SECONDS, Kvmrkt

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.functional

HERE = Path(__file__).parent
GATEWAY = "172.16.28.1"
SOCKETS = ("tcp:18080", "udp:15353")


@pytest.fixture
def world(tmp_path: Path, store: Path) -> Iterator[NetworkWorld]:
    world = NetworkWorld(tmp_path / "networks", store)
    yield world
    world.close()


def start(world: NetworkWorld, image: Path) -> subprocess.Popen[str]:
    """The pod, as started by an init system on the world's host."""
    kvmrkt = Kvmrkt.argv(
        world.kvmrkt, "run", "--net=default", "--port=web:18080", "--port=dns:15353",
        image, "--exec=/bin/sh", "--", "-c", f"sleep 1; {SERVE}",
    )  # fmt: skip
    passing = str(HERE / "pass_sockets.py")
    pod = subprocess.Popen(
        world.on_host(sys.executable, passing, *SOCKETS, "--", *kvmrkt),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    world.kvmrkt.started.append(pod)
    assert pod.stdout is not None
    assert pod.stdout.readline() == "listening\n"
    return pod


def ask(world: NetworkWorld, port: int, kind: str) -> str:
    """What the service answers to another host, which has all the time in the world."""
    asking = str(HERE / "ask_address.py")
    return world.peer(sys.executable, asking, HOST, str(port), kind, str(DEADLINE_SECONDS)).strip()


def test_a_connection_made_before_the_pod_is_ready_is_answered(
    world: NetworkWorld, tmp_path: Path
) -> None:
    pod = start(world, serving_image(tmp_path, socketActivated=True))
    # the service says who asks: the supervisor, which carries the connection
    assert ask(world, 18080, "tcp") == GATEWAY
    assert ask(world, 15353, "udp") == GATEWAY
    assert ask(world, 18080, "tcp") == GATEWAY
    pod.terminate()
    _, said = pod.communicate(timeout=DEADLINE_SECONDS)
    assert pod.returncode == 0, said


def test_a_port_that_is_not_for_sockets_refuses_them(world: NetworkWorld, tmp_path: Path) -> None:
    pod = start(world, serving_image(tmp_path))
    _, said = pod.communicate(timeout=DEADLINE_SECONDS)
    assert pod.returncode == 254
    assert "no port of the pod is for the tcp port 18080" in said
    assert world.kvmrkt.pods() == []
