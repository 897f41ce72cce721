"""From what a person wrote to an image in the store."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kvmrkt.errors import ImageNotFoundError, SignatureError, UsageError
from kvmrkt.images.references import (
    FileReference,
    HashReference,
    NameReference,
    Reference,
    UrlReference,
    parse_reference,
)
from kvmrkt.images.store import file_source

if TYPE_CHECKING:
    from kvmrkt.config import InsecureOptions
    from kvmrkt.images.store import Image, Store

PULL_POLICIES = ("new", "update", "never")
"""`new`: the store, then the source; `update`: the source, if it changed; `never`: the store."""


def find_image(
    store: Store,
    text: str,
    *,
    insecure: InsecureOptions,
    pull_policy: str = "new",
    signature: str | os.PathLike[str] | None = None,
) -> Image:
    """The image the text names, fetched into the store if it must be; notes its use.

    Raises SignatureError, before anything of the image is parsed, if it would have to be verified
    and cannot; ImageNotFoundError if nothing answers to the text; UsageError for a text that names
    nothing; ArchiveError, ManifestError and StoreError as `Store.import_aci`.
    """
    if pull_policy not in PULL_POLICIES:
        raise UsageError(
            f'invalid pull policy "{pull_policy}": must be one of {", ".join(PULL_POLICIES)}'
        )
    image = _find(store, parse_reference(text), insecure, pull_policy, signature)
    store.touch(image.id)
    return image


def import_trusted(store: Store, path: Path) -> Image:
    """The image in a file that came with kvmrkt, without a signature; notes its use.

    Raises ImageNotFoundError if the file is not there.
    """
    image = _file(store, path)
    store.touch(image.id)
    return image


def find_in_store(store: Store, text: str) -> Image:
    """The image an image command's argument names: a hash prefix, or a name with labels.

    Raises ImageNotFoundError if the store has none.
    """
    reference = parse_reference(text, is_file=lambda _: False)
    if isinstance(reference, HashReference):
        return store.find_by_hash(reference.prefix)
    if isinstance(reference, NameReference):
        image = store.find_by_name(reference.name, dict(reference.labels))
        if image is not None:
            return image
        raise ImageNotFoundError(f'no image IDs found: nothing in the store is "{reference}"')
    raise UsageError(f'"{text}" is neither an image ID nor an image name')


def _find(
    store: Store,
    reference: Reference,
    insecure: InsecureOptions,
    pull_policy: str,
    signature: str | os.PathLike[str] | None,
) -> Image:
    if isinstance(reference, HashReference):
        return store.find_by_hash(reference.prefix)
    if isinstance(reference, NameReference):
        image = store.find_by_name(reference.name, dict(reference.labels))
        if image is None:
            raise _nothing(reference)
        return image
    if isinstance(reference, FileReference):
        if not insecure.image:
            _refuse_unverified(reference, signature)
        return _file(store, reference.path)
    if pull_policy != "update" and (known := store.known_source("url", reference.url)):
        return known[1]
    if pull_policy == "never":
        raise _nothing(reference)
    if not insecure.image:
        _refuse_unverified(reference, signature)
    from kvmrkt.images.http import fetch_aci

    return fetch_aci(store, reference.url, insecure=insecure)


def _file(store: Store, path: Path) -> Image:
    try:
        source = file_source(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ImageNotFoundError(f"open {path}: {reason}") from None
    return store.cached(source) or store.import_aci(path)


def _refuse_unverified(
    reference: FileReference | UrlReference, signature: str | os.PathLike[str] | None
) -> None:
    """Say why the image's signature does not make it trusted. Always raises."""
    where = os.fspath(signature or f"{reference}.asc")
    hint = "use --insecure-options=image to take the image without a signature"
    if isinstance(reference, FileReference) and not os.path.lexists(reference.path):
        raise ImageNotFoundError(f"open {reference}: {os.strerror(errno.ENOENT).lower()}")
    if isinstance(reference, FileReference) and not os.path.lexists(where):
        raise SignatureError(
            f'cannot verify image "{reference}": error opening signature file:'
            f" open {where}: no such file or directory",
            hint=hint,
        )
    raise SignatureError(
        f'cannot verify image "{reference}": no key is trusted to sign images', hint=hint
    )


def _nothing(reference: Reference) -> ImageNotFoundError:
    return ImageNotFoundError(
        f'unable to fetch image from image name "{reference}": either image was not found in the'
        " store or store was disabled and fetching from remote yielded nothing or it was disabled",
        hint="fetch it from a file or an https URL first: kvmrkt fetch",
    )
