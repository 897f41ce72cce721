"""The stage1 image: which one, and what its engine takes out of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from kvmrkt.appc.image_manifest import parse_image_manifest
from kvmrkt.configuration import Stage1Default  # noqa: TC001 - msgspec reads the types
from kvmrkt.errors import ImageError, ImageNotFoundError, ManifestError
from kvmrkt.images.find import find_image, find_in_store, import_trusted
from kvmrkt.stage1.engine import ENGINE_ANNOTATION, find_engine

if TYPE_CHECKING:
    from kvmrkt.appc.image_manifest import ImageManifest
    from kvmrkt.images.policy import FetchPolicy
    from kvmrkt.images.store import Image, Store
    from kvmrkt.stage1.engine import Engine

INTERFACE_VERSION = 6
"""The newest stage1 interface kvmrkt speaks (rkt 1.30's)."""

IMAGE_FILE = "stage1-kvm.aci"
IMAGES_FOLDER = "stage1-images"

_RKT = "coreos.com/rkt/stage1/"
_REQUIRED = (f"{_RKT}run", f"{_RKT}enter", f"{_RKT}gc", ENGINE_ANNOTATION)

StageKind = Literal["path", "name", "hash", "url", "from-dir", "default"]


class Stage1Choice(msgspec.Struct, frozen=True):
    """Which stage1 image to use: one of rkt's `--stage1-…` flags and its value."""

    kind: StageKind
    value: str = ""


class Stage1Sources(msgspec.Struct, frozen=True):
    """Where this host has its stage1 images: the folder of those installed, and the usual one."""

    folder: Path
    default: Stage1Default | None = None
    """None for the image that is installed with kvmrkt."""


class Stage1Image(msgspec.Struct, frozen=True):
    """A stage1 image that its engine can use, with what the engine needs of it in `folder`."""

    id: str
    manifest: ImageManifest
    folder: Path

    @property
    def engine(self) -> Engine:
        """The engine that runs pods with this image."""
        return find_engine(self.manifest)


def find_stage1(
    store: Store, choice: Stage1Choice, policy: FetchPolicy, sources: Stage1Sources
) -> Stage1Image:
    """The chosen stage1 image, in the store, with what its engine needs extracted.

    The default image, one out of the images folder, and one that is in the store already need no
    signature. Raises ImageNotFoundError, SignatureError and the like as `find_image`, ManifestError
    if the image is no stage1 image, or for an engine that is not known.
    """
    return _extracted(store, _find(store, choice, policy, sources))


def stage1_of_pod(store: Store, image_id: str, manifest: bytes) -> Stage1Image:
    """The image that a pod was prepared with: `manifest` is what the pod kept of it.

    Raises ImageNotFoundError if neither the image nor what was extracted of it is there any more.
    """
    folder = _folder(store, image_id)
    if folder.exists():
        return Stage1Image(image_id, parse_image_manifest(manifest), folder)
    return _extracted(store, store.get(image_id))


def _extracted(store: Store, image: Image) -> Stage1Image:
    from kvmrkt.stage1.boot_files import boot_files

    manifest = image.manifest()
    _check(manifest)
    files = find_engine(manifest).boot_files(manifest)
    return Stage1Image(
        id=image.id,
        manifest=manifest,
        folder=boot_files(store, image, _folder(store, image.id), files),
    )


def _folder(store: Store, image_id: str) -> Path:
    return store.data.cas / "stage1" / image_id


def default_paths(folder: Path) -> tuple[Path, ...]:
    """Where the default image is looked for: the installed one, then the checkout's own."""
    checkout = Path(__file__).resolve().parents[2]
    return folder / IMAGE_FILE, checkout / "build" / IMAGE_FILE


def _find(store: Store, choice: Stage1Choice, policy: FetchPolicy, sources: Stage1Sources) -> Image:
    if choice.kind == "default":
        return _find_default(store, policy, sources)
    if choice.kind == "from-dir":
        if "/" in choice.value:
            raise ImageError(f'--stage1-from-dir takes the name of a file, not "{choice.value}"')
        return import_trusted(store, sources.folder / choice.value)
    if choice.kind in ("name", "hash"):
        image = find_in_store(store, choice.value)
        store.touch(image.id)
        return image
    text = choice.value
    if choice.kind == "path":
        path = Path(text).absolute()
        if path.parent == sources.folder or path in default_paths(sources.folder):
            return import_trusted(store, path)
        text = os.fspath(path)
    return find_image(store, text, policy, dependencies=False)


def _find_default(store: Store, policy: FetchPolicy, sources: Stage1Sources) -> Image:
    """The configured image, by name and version if the store has it, else from its location."""
    configured = sources.default
    if configured is None:
        return _installed(store, sources.folder)
    try:
        if configured.name:
            name = f"{configured.name}:{configured.version}"
            return _find(store, Stage1Choice("name", name), policy, sources)
    except ImageNotFoundError as error:
        if not configured.location:
            raise ImageNotFoundError(
                f'the configured stage1 image "{name}" is not in the store',
                hint="fetch it, or give its location in stage1.d as well",
            ) from error
    location = configured.location or ""
    kind: StageKind = "path" if location.startswith("/") else "url"
    return _find(store, Stage1Choice(kind, location), policy, sources)


def _installed(store: Store, folder: Path) -> Image:
    paths = default_paths(folder)
    for path in paths:
        if path.exists():
            return import_trusted(store, path)
    looked_at = " nor ".join(map(os.fspath, paths))
    raise ImageNotFoundError(
        f"there is no default stage1 image: neither {looked_at} exists",
        hint="build it with make, or use --stage1-{path,url,name,hash,from-dir}",
    )


def _check(manifest: ImageManifest) -> None:
    for name in _REQUIRED:
        if not manifest.annotation(name):
            raise ManifestError(
                f'image "{manifest.name}" is not a stage1 image for kvmrkt:'
                f" its manifest lacks the annotation {name}",
                hint="choose another with --stage1-{path,url,name,hash,from-dir}",
            )
    version = manifest.annotation(f"{_RKT}interface-version") or "1"
    if not version.isascii() or not version.isdigit() or not 1 <= int(version) <= INTERFACE_VERSION:
        raise ManifestError(
            f'stage1 image "{manifest.name}" has the interface version "{version}";'
            f" kvmrkt speaks 1 to {INTERFACE_VERSION}"
        )
