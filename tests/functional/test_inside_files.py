"""Files and ports of a running pod: `cp`, `port-forward`, and who is let in."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from inside_pod import Inside, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.functional

BULK_BYTES = 3 << 20
PORT = 7000


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[Inside]:
    """A pod that echoes on a port."""
    script = f"nc -ll -p {PORT} -e cat & exec sleep 100000"
    with running(tmp_path_factory.mktemp("files"), store, script=script) as inside:
        yield inside


def facts(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything that counts of a tree's entries."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        name = str(path.relative_to(folder))
        found[name] = (status.st_mode, status.st_uid, status.st_gid, int(status.st_mtime), content)
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with every kind of entry that is copied."""
    tree = tmp_path / "tree"
    (tree / "empty").mkdir(parents=True)
    (tree / "deep" / "er").mkdir(parents=True, mode=0o750)
    (tree / "bulk").write_bytes(os.urandom(BULK_BYTES))
    (tree / ("long" * 50)).write_text("a name too long for a plain header")
    (tree / "deep" / "er" / "file").write_text("x")
    (tree / "deep" / "er" / "file").chmod(0o604)
    os.chown(tree / "deep" / "er" / "file", 1234, 4321)
    os.utime(tree / "deep" / "er" / "file", (1_000_000_000, 1_000_000_000))
    (tree / "deep" / "link").symlink_to("/nowhere/at/all")
    os.mkfifo(tree / "pipe")
    return tree


def test_a_tree_goes_in_and_comes_out_as_it_was(inside: Inside, tree: Path, tmp_path: Path) -> None:
    done = inside.run("cp", tree, f"{inside.uuid}:/tmp")
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)
    listed = inside.exec("stat", "-c", "%a %u %g %s", "/tmp/tree/deep/er/file", "/tmp/tree/deep/er")
    assert listed.stdout.splitlines()[0] == b"604 1234 4321 1"
    done = inside.run("cp", f"{inside.uuid}:busybox:/tmp/tree", tmp_path / "back")
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)
    assert facts(tmp_path / "back") == facts(tree)


def test_where_a_copy_goes_is_as_with_other_copying_programs(
    inside: Inside, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "one").write_text("1")
    for goal in ("/tmp/new", "/tmp/", "tmp/new"):  # a new name, a folder, one that is replaced
        done = inside.run("cp", tmp_path / "one", f"{inside.uuid}:{goal}")
        assert done.returncode == 0, done.stderr
    assert inside.exec("cat", "/tmp/new", "/tmp/one").stdout == b"11"
    for source in ("/tmp/new", "/etc/."):
        done = inside.run("cp", f"{inside.uuid}:{source}", tmp_path / "there")
        assert done.returncode == 0, done.stderr
    assert {"new", "passwd", "group"} <= {path.name for path in (tmp_path / "there").iterdir()}


def test_what_cannot_be_copied_says_why_and_leaves_nothing(inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "goal").mkdir()
    (tmp_path / "goal" / "hosts").mkdir()
    for source, goal, said in (
        (f"{inside.uuid}:/none", tmp_path / "goal", "cannot copy /none: No such file"),
        (tmp_path / "file", f"{inside.uuid}:/none/x", "cannot make /none/x: No such file"),
        (tmp_path / "goal", f"{inside.uuid}:/etc/passwd", "it is no directory"),
        (f"{inside.uuid}:/etc/hosts", tmp_path / "goal", "cannot replace"),
        (f"{inside.uuid}:/etc/hosts", tmp_path / "none" / "x", "there is no such folder"),
        (tmp_path / "none", f"{inside.uuid}:/tmp", "No such file or directory"),
    ):
        done = inside.run("cp", source, goal)
        assert said in done.stderr.decode(), done.stderr
        assert done.returncode == 254
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "goal"]
    assert [path.name for path in (tmp_path / "goal").iterdir()] == ["hosts"]


def test_set_id_bits_and_devices_do_not_come_out(inside: Inside, tmp_path: Path) -> None:
    script = "mkdir /tmp/evil && cp /bin/busybox /tmp/evil/su && chmod 6755 /tmp/evil/su"
    assert inside.exec("sh", "-c", script).returncode == 0
    assert inside.run("cp", f"{inside.uuid}:/tmp/evil", tmp_path).returncode == 0
    assert (tmp_path / "evil" / "su").stat().st_mode & 0o7777 == 0o755
    done = inside.run("cp", f"{inside.uuid}:/dev", tmp_path / "dev")
    assert b"/dev/null is a device or a socket, and not copied" in done.stderr
    assert done.returncode == 0
    assert not (tmp_path / "dev" / "null").exists()


@pytest.fixture
def forwarded(inside: Inside) -> Iterator[int]:
    """A port of this host that leads to the pod's."""
    argv = inside.kvmrkt.argv("port-forward", inside.uuid, f"0:{PORT}")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert server.stdout is not None
        words = server.stdout.readline().split()
        assert words[:2] == [b"Forwarding", b"from"]
        yield int(words[2].rpartition(b":")[2])
        server.terminate()


def test_a_port_of_the_pod_is_reached_without_any_network(forwarded: int) -> None:
    data = os.urandom(BULK_BYTES)
    with (
        socket.create_connection(("127.0.0.1", forwarded)) as idle,
        socket.create_connection(("127.0.0.1", forwarded)) as echo,
    ):
        idle.sendall(bytes(100))  # whose echo nobody reads
        received = bytearray()
        view = memoryview(data)
        while len(received) < len(data):
            echo.sendall(view[: 1 << 16])
            view = view[1 << 16 :]
            while len(received) < len(data) - len(view):
                received += echo.recv(1 << 16)
        echo.shutdown(socket.SHUT_WR)
        assert echo.recv(1) == b""
    assert bytes(received) == data


def test_a_port_that_nobody_listens_on_is_closed_and_said(inside: Inside) -> None:
    argv = inside.kvmrkt.argv("port-forward", inside.uuid, "0:7999")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert server.stdout is not None and server.stderr is not None
        port = int(server.stdout.readline().split()[2].rpartition(b":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert client.recv(1) == b""
        said = server.stderr.readline()
        server.terminate()
    assert said == b"port-forward: nothing listens on port 7999 of the pod\n"


def test_neither_a_wrong_key_nor_a_wrong_guest_is_accepted(inside: Inside) -> None:
    assert inside.exec("true").returncode == 0  # the guest has its keys
    (pod,) = inside.kvmrkt.pods()
    kept = pod / "kept"
    shutil.move(pod / "ssh", kept)
    try:
        strange = inside.exec("true")
        assert b"the guest shows another host key than the pod's" in strange.stderr
        assert strange.returncode == 250
        for name in ("host_key", "host_key.pub"):
            shutil.copy(kept / name, pod / "ssh" / name)
        refused = inside.exec("true")
        assert b"the pod's SSH server refuses the key of the pod" in refused.stderr
        assert refused.returncode == 254
    finally:
        shutil.rmtree(pod / "ssh", ignore_errors=True)
        shutil.move(kept, pod / "ssh")
    assert inside.exec("true").returncode == 0
