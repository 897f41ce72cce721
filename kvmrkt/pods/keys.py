"""The SSH keys of one pod: who may enter it, and how its guest proves that it is the one.

Made by the first who needs them, in `ssh/` in the pod's directory: a folder of mode 0700, files of
mode 0600. Both pairs are Ed25519. The guest gets its own private key and the other's public one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kvmrkt.errors import PodError, describe

if TYPE_CHECKING:
    from kvmrkt.pods.directory import PodDirectory

FOLDER = "ssh"
CLIENT, HOST = "client_key", "host_key"


def pod_keys(pod: PodDirectory) -> Path:
    """The folder with `client_key` and `host_key`, each with its `.pub`; raises PodError."""
    folder = pod.path / FOLDER
    if folder.is_dir():
        return folder
    try:
        fresh = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=pod.path))  # of mode 0700
        try:
            for name in (CLIENT, HOST):
                _make_pair(fresh, name)
            _move(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise PodError(
            f'cannot make the keys of pod "{pod.uuid}": {describe(error)}',
            hint="only the user who runs a pod may enter it",
        ) from error
    return folder


def _move(fresh: Path, folder: Path) -> None:
    try:
        fresh.rename(folder)
    except OSError:
        if not folder.is_dir():  # another client was faster: its keys are as good
            raise


def _make_pair(folder: Path, name: str) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    _write(folder / name, private)
    _write(folder / f"{name}.pub", public + b"\n")


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
