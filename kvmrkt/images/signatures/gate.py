"""What an image must pass on its way into the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmrkt.errors import ImageError, SignatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kvmrkt.appc.image_manifest import ImageManifest
    from kvmrkt.images.signatures.openpgp import Signature, Signer
    from kvmrkt.images.signatures.trustedkeys import TrustedKeys


class Gate:
    """A gate that asks for nothing but the name an image was asked for by, if there was one."""

    def __init__(self, name: str | None = None, labels: Mapping[str, str] | None = None) -> None:
        """`labels` are those the image must have."""
        self._name = name
        self._labels = dict(labels or {})

    @property
    def signer(self) -> str:
        """The fingerprint of the key the archive is signed with; "" where none was asked for."""
        return ""

    @property
    def signature(self) -> bytes | None:
        """The signature that was verified."""
        return None

    def admit_archive(self, archive: Path) -> None:
        """Look at the archive as it was fetched; called before anything of it is parsed."""

    def admit_manifest(self, manifest: ImageManifest) -> None:
        """Look at what the image says it is; ImageError for another than was asked for."""
        if self._name is not None and manifest.name != self._name:
            raise ImageError(
                f'the server gave the image "{manifest.name}" for the name "{self._name}"'
            )
        for label, value in self._labels.items():
            if manifest.label(label) != value:
                raise ImageError(
                    f'the server gave an image "{manifest.name}" whose label {label} is'
                    f' "{manifest.label(label) or ""}", not "{value}"'
                )


class SignatureGate(Gate):
    """A gate that wants a detached signature by a key trusted for the image's name.

    The name stands in the manifest, and nothing is parsed before it is trusted: so first any
    trusted key will do, and once the name is known the key must be one for that name.
    """

    def __init__(
        self,
        keys: TrustedKeys,
        signature: Signature,
        shown: str,
        report: Callable[[str], None],
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """`shown` is the image in messages; `report` is told whose signature it is."""
        super().__init__(name, labels)
        self._keys = keys
        self._signature = signature
        self._shown = shown
        self._report = report
        self._signers: list[Signer] = []

    @property
    def signer(self) -> str:
        """The fingerprint of the key that signed."""
        return self._signers[0].fingerprint if self._signers else ""

    @property
    def signature(self) -> bytes | None:
        """The signature, whatever its file looked like, as bare packets."""
        return b"".join(self._signature.packets)

    def admit_archive(self, archive: Path) -> None:
        """Verify the signature; SignatureError unless a trusted key made it on these bytes."""
        from kvmrkt.images.signatures import openpgp

        name = self._name or ""
        keys = self._keys.for_name(name) if name else self._keys.all()
        self._signers = openpgp.good_signers(self._signature, archive, keys, self._shown, name=name)

    def admit_manifest(self, manifest: ImageManifest) -> None:
        """As the plain gate; SignatureError if the key is trusted, but not for this name."""
        super().admit_manifest(manifest)
        trusted = {key.fingerprint for key in self._keys.for_name(manifest.name)}
        fitting = [signer for signer in self._signers if signer.fingerprint in trusted]
        if not fitting:
            raise SignatureError(
                f"cannot verify {self._shown}: the key {self.signer} is not trusted to sign"
                f' "{manifest.name}"',
                hint=f'if you trust it: kvmrkt trust --prefix "{manifest.name}" KEY',
            )
        self._signers = fitting
        self._report("\n  ".join(["signature verified:", *fitting[0].identities]))
