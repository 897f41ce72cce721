"""OpenPGP keys and detached signatures: reading them, and whether a signature is good.

Sequoia does the cryptography and knows which algorithms are too weak, but answers only "valid" or
not; `openpgp_problems` finds the reason, and refuses some of what Sequoia would let pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvmrkt.errors import SignatureError
from kvmrkt.images.signatures import packets as packets
from kvmrkt.images.signatures.packets import Packet, read_packets
from kvmrkt.images.signatures.problems import (
    cert_packets,
    identities_and_problem,
    part_problem,
    reason_of,
    signature_problem,
)
from kvmrkt.images.signatures.stream import streamed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAX_KEYS = 64
MAX_SIGNATURES = 16
"""In one file: each signature of a trusted key costs a pass over the image."""

_KEY_PACKETS = frozenset({
    packets.PUBLIC_KEY, packets.PUBLIC_SUBKEY, packets.USER_ID, packets.USER_ATTRIBUTE,
    packets.SIGNATURE,
})  # fmt: skip
_SECRET_PACKETS = frozenset({packets.SECRET_KEY, packets.SECRET_SUBKEY})
_EMPTY_PACKETS = frozenset({packets.MARKER, packets.TRUST, packets.PADDING})


class PublicKey(msgspec.Struct, frozen=True):
    """A public key with its subkeys; fingerprints are lower-case hexadecimal.

    `identities` are those the key itself vouches for, safe to print. `problem` says why nothing
    that the key signed can be trusted today; empty for a good key.
    """

    fingerprint: str
    identities: tuple[str, ...]
    subkeys: tuple[str, ...]
    problem: str
    armored: bytes

    def __str__(self) -> str:
        """How messages name the key."""
        owner = f" ({self.identities[0]})" if self.identities else ""
        return f"{self.fingerprint}{owner}"


class Signature(msgspec.Struct, frozen=True):
    """A detached signature file, which may hold several signatures.

    `issuers` are the fingerprints (or only key IDs) of the keys that each claims to be made with.
    """

    packets: tuple[bytes, ...]
    issuers: tuple[str, ...]


class Signer(msgspec.Struct, frozen=True):
    """Whose signature was good: a trusted key, and which of its keys signed."""

    fingerprint: str
    identities: tuple[str, ...]
    signing_key: str


def read_keys(data: bytes, source: str) -> list[PublicKey]:
    """The public keys of a file, at least one; `source` names the file in errors.

    Raises SignatureError for everything else, a private key among it.
    """
    keys: list[list[Packet]] = []
    for packet in read_packets(data, source):
        if packet.tag in _SECRET_PACKETS:
            raise SignatureError(
                f"{source}: a private key", hint="give the public key: gpg --armor --export"
            )
        if packet.tag == packets.PUBLIC_KEY:
            keys.append([])
        if packet.tag in _EMPTY_PACKETS:
            continue
        if packet.tag not in _KEY_PACKETS or not keys:
            raise SignatureError(f"{source}: not a file of public keys")
        keys[-1].append(packet)
    if not keys or len(keys) > MAX_KEYS:
        raise SignatureError(f"{source}: {len(keys)} public keys in it; 1 to {MAX_KEYS} may be")
    return [_public_key(b"".join(packet.raw for packet in key), source) for key in keys]


def read_signature(data: bytes, source: str) -> Signature:
    """The signatures of a detached signature file, armored or binary.

    Raises SignatureError if there is none, or something else.
    """
    from pysequoia import Sig

    raw = [packet for packet in read_packets(data, source) if packet.tag not in _EMPTY_PACKETS]
    if not raw or any(packet.tag != packets.SIGNATURE for packet in raw):
        raise SignatureError(f"{source}: not a detached OpenPGP signature")
    if len(raw) > MAX_SIGNATURES:
        raise SignatureError(f"{source}: more than {MAX_SIGNATURES} signatures in it")
    try:
        signatures = [Sig.from_bytes(packet.raw) for packet in raw]
    except RuntimeError as error:
        raise SignatureError(f"{source}: {reason_of(error)}") from None
    return Signature(
        tuple(packet.raw for packet in raw),
        tuple(one.issuer_fingerprint or one.issuer_key_id or "" for one in signatures),
    )


def check_issuer(
    signature: Signature, keys: Sequence[PublicKey], what: str, *, name: str = ""
) -> None:
    """Refuse a signature that no trusted key can have made, before anything is downloaded.

    `what` is the signed thing in messages, `name` the image's name for the hint.
    Raises SignatureError.
    """
    if any(_issued_by(issuer, key) for issuer in signature.issuers for key in keys):
        return
    issuers = ", ".join(issuer or "without a name" for issuer in signature.issuers)
    raise SignatureError(
        f"cannot verify {what}: it is signed by key {issuers}, and "
        + ("that key is not trusted for it" if keys else "no key is trusted for it"),
        hint=f'to trust a key: kvmrkt trust --prefix "{name or "PREFIX"}" [KEY]',
    )


def verify(
    signature: Signature, file: Path, keys: Sequence[PublicKey], what: str, *, name: str = ""
) -> Signer:
    """Whose good signature the file bears; one by a trusted key is enough.

    `what` and `name` as for `check_issuer`. Raises SignatureError with the reason if there is
    none, ImageError if the file cannot be read.
    """
    check_issuer(signature, keys, what, name=name)
    reasons: list[str] = []
    for result in _results(signature, file, keys, what):
        if isinstance(result, Signer):
            return result
        reasons.append(result)
    raise _not_good(what, reasons)


def good_signers(
    signature: Signature, file: Path, keys: Sequence[PublicKey], what: str, *, name: str = ""
) -> list[Signer]:
    """All whose good signature the file bears, at least one; otherwise as `verify`.

    For whoever learns only later which of the keys will do.
    """
    check_issuer(signature, keys, what, name=name)
    results = list(_results(signature, file, keys, what))
    signers = [result for result in results if isinstance(result, Signer)]
    if not signers:
        raise _not_good(what, [result for result in results if isinstance(result, str)])
    return signers


def _not_good(what: str, reasons: list[str]) -> SignatureError:
    return SignatureError(f"cannot verify {what}: {'; '.join(dict.fromkeys(reasons))}")


def _results(
    signature: Signature, file: Path, keys: Sequence[PublicKey], what: str
) -> Iterator[Signer | str]:
    """What became of each signature that one of the keys may have made."""
    for issuer, raw in zip(signature.issuers, signature.packets, strict=True):
        for key in keys:
            if _issued_by(issuer, key):
                reason = _problem(raw, issuer, key)
                yield reason or _match(raw, file, key, what)


def _problem(raw: bytes, issuer: str, key: PublicKey) -> str:
    """Why a signature by this key is not good whatever it is over; empty for nothing."""
    from pysequoia import Cert, Sig

    if key.problem:
        return f"its key {key} {key.problem}"
    try:
        if problem := signature_problem(Sig.from_bytes(raw)):
            return problem
        if problem := part_problem(Cert.from_bytes(key.armored), issuer):
            return f"its key {issuer} {problem}"
    except RuntimeError as error:
        return reason_of(error)
    return ""


def _match(raw: bytes, file: Path, key: PublicKey, what: str) -> Signer | str:
    """The signer if the key made the signature on these bytes, or that it did not."""
    import pysequoia

    signature = pysequoia.Sig.from_bytes(raw)
    cert = pysequoia.Cert.from_bytes(key.armored)
    with streamed(file, f"cannot verify {what}") as path:
        try:
            verified = pysequoia.verify(file=path, store=lambda _: [cert], signature=signature)
        except RuntimeError:  # it says no more than that the signature is not good
            verified = None
    if verified is None:
        return (
            f"the signature by key {key} does not match the content: the file was changed or"
            " damaged, or the signature is another file's"
        )
    return Signer(key.fingerprint, key.identities, verified.valid_sigs[0].signing_key)


def _public_key(raw: bytes, source: str) -> PublicKey:
    from pysequoia import Cert
    from pysequoia.packet import Tag

    try:
        cert = Cert.from_bytes(raw)
        identities, problem = identities_and_problem(cert)
        subkeys = [
            packet.fingerprint
            for packet in cert_packets(cert)
            if packet.tag == Tag.PublicSubkey and packet.fingerprint  # None: of unknown make
        ]
        armored = str(cert).encode("ascii")
    except RuntimeError as error:
        raise SignatureError(f"{source}: {reason_of(error)}") from None
    return PublicKey(cert.fingerprint, identities, tuple(subkeys), problem, armored)


def _issued_by(issuer: str, key: PublicKey) -> bool:
    """Whether the fingerprint or the key ID is that of the key or of one of its subkeys."""
    return issuer != "" and any(
        issuer in (fingerprint, _key_id(fingerprint))
        for fingerprint in (key.fingerprint, *key.subkeys)
    )


def _key_id(fingerprint: str) -> str:
    """The 16 digits by which older signatures name a key; a version 6 key's come first."""
    return fingerprint[-16:] if len(fingerprint) == 40 else fingerprint[:16]
