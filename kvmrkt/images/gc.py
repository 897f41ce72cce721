"""Removing what nobody needs from the store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kvmrkt.appc.types import KEY_DIGITS, shorten_image_id
from kvmrkt.errors import ImageError
from kvmrkt.images.store import storing
from kvmrkt.images.tree import tree_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kvmrkt.images.store import Image, Store

_ORPHAN_SECONDS = 3600
"""A file that no image claims may belong to an import that goes on; it is not removed sooner."""


def collect_garbage(
    store: Store, grace_ns: int, trees_in_use: set[str], images_in_use: set[str]
) -> Iterator[tuple[str, str]]:
    """Remove, and say what: ("image", ID), ("tree", ID), ("temporary file" or "orphan", name).

    Images go that were last used longer ago than the grace period and that no pod has; trees that
    no image and no pod refers to; then files of imports that were killed.
    """
    now_ns = time.time_ns()
    for image in store.images():
        if image.id not in images_in_use and now_ns - image.last_used_ns > grace_ns:
            store.remove(image.id)
            yield "image", shorten_image_id(image.id, KEY_DIGITS)
    images = store.images()
    wanted = trees_in_use | {name for image in images if (name := _tree_of(store, image))}
    yield from _unwanted_trees(store, wanted)
    claimed = {image.id for image in images}
    yield from _stale_files(store, claimed, now_ns / 1e9 - max(grace_ns / 1e9, _ORPHAN_SECONDS))


def _tree_of(store: Store, image: Image) -> str | None:
    try:
        return tree_id(store, image, image.manifest())
    except ImageError:
        return None  # a dependency is gone: the tree cannot be asked for any more


def _unwanted_trees(store: Store, wanted: set[str]) -> Iterator[tuple[str, str]]:
    for path in sorted((store.data.cas / "tree").glob("*.squashfs")):
        if path.stem not in wanted:
            with storing(f"remove {path}"):
                path.unlink(missing_ok=True)
            yield "tree", path.stem


def _stale_files(
    store: Store, claimed: set[str], before_seconds: float
) -> Iterator[tuple[str, str]]:
    cas = store.data.cas
    places: list[tuple[str, Iterator[Path]]] = [
        ("temporary file", (cas / "tmp").glob("*")),
        ("orphan", cas.glob("blob/sha512/*/*")),
        ("orphan", cas.glob("imageManifest/sha512/*/*")),
    ]
    for kind, paths in places:
        for path in sorted(paths):
            with storing(f"remove {path}"):
                try:
                    old = path.stat().st_mtime < before_seconds
                except FileNotFoundError:
                    continue
                if path.name in claimed or not old:
                    continue
                path.unlink(missing_ok=True)
            yield kind, path.name
    for folder in sorted((cas / "stage1").glob("*")):
        if folder.name not in claimed:
            import shutil

            with storing(f"remove {folder}"):
                shutil.rmtree(folder)
            yield "stage1 files", folder.name
