"""An image and the images below it, in the order their files are laid down (appc/spec, ace.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmrkt.errors import ImageError, ImageNotFoundError

if TYPE_CHECKING:
    from kvmrkt.appc.image_manifest import Dependency, ImageManifest
    from kvmrkt.images.store import Image, Store

_MAX_LAYERS = 500


@dataclass(frozen=True, slots=True)
class Layer:
    """One image of a closure. `whitelist` has paths without a leading slash; None lets all pass."""

    image: Image
    whitelist: frozenset[str] | None


def closure(store: Store, image: Image, manifest: ImageManifest) -> list[Layer]:
    """Dependencies depth-first in the order of their lists, the image itself last.

    An image's whitelist holds for all that lies below it too. Raises ImageNotFoundError for a
    dependency that is not in the store, ImageError for a circle.
    """
    layers: list[Layer] = []
    _visit(store, image, manifest, None, (), layers)
    return layers


def _visit(
    store: Store,
    image: Image,
    manifest: ImageManifest,
    whitelist: frozenset[str] | None,
    above: tuple[str, ...],
    layers: list[Layer],
) -> None:
    if image.id in above:
        raise ImageError(f'image "{image.name}" depends on itself')
    if manifest.path_whitelist:
        own = frozenset(_clean(path) for path in manifest.path_whitelist)
        whitelist = own if whitelist is None else whitelist & own
    for dependency in manifest.dependencies:
        below = _find(store, dependency, image)
        _visit(store, below, below.manifest(), whitelist, (*above, image.id), layers)
    layers.append(Layer(image, whitelist))
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
