"""Real keys and signatures, made with gpg in a home of its own, at dates of the test's choice."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

THEN = "20200101T000000"
"""When keys are made, so that something of theirs can expire before today."""
LATER = "20200201T000000"
"""When most signatures are made."""


class Gpg:
    """A gpg home. Keys have no passphrase; `at` is the time gpg believes it is."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700, exist_ok=True)

    def run(self, *arguments: str, at: str | None = None, stdin: bytes = b"") -> bytes:
        """Run gpg and return what it printed."""
        time = ["--faked-system-time", at] if at else []
        done = subprocess.run(
            ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--quiet", *time,
             "--pinentry-mode", "loopback", "--passphrase", "", *arguments],
            input=stdin, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def new_key(
        self,
        email: str,
        *options: str,
        algorithm: str = "ed25519",
        usage: str = "sign",
        expires: str = "never",
        at: str = THEN,
    ) -> str:
        """Make a key and return its fingerprint."""
        identity = f"{email.partition('@')[0].title()} <{email}>"
        self.run(*options, "--quick-gen-key", identity, algorithm, usage, expires, at=at)
        return self.fingerprints(email)[0]

    def add_subkey(
        self, fingerprint: str, algorithm: str, usage: str, expires: str = "never", at: str = THEN
    ) -> str:
        """Add a subkey and return its fingerprint."""
        before = set(self.fingerprints(fingerprint))
        self.run("--quick-add-key", fingerprint.upper(), algorithm, usage, expires, at=at)
        (added,) = set(self.fingerprints(fingerprint)) - before
        return added

    def fingerprints(self, key: str) -> list[str]:
        """The fingerprints of a key and its subkeys, lower-case."""
        listing = self.run("--with-colons", "--with-subkey-fingerprint", "--list-keys", key)
        lines = [line.split(":") for line in listing.decode().splitlines()]
        return [fields[9].lower() for fields in lines if fields[0] == "fpr"]

    def edit(self, fingerprint: str, *answers: str, at: str = LATER) -> None:
        """Drive `gpg --edit-key` with answers to its questions."""
        text = "".join(f"{answer}\n" for answer in (*answers, "save"))
        self.run(
            "--no-batch", "--no-tty", "--status-fd", "2", "--expert", "--command-fd", "0",
            "--edit-key", fingerprint,
            at=at, stdin=text.encode(),
        )  # fmt: skip

    def revoke(self, fingerprint: str) -> None:
        """Use the revocation that gpg made beside the key."""
        path = self.home / "openpgp-revocs.d" / f"{fingerprint.upper()}.rev"
        self.run("--import", stdin=path.read_bytes().replace(b":-----BEGIN", b"-----BEGIN"))

    def export(self, *keys: str) -> bytes:
        """The public keys in one armored block."""
        return self.run("--armor", "--export", *keys)

    def export_secret(self, key: str) -> bytes:
        """The armored private key."""
        return self.run("--armor", "--export-secret-keys", key)

    def sign(self, key: str, content: bytes, *options: str, at: str = LATER) -> bytes:
        """A detached signature, armored unless the options say otherwise."""
        return self.run(
            "--armor", *options, "--local-user", key, "--detach-sign", at=at, stdin=content
        )


@contextlib.contextmanager
def gpg_home(folder: Path) -> Iterator[Gpg]:
    """A gpg home below the folder; its agent ends with it."""
    gpg = Gpg(folder / "gpg")
    try:
        yield gpg
    finally:
        subprocess.run(["gpgconf", "--homedir", str(gpg.home), "--kill", "all"], check=False)
