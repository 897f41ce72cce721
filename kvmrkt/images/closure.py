"""An image and the images below it, in the order their files are laid down (appc/spec, ace.md)."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvmrkt.errors import ImageError, ImageNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmrkt.appc.image_manifest import Dependency, ImageManifest
    from kvmrkt.images.merge import MergedTree
    from kvmrkt.images.store import Image, Store

_MAX_LAYERS = 500


@dataclass(frozen=True, slots=True)
class ImageLayer:
    """One image of a closure. `whitelist` has paths without a leading slash; None lets all pass."""

    image: Image
    whitelist: frozenset[str] | None


def closure(store: Store, image: Image, manifest: ImageManifest) -> list[ImageLayer]:
    """Dependencies depth-first in the order of their lists, the image itself last.

    An image's whitelist holds for all that lies below it too. Raises ImageNotFoundError for a
    dependency that is not in the store, ImageError for a circle.
    """
    layers: list[ImageLayer] = []
    _visit(store, image, manifest, None, (), layers)
    return layers


@contextmanager
def merged_closure(store: Store, layers: list[ImageLayer]) -> Iterator[MergedTree]:
    """The files of all layers over one another, to be written as one archive."""
    from kvmrkt.images.merge import Layer, merged

    with ExitStack() as stack:
        archives = [
            Layer(
                stack.enter_context(_uncompressed(store, layer.image)),
                whitelist=None
                if layer.whitelist is None
                else frozenset(os.fsencode(path) for path in layer.whitelist),
            )
            for layer in layers
        ]
        yield stack.enter_context(merged(archives, store.limits))


@contextmanager
def _uncompressed(store: Store, image: Image) -> Iterator[Path]:
    """A file with the image's archive, uncompressed, for as long as the body runs."""
    from kvmrkt.images.disk import storing, temporary
    from kvmrkt.images.stream import MAGIC_BYTES, compression_of

    with storing(f"read image {image.name}"), image.blob_path.open("rb") as blob:
        plain = compression_of(blob.read(MAGIC_BYTES)) is None
    if plain:
        yield image.blob_path
        return
    import shutil

    with temporary(store.data.cas, "layer") as path:
        with storing(f"unpack image {image.name}"), image.open_tar() as tar, path.open("wb") as out:
            shutil.copyfileobj(tar, out, 1 << 20)
        yield path


def _visit(
    store: Store,
    image: Image,
    manifest: ImageManifest,
    whitelist: frozenset[str] | None,
    above: tuple[str, ...],
    layers: list[ImageLayer],
) -> None:
    if image.id in above:
        raise ImageError(f'image "{image.name}" depends on itself')
    if manifest.path_whitelist:
        own = frozenset(_clean(path) for path in manifest.path_whitelist)
        whitelist = own if whitelist is None else whitelist & own
    for dependency in manifest.dependencies:
        below = _find(store, dependency, image)
        _visit(store, below, below.manifest(), whitelist, (*above, image.id), layers)
    layers.append(ImageLayer(image, whitelist))
    if len(layers) > _MAX_LAYERS:
        raise ImageError(f'image "{image.name}" stands on more than {_MAX_LAYERS} images')


def _find(store: Store, dependency: Dependency, parent: Image) -> Image:
    name = dependency.image_name
    labels = {label.name: label.value for label in dependency.labels}
    if dependency.image_id:
        found = store.find_by_hash(dependency.image_id)
        if found.name != name or not labels.items() <= found.labels.items():
            raise ImageError(
                f'image "{parent.name}" depends on "{name}" as {dependency.image_id},'
                f' but that is "{found.name}"'
            )
        return found
    by_name = store.find_by_name(name, labels)
    if by_name is None:
        shown = ",".join([name, *(f"{key}={value}" for key, value in labels.items())])
        raise ImageNotFoundError(
            f'image "{parent.name}" depends on "{shown}", which is not in the store',
            hint="fetch it first",
        )
    return by_name


def _clean(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))
