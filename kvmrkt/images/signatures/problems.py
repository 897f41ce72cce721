"""What is wrong with an OpenPGP key or signature, in words a person can act on.

Sequoia judges by the time a signature claims to have been made. Here the time is now: what is
revoked or expired today vouches for nothing, whatever date its signatures bear.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pysequoia import Cert, Sig

_WEAK_HASHES = frozenset({"MD5", "SHA1", "RipeMD"})
_MIN_MODULUS_BITS = 2048


def identities_and_problem(cert: Cert) -> tuple[tuple[str, ...], str]:
    """Whom the key names, safe to print, and what the whole key suffers from."""
    try:
        identities = tuple(printable(str(identity)) for identity in cert.user_ids)
        expiration = cert.expiration
    except RuntimeError as error:  # not even its own word for its identities counts
        return (), f"is not safe to rely on ({reason_of(error)})"
    if cert.is_revoked:
        return identities, "is revoked"
    if expiration is not None and expiration <= datetime.now(UTC):
        return identities, f"expired on {expiration:%Y-%m-%d}"
    return identities, ""


def signature_problem(signature: Sig) -> str:
    """What is wrong with a signature whatever its key; empty for nothing."""
    from pysequoia.packet import SignatureType

    now = datetime.now(UTC)
    hash_name = str(signature.hash_algorithm).rpartition(".")[2]
    if signature.signature_type != SignatureType.Binary:
        return "it is not a signature over a file"  # over a text, line ends would not count
    if hash_name in _WEAK_HASHES:
        return f"the signature uses {hash_name}, which is not safe any more"
    if signature.created is None:
        return "the signature has no date"
    if signature.created > now:
        return f"the signature is from the future ({signature.created:%Y-%m-%d %H:%M:%S} UTC)"
    if signature.expiration is not None and signature.expiration <= now:
        return f"the signature expired on {signature.expiration:%Y-%m-%d}"
    return ""


def part_problem(cert: Cert, issuer: str) -> str:
    """What the one key of the certificate that made a signature suffers from."""
    from pysequoia.packet import SignatureType

    own = list(_part(cert, issuer))
    if not own:
        return "is not in the trusted key"
    if any(packet.signature_type == SignatureType.SubkeyRevocation for packet in own):
        return "is revoked"
    # Sequoia has sorted the signatures: the newest first, and what is forged last of all.
    flags = next((packet.key_flags for packet in own if packet.key_flags is not None), None)
    if flags is not None and not flags.signing:
        return "may not sign"
    expiration = _subkey_expiration(own)
    if expiration is not None and expiration <= datetime.now(UTC):
        return f"expired on {expiration:%Y-%m-%d}"
    if _modulus_bits(own[0]) < _MIN_MODULUS_BITS:
        return "is too short to be safe"
    return ""


def cert_packets(cert: Cert) -> list[Any]:
    """The certificate's packets in Sequoia's order."""
    from pysequoia.packet import PacketPile

    return list(PacketPile.from_bytes(bytes(cert)))  # a certificate has no compressed packets


def reason_of(error: RuntimeError) -> str:
    """Sequoia's reason without its backtrace: the innermost cause, in one line."""
    lines = str(error).partition("\n\nStack backtrace")[0].splitlines()
    text = lines[-1].strip() if "Caused by:" in lines else (lines or ["it is damaged"])[0]
    number, _, rest = text.partition(": ")
    return printable(rest if number.isdigit() else text)


def printable(text: str) -> str:
    """The text without anything that could steer a terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _part(cert: Cert, issuer: str) -> Iterator[Any]:
    """The packets of the key that an issuer names: the key itself, then its signatures."""
    from pysequoia.packet import Tag

    inside = False
    for packet in cert_packets(cert):
        if packet.tag in (Tag.PublicKey, Tag.PublicSubkey):
            inside = issuer in (packet.fingerprint, packet.key_id)
        if inside:
            yield packet


def _subkey_expiration(own: list[Any]) -> datetime | None:
    """When a subkey ends; a primary key's end is the certificate's."""
    from pysequoia.packet import SignatureType

    for packet in own:
        if packet.signature_type == SignatureType.SubkeyBinding:
            if packet.key_validity_period is None:
                return None
            end: datetime = own[0].key_created + packet.key_validity_period
            return end
    return None


def _modulus_bits(packet: Any) -> int:
    """The length of an RSA or DSA key; other algorithms offer no weak ones."""
    algorithm = str(packet.key_algorithm)
    if not algorithm.startswith(("PublicKeyAlgorithm.RSA", "PublicKeyAlgorithm.DSA")):
        return _MIN_MODULUS_BITS
    # version, time of 4 bytes, algorithm; then the first number, its length in bits before it
    return int.from_bytes(packet.body[6:8])
