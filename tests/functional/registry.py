"""A real docker registry for tests, and the programs of others that fill and empty it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
from real_pods import DEADLINE_SECONDS, PROGRAM, ROOT

sys.path.insert(0, str(ROOT / "tests" / "unit"))  # for docker_files

USER, PASSWORD = "somebody", "secret"
_HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
"""bcrypt of the password, made once with crypt(3)."""
_LISTENING = "listening on 127.0.0.1:"


def run(*words: str | Path) -> str:
    """Run a program of others, which must succeed; returns what it printed."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False,
        timeout=DEADLINE_SECONDS, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Registry:
    """A registry that runs."""

    port: int
    login: bool = False
    authority: Path | None = None
    """Who vouches for it, if it speaks TLS."""
    log: list[str] = field(default_factory=list)
    """What it said and was asked; complete when it has ended."""

    @property
    def host(self) -> str:
        """As references name it."""
        return f"127.0.0.1:{self.port}"

    def push(self, source: str, name: str, *flags: str) -> None:
        """Copy an image there, with skopeo, from any place skopeo knows."""
        self._skopeo("--dest", *flags, source, f"docker://{self.host}/{name}")

    def pull(self, name: str, target: str) -> None:
        """Copy an image from there, with skopeo."""
        self._skopeo("--src", f"docker://{self.host}/{name}", target)

    def _skopeo(self, side: str, *words: str) -> None:
        login = [f"{side}-creds", f"{USER}:{PASSWORD}"] if self.login else []
        run("skopeo", "copy", "--insecure-policy", f"{side}-tls-verify=false", *login, *words)


@contextmanager
def running_registry(folder: Path, *, login: bool = False, tls: bool = False) -> Iterator[Registry]:
    """Debian's docker-registry on a port of its own, with its files in a folder."""
    http: dict[str, Any] = {"addr": "127.0.0.1:0"}
    config: dict[str, Any] = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "images")}},
        "compatibility": {"schema1": {"enabled": True}},
        "http": http,
    }
    authority = None
    if tls:
        authority = folder / "authority.pem"
        http["tls"] = _certificate(folder, authority)
    if login:
        (folder / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "registry.json").write_text(json.dumps(config))  # JSON is YAML too
    process = subprocess.Popen(
        ["docker-registry", "serve", str(folder / "registry.json")],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    log = _Log(process)
    log.start()
    try:
        log.ready.wait(DEADLINE_SECONDS)
        assert log.port, "".join(log.lines)
        yield Registry(log.port, login, authority, log.lines)
    finally:
        process.terminate()
        process.wait()
        log.join()
        assert process.stdout is not None
        process.stdout.close()


class _Log(threading.Thread):
    """Reads what the registry says; it says which port it got."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__()
        self._process = process
        self.ready = threading.Event()
        self.port = 0
        self.lines: list[str] = []

    def run(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            _, found, rest = line.partition(_LISTENING)
            if found:
                self.port = int(rest.partition('"')[0].partition(",")[0])
                self.ready.set()
        self.ready.set()


def umoci_layout(folder: Path) -> Path:
    """A layout made with umoci: the image v1, of two layers of files and a configuration."""
    layout = folder / "layout"
    files = folder / "files"
    (files / "bin").mkdir(parents=True)
    (files / "bin" / "app").write_text("one")
    (files / "bin" / "other").write_text("other")
    replacement = folder / "replacement"
    replacement.write_text("two")
    image = f"{layout}:v1"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", image)
    run("umoci", "insert", "--image", image, files / "bin", "/bin")
    run("umoci", "insert", "--image", image, replacement, "/bin/app")
    run(
        "umoci", "config", "--image", image, "--config.entrypoint=/bin/app", "--config.cmd=serve",
        "--config.env=COLOUR=blue", "--config.user=7:8", "--config.exposedports=80/tcp",
        "--config.volume=/data", "--config.workingdir=/srv", "--config.label=who=us",
        "--author=Somebody", "--os=linux", f"--architecture={_go_architecture()}",
    )  # fmt: skip
    return layout


def listing(tree: Path) -> list[str]:
    """The entries of a root filesystem with all that `ls -l` shows of them."""
    lines = run("unsquashfs", "-lls", "-no-progress", tree).splitlines()
    return sorted(line for line in lines if "squashfs-root/rootfs" in line)


def content(tree: Path, name: str) -> str:
    """A file's content in a root filesystem."""
    return run("unsquashfs", "-cat", tree, f"rootfs/{name}")


def _go_architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _certificate(folder: Path, authority: Path) -> dict[str, str]:
    """Make a certificate; returns the registry's configuration of it."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(authority))
    issued = made.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    for number, part in enumerate(issued.cert_chain_pems):
        part.write_to_path(str(folder / "certificate.pem"), append=number > 0)
    return {"certificate": str(folder / "certificate.pem"), "key": str(folder / "key.pem")}


@dataclass(frozen=True)
class Fetcher:
    """The command line, with a data directory and a configuration of its own."""

    folder: Path
    insecure: str = "image"

    @property
    def config(self) -> Path:
        """The host's configuration."""
        return self.folder / "config"

    def __call__(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        flags = [
            f"--dir={self.folder / 'data'}",
            f"--local-config={self.config}",
            f"--system-config={self.folder / 'none'}",
            f"--insecure-options={self.insecure}",
        ]
        return subprocess.run(
            [str(PROGRAM), *flags, *(str(word) for word in words)],
            capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def fetch(self, reference: str, *flags: str) -> str:
        """Fetch an image, which must succeed; returns its whole ID."""
        done = self("fetch", "--full", *flags, reference)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def manifest(self, image_id: str) -> dict[str, Any]:
        """An image's manifest."""
        done = self("image", "cat-manifest", image_id)
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def tree(self) -> Path:
        """The one root filesystem of the store."""
        [tree] = (self.folder / "data" / "cas" / "tree").glob("*.squashfs")
        return tree

    def leftovers(self) -> list[Path]:
        """Temporary files of the store, of which there must be none between commands."""
        return list((self.folder / "data" / "cas" / "tmp").glob("*"))
