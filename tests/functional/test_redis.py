"""A real server from a Debian root: users, ports, a mount point, and data that survives the pod."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from real_pods import REDIS, Kvmrkt, lines

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.functional

CLIENT = "--exec=/bin/sh"
WAIT = "until redis-cli ping | grep -q PONG; do sleep 0.2; done; "


def serve_and_ask(kvmrkt: Kvmrkt, folder: Path, script: str) -> list[str]:
    """Redis in one app, a client's script in another; the client ends the server."""
    done = kvmrkt.run(
        f"--volume=data,kind=host,source={folder}", REDIS, "--name=server",
        "---", REDIS, "--name=client", CLIENT, "--user=root", "--group=root",
        "--", "-c", f"{WAIT}{script}; redis-cli shutdown save",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.partition("]: ")[2] for line in done.stdout.splitlines() if "] client[" in line]


def test_data_on_a_host_volume_survives_the_pod(kvmrkt: Kvmrkt, tmp_path: Path) -> None:
    folder = tmp_path / "survivor"
    folder.mkdir()
    folder.chmod(0o777)
    assert serve_and_ask(kvmrkt, folder, "redis-cli set colour green")[-1] == "OK"
    assert serve_and_ask(kvmrkt, folder, "redis-cli get colour")[-1] == "green"


def test_the_server_runs_as_the_images_user_with_its_port_on_loopback(
    kvmrkt: Kvmrkt, tmp_path: Path
) -> None:
    folder = tmp_path / "survivor"
    folder.mkdir()
    folder.chmod(0o777)
    serve_and_ask(kvmrkt, folder, "redis-cli set a b")
    owners = {entry.stat().st_uid for entry in folder.rglob("*")}
    passwd = kvmrkt.run(REDIS, CLIENT, "--user=root", "--", "-c", "id -u redis")
    assert owners == {int(lines(passwd)[0])}
