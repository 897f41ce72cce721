"""Two people with keys, one of them trusted, for tests of signed images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpg_keys import Gpg

from kvmrkt.images.signatures.openpgp import read_keys
from kvmrkt.images.signatures.trustedkeys import TrustedKeys

SIGNER = "signer@example.com"
STRANGER = "stranger@example.com"


@dataclass(frozen=True)
class Signing:
    """A gpg home with the keys of SIGNER and STRANGER."""

    gpg: Gpg

    @classmethod
    def make(cls, gpg: Gpg) -> Signing:
        """Make the keys."""
        for person in (SIGNER, STRANGER):
            gpg.new_key(person)
        return cls(gpg)

    def trusted(self, folder: Path, prefix: str | None = "example.com/app") -> TrustedKeys:
        """Keys that hold SIGNER's, trusted for a prefix."""
        keys = TrustedKeys(folder / "local", folder / "system")
        keys.add(read_keys(self.gpg.export(SIGNER), "key")[0], prefix)
        return keys

    def sign(self, path: Path, who: str = SIGNER) -> Path:
        """Write the signature beside a file."""
        signature = path.with_name(f"{path.name}.asc")
        signature.write_bytes(self.gpg.sign(who, path.read_bytes()))
        return signature
