"""Root filesystems: what an image and its dependencies add up to, as one read-only squashfs.

The squashfs holds `manifest` and `rootfs/` at its top, as the archive does, so that an image
without dependencies goes to mksquashfs as it lies in the store, untouched by Python; whoever
mounts it takes the folder `rootfs` inside. lz4, because a guest under software emulation pays for
each instruction of decompressing.

The same image gives the same bytes: mksquashfs gives its own root folder the current time, but
cuts all times to SOURCE_DATE_EPOCH, which is set to the archive's newest; and folders the archive
lacks, which would get the current time too, are given to it in front.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kvmrkt.errors import ImageError
from kvmrkt.images.store import storing, sync_folder, temporary

if TYPE_CHECKING:
    from pathlib import Path

    from kvmrkt.appc.image_manifest import ImageManifest
    from kvmrkt.images.store import Image, Store

_FORMAT = 1
"""Part of every tree's name: raised when the same image shall give another tree."""

_SEND_BYTES = 16 << 20
_FOLDER_MODE = 0o750


def tree_for(store: Store, image_id: str, *, manifest: ImageManifest | None = None) -> Path:
    """The squashfs of an image; made now if the store lacks it, by one process at a time.

    `manifest` spares reading it again. Raises ImageNotFoundError for a dependency that is not in
    the store, StoreError if the tree cannot be made.
    """
    image = store.get(image_id)
    manifest = manifest or image.manifest()
    plain = not manifest.dependencies and not manifest.path_whitelist
    name = tree_id(store, image, manifest)
    path = _tree_path(store, name)
    if path.exists():
        return path
    from kvmrkt.images.locks import locked

    with locked(store.data.cas / "treestorelocks" / _digits(name)):
        if path.exists():
            return path
        with storing(f"make the folder {path.parent}"):
            path.parent.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        with temporary(store, "tree") as scratch:
            if plain:
                _render_archive(image, scratch)
            else:
                _render_closure(store, image, manifest, scratch)
            with storing(f"store the root filesystem of image {image.name}"):
                scratch.replace(path)
                sync_folder(path.parent)
    return path


def tree_size_bytes(store: Store, image: Image) -> int:
    """The size of the image's tree, 0 if none has been made."""
    try:
        name = tree_id(store, image, image.manifest())
        return _tree_path(store, name).stat().st_size
    except (ImageError, FileNotFoundError):
        return 0


def tree_id(store: Store, image: Image, manifest: ImageManifest) -> str:
    """The name of an image's tree: rkt's form, a hash over what the tree is made of.

    An image that stands alone is hashed already: its tree is named by its own ID.
    """
    if not manifest.dependencies and not manifest.path_whitelist:
        return f"deps-{image.id}-{_FORMAT}"
    import hashlib

    from kvmrkt.appc.types import HASH_PREFIX
    from kvmrkt.images.closure import closure

    parts = [
        f"{layer.image.id}:{','.join(sorted(layer.whitelist or ()))}:{layer.whitelist is None}"
        for layer in closure(store, image, manifest)
    ]
    digest = hashlib.sha512("\n".join(parts).encode()).hexdigest()
    return f"deps-{HASH_PREFIX}{digest}-{_FORMAT}"


def _digits(name: str) -> str:
    """The first two digits of the hash in a tree's name: 256 locks are enough, and stay few."""
    return name.partition("sha512-")[2][:2]


def _tree_path(store: Store, name: str) -> Path:
    return store.data.cas / "tree" / f"{name}.squashfs"


def _render_archive(image: Image, scratch: Path) -> None:
    from kvmrkt.images import squash

    with storing(f"read image {image.name}"), image.blob_path.open("rb") as blob:
        if not image.implied_folders:
            squash.squash_file(scratch, blob, image.newest_seconds)
            return
        from kvmrkt.images.layers import folder_headers

        with squash.squashing(scratch, image.newest_seconds) as pipe:
            pipe.write(folder_headers(image.implied_folders, image.newest_seconds))
            pipe.flush()
            while os.sendfile(pipe.fileno(), blob.fileno(), None, _SEND_BYTES):
                continue


def _render_closure(store: Store, image: Image, manifest: ImageManifest, scratch: Path) -> None:
    from kvmrkt.images import squash
    from kvmrkt.images.closure import closure
    from kvmrkt.images.layers import write_merged

    layers = closure(store, image, manifest)
    newest = max(layer.image.newest_seconds for layer in layers)
    with storing(f"read image {image.name}"), squash.squashing(scratch, newest) as pipe:
        write_merged(layers, pipe, newest)
