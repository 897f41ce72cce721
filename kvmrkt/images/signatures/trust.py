"""Making keys trusted: from files, from the web, or from where an image's name leads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.errors import ImageError, KvmrktError, SignatureError
from kvmrkt.images.signatures.openpgp import PublicKey, read_keys
from kvmrkt.images.signatures.packets import MAX_BYTES
from kvmrkt.images.signatures.problems import printable
from kvmrkt.images.signatures.trustedkeys import read_key_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvmrkt.config import InsecureOptions
    from kvmrkt.images.policy import FetchPolicy
    from kvmrkt.images.signatures.trustedkeys import TrustedKeys
    from kvmrkt.images.web.credentials import Credentials


class Review(msgspec.Struct, frozen=True):
    """What a person decides about: the keys of one source, and for which images."""

    prefix: str
    """Empty for every image."""
    source: str
    keys: tuple[PublicKey, ...]

    def lines(self) -> list[str]:
        """Fingerprints and identities, in rkt's form."""
        shown: list[str] = []
        for key in self.keys:
            shown.append(f"gpg key fingerprint is: {spaced_fingerprint(key.fingerprint)}")
            shown += [f"    Subkey fingerprint: {spaced_fingerprint(one)}" for one in key.subkeys]
            shown += [f"\t{identity}" for identity in key.identities]
            if key.problem:
                shown.append(f"    warning: this key {key.problem}; nothing it signed is accepted")
        return shown


def add_keys(
    keys: TrustedKeys,
    sources: Sequence[str],
    *,
    prefix: str | None,
    insecure: InsecureOptions,
    credentials: Credentials | None = None,
    confirm: Callable[[Review], bool] | None = None,
    skip_review: bool = False,
    trust_keys_from_https: bool = False,
    report: Callable[[str], None],
    note: Callable[[str], None] | None = None,
) -> list[Path]:
    """Trust the keys of each source, a file or a URL, for a prefix or (None) for every image.

    `confirm` is asked about each source, unless `skip_review`, or unless it came over https and
    `trust_keys_from_https`; None when there is nobody to ask. `insecure.http` allows plain http.
    `report` is told what a person must see, `note` the rest. Returns the files written.

    Raises ImageError for a source that cannot be had, SignatureError for what holds no public
    keys or when nobody can be asked, ConfigError if a key cannot be stored.
    """
    note = note or report
    written: list[Path] = []
    for source in sources:
        data, authentic = _content(source, insecure, credentials)
        found = read_keys(data, f"error reading the key {quoted(source)}")
        review = Review(prefix or "", source, tuple(found))
        note(f"prefix: {quoted(review.prefix)}\nkey: {quoted(source)}")
        for line in review.lines():
            report(line)
        unasked = skip_review or (trust_keys_from_https and authentic)
        if not unasked and not _ask(review, confirm):
            note(f"not trusting {quoted(source)}")
            continue
        how = "without" if unasked else "after"
        report(
            f"Trusting {quoted(source)} for prefix {quoted(review.prefix)} {how} fingerprint"
            " review."
        )
        for key in found:
            path = keys.add(key, prefix)
            what = "root key" if prefix is None else f"key for prefix {quoted(prefix)}"
            report(f"Added {what} at {quoted(str(path))}")
            written.append(path)
    return written


def key_locations(
    prefix: str, *, insecure: InsecureOptions, credentials: Credentials | None = None
) -> list[str]:
    """The URLs of keys that the prefix itself names, by meta discovery; at least one.

    Raises ImageError if there are none.
    """
    from kvmrkt.images.web.discovery import discover_keys

    attempt = "error determining key location: prefix meta discovery error"
    try:
        found = discover_keys(prefix, insecure=insecure, credentials=credentials)
    except ImageError as error:
        raise ImageError(attempt, hint=error.hint) from error
    # A page on the web must not name files of this host.
    found = [url for url in found if url.lower().startswith(("https://", "http://"))]
    if not found:
        raise ImageError(f"{attempt}: meta discovery on {prefix} resulted in no keys")
    return found


def discover_and_add(name: str, policy: FetchPolicy) -> None:
    """Before a signed image is fetched by its name: offer the keys that the name leads to.

    Does nothing if a key is trusted for a prefix of the name already. What fails is reported and
    no error: a root key may still vouch for the image.
    """
    insecure, keys = policy.insecure, policy.keys
    if keys is None:
        return
    if keys.has_prefix_keys(name):
        policy.report(f"keys already exist for prefix {quoted(name)}, not fetching again")
        return
    if insecure.tls and not insecure.pubkey:
        return  # whoever answers could name any key
    if insecure.pubkey:
        policy.report("signing keys may be downloaded from an insecure connection")
    insecure = insecure._replace(http=insecure.http and insecure.pubkey)
    credentials = policy.credentials
    try:
        sources = key_locations(name, insecure=insecure, credentials=credentials)
        add_keys(
            keys,
            sources,
            prefix=name,
            insecure=insecure,
            credentials=credentials,
            confirm=policy.confirm,
            trust_keys_from_https=policy.trust_keys_from_https,
            report=policy.report,
        )
    except KvmrktError as error:
        policy.report(": ".join(error.causes()))
        if error.hint:
            policy.report(f"  hint: {error.hint}")


def spaced_fingerprint(fingerprint: str) -> str:
    """A fingerprint as gpg prints it: groups of four, a wider gap in the middle."""
    digits = fingerprint.upper()
    groups = [digits[start : start + 4] for start in range(0, len(digits), 4)]
    half = len(groups) // 2
    return " ".join(groups[:half]) + "  " + " ".join(groups[half:])


def quoted(text: str) -> str:
    """The text in double quotes, safe to print."""
    return '"' + printable(text).replace('"', '\\"') + '"'


def _content(
    source: str, insecure: InsecureOptions, credentials: Credentials | None
) -> tuple[bytes, bool]:
    """The bytes of a source, and whether https vouches for where they came from."""
    attempt = f"error accessing the key {quoted(source)}"
    scheme, mark, _ = source.partition("://")
    scheme = scheme.lower() if mark else ""
    if scheme == "http" and not insecure.http:
        raise ImageError(
            f"{attempt}: --insecure-allow-http required for http URLs",
            hint="only do so if you compare the fingerprint with one you know",
        )
    try:
        if not scheme:
            return read_key_file(Path(source)), False
        if scheme in ("http", "https"):
            from kvmrkt.images.web.http import fetch_small

            answer = fetch_small(
                source, insecure=insecure, credentials=credentials, limit_bytes=MAX_BYTES
            )
            verified = insecure.pubkey or not insecure.tls
            is_https = scheme == "https" and answer.url.lower().startswith("https://")
            return answer.body, is_https and verified
    except ImageError as error:
        raise ImageError(attempt, hint=error.hint) from error
    raise ImageError(f"{attempt}: only local files and http or https URLs supported")


def _ask(review: Review, confirm: Callable[[Review], bool] | None) -> bool:
    if confirm is None:
        scope = f"--prefix {quoted(review.prefix)}" if review.prefix else "--root"
        raise SignatureError(
            "error reviewing key: unable to ask user to review fingerprint due to lack of tty",
            hint=f"to trust the key, run on a terminal: kvmrkt trust {scope}"
            f" {printable(review.source)}; or give --skip-fingerprint-review to trust, or"
            " --trust-keys-from-https",
        )
    return confirm(review)
