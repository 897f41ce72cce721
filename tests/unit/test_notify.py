"""What an init system is told, and the sockets it passes."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
from guest_double import HELLO, GuestDouble, a_pod, supervise
from pods_on_disk import manifest

from kvmrkt import activation
from kvmrkt.activation import PassedSocket, activated_ports, passed_sockets
from kvmrkt.appc.pod_manifest import parse_pod_manifest
from kvmrkt.errors import PodError, UsageError
from kvmrkt.notify import notify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def init(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """An init system that listens."""
    name = f"{tmp_path}/notify" if request.param == "path" else f"@{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if name[0] == "@" else name)
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listener


def told(init: socket.socket) -> list[str]:
    """Everything it was told so far."""
    words = []
    while True:
        try:
            words.append(init.recv(4096).decode())
        except BlockingIOError:
            return words


def test_a_message_arrives(init: socket.socket) -> None:
    notify("READY=1", "STATUS=so far so good")
    assert told(init) == ["READY=1\nSTATUS=so far so good"]


@pytest.mark.parametrize(
    "address", ["", "relative", "vsock:2:1", "/no/such/socket", "@nobody", "@"]
)
def test_nobody_to_tell_is_no_failure(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def test_a_pod_is_ready_once_its_apps_have_started_and_says_when_it_ends(
    init: socket.socket, tmp_path: Path
) -> None:
    seen: list[list[str]] = []

    async def script(guest: GuestDouble) -> None:
        await guest.notify("hello", **HELLO)
        request = await guest.control.receive()
        seen.append(told(init))  # the agent has not answered yet: not ready
        await guest.control.send({"jsonrpc": "2.0", "id": request["id"], "result": {}})
        await guest.notify("app.exited", name="web", code=0, time_ns=1)
        await guest.log.send({"end": True})
        await guest.notify("pod.exited")

    assert supervise(tmp_path, a_pod(), script) == 0
    assert seen == [["STATUS=The guest boots"]]
    assert told(init) == ["READY=1\nSTATUS=The apps run", "STOPPING=1\nSTATUS=The apps have ended"]


# -- sockets -----------------------------------------------------------------------------------


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A listening socket that was passed to this process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(activation, "FIRST_FD", server.fileno())
        monkeypatch.setenv("LISTEN_PID", f"{os.getpid()}")
        monkeypatch.setenv("LISTEN_FDS", "1")
        monkeypatch.setenv("LISTEN_FDNAMES", "web.socket")
        yield server


def pod(port: int, **declared: Any) -> Any:
    """A pod whose app declares the port `http`, on this port of the host."""
    app = {"exec": ["/x"], "user": "0", "group": "0",
           "ports": [{"name": "http", "protocol": "tcp", "port": 80, **declared}]}  # fmt: skip
    image = {"id": "sha512-" + "0" * 64, "name": "example.com/web"}
    ports = [{"name": "http", "hostPort": port}]
    apps = [{"name": "web", "image": image, "app": app}]
    return parse_pod_manifest(manifest(apps=apps, ports=ports))


def test_a_passed_socket_is_known_by_its_port(passed: socket.socket) -> None:
    port = passed.getsockname()[1]
    os.set_inheritable(passed.fileno(), True)
    assert passed_sockets() == (PassedSocket(passed.fileno(), "web.socket", "tcp", port),)
    assert not os.get_inheritable(passed.fileno())


def test_sockets_of_another_process_are_none_of_ours(
    passed: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    assert passed_sockets() == ()
    activated_ports(pod(80), networked=True)


@pytest.mark.parametrize("number", ["x", "-1", "99999", "", "²"])
def test_a_senseless_number_of_sockets_is_refused(
    passed: socket.socket, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    monkeypatch.setenv("LISTEN_FDS", number)
    with pytest.raises(UsageError, match="LISTEN_FDS"):
        activated_ports(pod(80), networked=True)


def test_a_descriptor_that_is_no_socket_is_refused(
    passed: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setattr(activation, "FIRST_FD", file.fileno())
        with pytest.raises(UsageError, match="is not a socket"):
            passed_sockets()


def test_a_socket_needs_a_port_that_is_socket_activated_and_connected_with_it(
    passed: socket.socket,
) -> None:
    port = passed.getsockname()[1]
    wrong = [
        pod(port), pod(port + 1, socketActivated=True),
        pod(port, socketActivated=True, protocol="udp"),
    ]  # fmt: skip
    for manifest_ in wrong:
        with pytest.raises(PodError, match=f"no port of the pod is for the tcp port {port}"):
            activated_ports(manifest_, networked=True)
    right = pod(port, socketActivated=True)
    assert activated_ports(right, networked=True) == ((passed.fileno(), "tcp", port, 80),)
    with pytest.raises(PodError, match='cannot activate port "http" .* this pod has none'):
        activated_ports(right, networked=False)


def test_a_unix_socket_is_for_no_port(
    passed: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/socket")
        monkeypatch.setattr(activation, "FIRST_FD", other.fileno())
        with pytest.raises(PodError, match='for the socket "web.socket"'):
            activated_ports(pod(80, socketActivated=True), networked=True)
