"""Real services in and around networked pods: redis behind a port, dnsmasq for names."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from network_world import HOST, PEER, NetworkWorld
from real_pods import DEADLINE_SECONDS, REDIS, lines

pytestmark = pytest.mark.functional

PING = """
import socket, sys
with socket.create_connection((sys.argv[1], 16379), 5) as redis:
    redis.settimeout(5)
    redis.sendall(sys.argv[2].encode() + b"\\r\\n")
    print(redis.recv(100).decode().strip())
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[NetworkWorld]:
    world = NetworkWorld(tmp_path_factory.mktemp("networks"), store)
    yield world
    world.close()


@contextmanager
def name_server(world: NetworkWorld) -> Iterator[None]:
    server = subprocess.Popen(
        world.on_peer("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv",
                      "--no-hosts", f"--listen-address={PEER}", "--bind-interfaces", "--user=root",
                      "--pid-file=", "--log-facility=-", f"--address=/service.example/{PEER}"),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stderr is not None
    assert "started" in server.stderr.readline()
    try:
        yield
    finally:
        server.kill()
        server.communicate()


def asked(world: NetworkWorld, where: str, address: str, word: str) -> str:
    """What redis answers, as soon as it does."""
    place = world.on_peer if where == "peer" else world.on_host
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        done = subprocess.run(
            place(sys.executable, "-c", PING, address, word), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.stdout.strip() or time.monotonic() > deadline:
            return done.stdout.strip()


def test_redis_serves_other_hosts_and_this_one(world: NetworkWorld) -> None:
    pod = subprocess.Popen(
        world.kvmrkt.argv("run", "--net=default", "--port=redis:16379", REDIS,
                          "--exec=/usr/bin/redis-server", "--", "--bind", "0.0.0.0",
                          "--protected-mode", "no", "--save", ""),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    world.kvmrkt.started.append(pod)
    assert asked(world, "peer", HOST, "SET visits 41") == "+OK"
    assert asked(world, "peer", HOST, "INCR visits") == ":42"
    assert asked(world, "host", "127.0.0.1", "GET visits") == "$2\n42"
    pod.terminate()
    assert pod.wait(DEADLINE_SECONDS) == 0


def test_names_are_resolved_by_the_server_that_was_named(world: NetworkWorld) -> None:
    with name_server(world), world.serving("peer", 7000):
        done = world.shell(
            "default", "nc -w 5 service.example 7000 < /dev/null", pod_flags=(f"--dns={PEER}",)
        )
    assert lines(done) == [HOST], done.stdout + done.stderr
