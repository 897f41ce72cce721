"""Root filesystems: what an image and its dependencies add up to, as one read-only squashfs.

The squashfs holds `manifest` and `rootfs/` at its top, as the archive does, so that an image
without dependencies goes to mksquashfs as it lies in the store, untouched by Python; whoever
mounts it takes the folder `rootfs` inside. lz4, because a guest under software emulation pays for
each instruction of decompressing.

The same image and epoch give the same bytes, and the epoch stands in the squashfs: so a tree can
be made again and compared. Folders the archive lacks, which would get the current time, are given
to mksquashfs in front of it.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from kvmrkt.errors import ImageError
from kvmrkt.faults import reach
from kvmrkt.images.disk import FOLDER_MODE, storing, sync_folder, temporary

if TYPE_CHECKING:
    from pathlib import Path

    from kvmrkt.appc.image_manifest import ImageManifest
    from kvmrkt.images.closure import ImageLayer
    from kvmrkt.images.store import Image, Store

_FORMAT = 1
"""Part of every tree's name: raised when the same image shall give another tree."""


def tree_for(store: Store, image_id: str, *, manifest: ImageManifest | None = None) -> Path:
    """The squashfs of an image; made now if the store lacks it, by one process at a time.

    `manifest` spares reading it again. Raises ImageNotFoundError for a dependency that is not in
    the store, StoreError if the tree cannot be made.
    """
    image = store.get(image_id)
    manifest = manifest or image.manifest()
    path = tree_path(store, image, manifest)
    if path.exists():
        return path
    from kvmrkt.images.locks import locked

    with locked(_lock_path(store, path)):
        if not path.exists():
            with temporary(store.data.cas, "tree") as scratch:
                render_tree(store, image, manifest, scratch)
                _place(scratch, path)
    return path


def adopt_tree(store: Store, image: Image, fresh: Path) -> None:
    """Take a squashfs made of the image's own archive as its tree, if it is of any use as one."""
    from kvmrkt.images.locks import locked

    manifest = image.manifest()
    if not _stands_alone(manifest):
        return
    path = tree_path(store, image, manifest)
    with locked(_lock_path(store, path)):
        if not path.exists():
            _place(fresh, path)


def replace_tree(store: Store, image: Image, manifest: ImageManifest, fresh: Path) -> None:
    """Put another squashfs into the place of the image's tree; pods that run keep the old one."""
    from kvmrkt.images.locks import locked

    path = tree_path(store, image, manifest)
    with locked(_lock_path(store, path)):
        _place(fresh, path)


def render_tree(
    store: Store,
    image: Image,
    manifest: ImageManifest,
    out: Path,
    *,
    epoch_seconds: int | None = None,
) -> None:
    """Make the squashfs `out`, an existing empty file, of the image and what it depends on.

    `epoch_seconds` makes it like one of that epoch; without it the epoch is now.
    """
    from kvmrkt.images import squash

    if _stands_alone(manifest):
        epoch = epoch_seconds or squash.epoch_for(image.newest_seconds)
        _render_archive(image, out, epoch)
        return
    from kvmrkt.images.closure import closure, merged_closure

    layers = closure(store, image, manifest)
    with storing(f"read image {image.name}"), merged_closure(store, layers) as merger:
        epoch = epoch_seconds or squash.epoch_for(merger.newest_seconds)
        with squash.squashing(out, epoch) as pipe:
            merger.write(image.manifest_bytes(), pipe.write)


def tree_path(store: Store, image: Image, manifest: ImageManifest) -> Path:
    """Where the image's tree is, or would be."""
    return store.data.cas / "tree" / f"{tree_id(store, image, manifest)}.squashfs"


def tree_size_bytes(store: Store, image: Image) -> int:
    """The size of the image's tree, 0 if none has been made."""
    try:
        return tree_path(store, image, image.manifest()).stat().st_size
    except (ImageError, FileNotFoundError):
        return 0


def tree_id(store: Store, image: Image, manifest: ImageManifest) -> str:
    """The name of an image's tree: rkt's form, a hash over what the tree is made of.

    An image that stands alone is hashed already: its tree is named by its own ID.
    """
    if _stands_alone(manifest):
        return f"deps-{image.id}-{_FORMAT}"
    import hashlib

    from kvmrkt.appc.types import HASH_PREFIX
    from kvmrkt.images.closure import closure

    parts = [_fingerprint(layer) for layer in closure(store, image, manifest)]
    digest = hashlib.sha512("\n".join(parts).encode()).hexdigest()
    return f"deps-{HASH_PREFIX}{digest}-{_FORMAT}"


def _fingerprint(layer: ImageLayer) -> str:
    return f"{layer.image.id}:{','.join(sorted(layer.whitelist or ()))}:{layer.whitelist is None}"


def _stands_alone(manifest: ImageManifest) -> bool:
    return not manifest.dependencies and not manifest.path_whitelist


def _lock_path(store: Store, tree: Path) -> Path:
    """By the first two digits of the tree's hash: 256 locks are enough, and stay few."""
    digits = tree.name.partition("sha512-")[2][:2]
    return store.data.cas / "treestorelocks" / digits


def _place(fresh: Path, path: Path) -> None:
    with storing(f"store the root filesystem {path.name}"):
        path.parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
        fresh.replace(path)
        reach("tree-placed")
        sync_folder(path.parent)


def _render_archive(image: Image, out: Path, epoch_seconds: int) -> None:
    from kvmrkt.images import squash, stream

    with ExitStack() as stack:
        stack.enter_context(storing(f"read image {image.name}"))
        blob = stack.enter_context(image.blob_path.open("rb", buffering=0))
        plain = stream.compression_of(os.pread(blob.fileno(), stream.MAGIC_BYTES, 0)) is None
        if plain and not image.implied_folders:
            squash.squash_file(out, blob, epoch_seconds)
            return
        from kvmrkt.images.tar import DIRECTORY
        from kvmrkt.images.tar_headers import header

        pipe = stack.enter_context(squash.squashing(out, epoch_seconds))
        for name in image.implied_folders:
            pipe.write(header(name, DIRECTORY, mode=0o755, mtime_seconds=image.newest_seconds))
        for chunk in stream.open_chunks(blob):
            pipe.write(chunk)
