"""Removing what nobody needs from the store."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from typing import TYPE_CHECKING

from kvmrkt.appc.types import KEY_DIGITS, shorten_image_id
from kvmrkt.errors import ImageError
from kvmrkt.faults import reach
from kvmrkt.images.disk import storing
from kvmrkt.images.locks import folder_lock
from kvmrkt.images.tree import tree_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kvmrkt.images.store import Image, Store


def collect_garbage(
    store: Store, grace_ns: int, trees_in_use: set[str], images_in_use: set[str]
) -> Iterator[tuple[str, str]]:
    """Remove, and say what: ("image", ID), ("tree", ID), ("temporary file" or "orphan", name).

    Images go that were last used longer ago than the grace period and that no pod has; trees that
    no image and no pod refers to; then files of imports that were killed, and downloads that
    broke off longer ago than the grace period.
    """
    now_ns = time.time_ns()
    for image in store.images():
        if image.id not in images_in_use and now_ns - image.last_used_ns > grace_ns:
            store.remove(image.id)
            yield "image", shorten_image_id(image.id, KEY_DIGITS)
    images = store.images()
    wanted = trees_in_use | {name for image in images if (name := _tree_of(store, image))}
    yield from _unwanted_trees(store, wanted)
    yield from _stale_temporaries(store)
    yield from _old_downloads(store, (now_ns - grace_ns) / 1e9)
    with store.frozen() as claimed:
        orphans = list(_remove_orphans(store, claimed, claimed | images_in_use))
    yield from orphans


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
                reach("image-tree-removed")
            yield "tree", path.stem


def _stale_temporaries(store: Store) -> list[tuple[str, str]]:
    """Files of imports that were killed: those whose lock nobody holds."""
    folder = store.data.cas / "tmp"
    removed = []
    with storing(f"clean {folder}"):
        if not folder.exists():
            return []
        with folder_lock(folder, fcntl.LOCK_EX):
            for path in sorted(folder.iterdir()):
                if _unlink_unlocked(path):
                    reach("temporary-removed")
                    removed.append(("temporary file", path.name))
    return removed


def _unlink_unlocked(path: Path) -> bool:
    descriptor = -1
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return False  # in use, or gone already
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return True


def _old_downloads(store: Store, before_seconds: float) -> Iterator[tuple[str, str]]:
    """Downloads that nobody has gone on with. One that goes on meanwhile loses only its name."""
    for path in sorted((store.data.cas / "partial").glob("*")):
        with storing(f"remove {path}"):
            try:
                if path.stat().st_mtime > before_seconds:
                    continue
            except FileNotFoundError:
                continue
            path.unlink(missing_ok=True)
        yield "partial download", path.name


def _remove_orphans(
    store: Store, claimed: set[str], stage1_in_use: set[str]
) -> Iterator[tuple[str, str]]:
    """What belongs to images that the index does not have; a pod may outlive its stage1 image."""
    cas = store.data.cas
    for pattern in ("blob/sha512/*/*", "imageManifest/sha512/*/*", "signature/sha512/*/*"):
        for path in sorted(cas.glob(pattern)):
            if path.name not in claimed:
                with storing(f"remove {path}"):
                    path.unlink(missing_ok=True)
                yield "orphan", path.name
    for folder in sorted((cas / "stage1").glob("*")):
        if folder.name.removeprefix(".").removesuffix(".new") not in stage1_in_use:
            with storing(f"remove {folder}"):
                shutil.rmtree(folder)
            yield "stage1 files", folder.name
