"""Whether what the store has is still what was once taken in."""

from __future__ import annotations

import filecmp
from typing import TYPE_CHECKING, Literal

from kvmrkt.appc.types import HASH_PREFIX, KEY_DIGITS, shorten_image_id
from kvmrkt.errors import ArchiveError, SignatureError, StoreError
from kvmrkt.images.disk import storing, temporary
from kvmrkt.images.tree import render_tree, replace_tree, tree_path

if TYPE_CHECKING:
    from pathlib import Path

    from kvmrkt.images.signatures.trustedkeys import TrustedKeys
    from kvmrkt.images.store import Image, Store

TreeVerdict = Literal["good", "made anew", "not rendered"]


def verify_image(store: Store, image: Image, keys: TrustedKeys | None) -> TreeVerdict:
    """Check the image's archive, its signature if it has one, its manifest and its tree.

    A tree or a manifest that differs from what the archive gives is made anew. `keys` None leaves
    the signature alone. Raises StoreError for a damaged archive, SignatureError for a signature
    that is not, or no longer, good.
    """
    _check_archive(store, image)
    if keys is not None and image.signer:
        _check_signature(store, image, keys)
    return _check_tree(store, image)


def _check_archive(store: Store, image: Image) -> None:
    from kvmrkt.images import aci
    from kvmrkt.images.stream import TarStream, close_chunks, open_chunks

    try:
        with storing(f"read image {image.name}"), image.blob_path.open("rb", buffering=0) as blob:
            chunks = open_chunks(blob)
            try:
                stream = TarStream(chunks, store.limits.expanded_bytes, lambda _: None)
                contents = aci.check(stream, store.limits)
                digest = stream.finish()
            finally:
                close_chunks(chunks)
        if HASH_PREFIX + digest != image.id:
            raise ArchiveError("its content is not what its ID says")
    except (ArchiveError, StoreError) as error:
        key = shorten_image_id(image.id, KEY_DIGITS)
        raise StoreError(
            f'the archive of image "{image.name}" ("{key}") is damaged',
            hint=f"kvmrkt image rm {key}, then fetch it again",
        ) from error
    if image.manifest_bytes() != contents.manifest:
        action = f"restore the manifest of image {image.name}"
        with storing(action), temporary(store.data.cas, "manifest") as fresh:
            fresh.write_bytes(contents.manifest)
            fresh.replace(image.manifest_path)


def _check_signature(store: Store, image: Image, keys: TrustedKeys) -> None:
    from kvmrkt.images.signatures import openpgp

    path = store.signature_path(image.id)
    shown = f'image "{image.name}"'
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SignatureError(
            f"cannot verify {shown}: its signature is gone from the store",
            hint="remove the image and fetch it again",
        ) from error
    signature = openpgp.read_signature(data, f'signature "{path}"')
    openpgp.verify(signature, image.blob_path, keys.for_name(image.name), shown, name=image.name)


def _check_tree(store: Store, image: Image) -> TreeVerdict:
    from kvmrkt.images import squash

    manifest = image.manifest()
    path = tree_path(store, image, manifest)
    if not path.exists():
        return "not rendered"
    with temporary(store.data.cas, "tree") as fresh:
        epoch = squash.epoch_of(path)
        if epoch < image.newest_seconds:  # no tree is made like that: it is damaged
            epoch = squash.epoch_for(image.newest_seconds)
        render_tree(store, image, manifest, fresh, epoch_seconds=epoch)
        if _same(fresh, path):
            return "good"
        replace_tree(store, image, manifest, fresh)
        return "made anew"


def _same(one: Path, other: Path) -> bool:
    return filecmp.cmp(one, other, shallow=False)
