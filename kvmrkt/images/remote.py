"""Images from the web: by URL, or by a name that leads to one (appc/spec, discovery.md)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from kvmrkt.errors import ImageNotFoundError, SignatureError
from kvmrkt.images.disk import FOLDER_MODE, storing
from kvmrkt.images.find import file_gate, is_trusted, make_gate
from kvmrkt.images.importing import import_archive
from kvmrkt.images.signatures.gate import Gate
from kvmrkt.images.store import Source
from kvmrkt.images.web.http import fetch_small, shown_url

if TYPE_CHECKING:
    from pathlib import Path

    from kvmrkt.images.policy import FetchPolicy
    from kvmrkt.images.references import NameReference
    from kvmrkt.images.store import Image, KnownSource, Store

_MAX_SIGNATURE_BYTES = 1 << 20
_DEFERRED = 202
"""What a server answers that has the signature only once the image was asked for (rkt)."""


class _Wanted(NamedTuple):
    """What is to be fetched from where."""

    url: str
    signature_url: str
    reference: NameReference | None
    latest: bool

    @property
    def shown(self) -> str:
        return f'"{self.reference or shown_url(self.url)}"'


def fetch_url(store: Store, url: str, policy: FetchPolicy, signature: Path | None) -> Image:
    """The image at a URL; nothing is downloaded that the store has and that did not change.

    Raises SignatureError, ImageNotFoundError, ImageError and what `import_archive` raises.
    """
    path, query, rest = url.partition("?")
    wanted = _Wanted(url, f"{path}.asc{query}{rest}", None, latest=False)
    return _fetch(store, wanted, policy, signature)


def fetch_name(
    store: Store, reference: NameReference, policy: FetchPolicy, signature: Path | None
) -> Image:
    """The image that a name leads to by discovery; it must be what was asked for.

    If no key is trusted for the name, those it leads to are offered first (`policy.confirm`).
    """
    from kvmrkt.images.web.discovery import discover

    labels = dict(reference.labels)
    found = discover(
        reference.name, labels, insecure=policy.insecure, credentials=policy.credentials
    )
    if not policy.insecure.image:
        from kvmrkt.images.signatures.trust import discover_and_add

        discover_and_add(reference.name, policy)
    latest = "version" not in labels
    wanted = _Wanted(found.aci_url, found.signature_url, reference, latest)
    return _fetch(store, wanted, policy, signature)


def _fetch(store: Store, wanted: _Wanted, policy: FetchPolicy, signature: Path | None) -> Image:
    before = store.known_source("url", wanted.url)
    with store.source_lock(Source("url", wanted.url, "")):
        known = store.known_source("url", wanted.url)
        if known is not None and not is_trusted(known.image, policy):
            known = None
        fresh = known is not None and known.expires_seconds > time.time()
        if known is not None and (fresh or known != before):  # or somebody was faster
            return known.image
        gate = None
        if known is None:
            gate = _gate(wanted, policy, signature)
        return _download(store, wanted, policy, signature, known, gate)


def _download(
    store: Store,
    wanted: _Wanted,
    policy: FetchPolicy,
    signature: Path | None,
    known: KnownSource | None,
    gate: Gate | None,
) -> Image:
    from kvmrkt.images.web.download import download

    folder = store.data.cas / "partial"
    with storing(f"make the folder {folder}"):
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    with download(
        wanted.url,
        folder,
        insecure=policy.insecure,
        credentials=policy.credentials,
        known_etag=known.stamp if known else "",
        limit_bytes=policy.max_download_bytes,
        progress=policy.progress,
    ) as got:
        if got is None:
            assert known is not None
            return known.image
        gate = gate or _gate(wanted, policy, signature, deferred=False)
        expires = int(time.time()) + got.max_age_seconds if got.max_age_seconds else 0
        source = Source("url", wanted.url, got.etag, wanted.latest, expires)
        return import_archive(store, got.path, wanted.shown, source, gate)


def _gate(
    wanted: _Wanted, policy: FetchPolicy, signature: Path | None, *, deferred: bool = True
) -> Gate | None:
    """The gate for the image; None if its signature is there only after the download."""
    reference = wanted.reference
    if policy.insecure.image:
        return Gate(reference.name, dict(reference.labels)) if reference else Gate()
    if signature is not None:
        return file_gate(wanted.shown, policy, signature, reference)
    try:
        answer = fetch_small(
            wanted.signature_url,
            insecure=policy.insecure,
            credentials=policy.credentials,
            limit_bytes=_MAX_SIGNATURE_BYTES,
            action=f'download the signature "{shown_url(wanted.signature_url)}"',
        )
    except ImageNotFoundError as error:
        raise SignatureError(
            f"cannot verify image {wanted.shown}: the server has no signature of it",
            hint="use --insecure-options=image to take the image without a signature",
        ) from error
    if answer.status == _DEFERRED:
        if not deferred:
            raise SignatureError(
                f"cannot verify image {wanted.shown}: the server has still no signature of it"
            )
        policy.report("server requested deferring the signature download")
        return None
    return make_gate(wanted.shown, policy, answer.body, shown_url(wanted.signature_url), reference)
