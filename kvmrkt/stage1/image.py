"""The stage1 image: which one, and what the engine takes out of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from kvmrkt.errors import ImageError, ImageNotFoundError, ManifestError
from kvmrkt.images.find import find_image, find_in_store, import_trusted

if TYPE_CHECKING:
    from kvmrkt.appc.image_manifest import ImageManifest
    from kvmrkt.images.policy import FetchPolicy
    from kvmrkt.images.store import Image, Store

INTERFACE_VERSION = 6
"""The newest stage1 interface kvmrkt speaks (rkt 1.30's)."""

IMAGE_FILE = "stage1-kvm.aci"
IMAGES_FOLDER = "stage1-images"

_RKT = "coreos.com/rkt/stage1/"
_ENGINE = "kvmrkt.io/stage1/engine"
_KERNEL = "kvmrkt.io/stage1/kvm/kernel"
_KERNEL_TCG = "kvmrkt.io/stage1/kvm/kernel-tcg"
_INITRD = "kvmrkt.io/stage1/kvm/initrd"
_PARAMETERS = "kvmrkt.io/stage1/kvm/kernel-parameters"
_REQUIRED = (f"{_RKT}run", f"{_RKT}enter", f"{_RKT}gc", _ENGINE, _KERNEL, _INITRD)

StageKind = Literal["path", "name", "hash", "url", "from-dir", "default"]


class Stage1Choice(msgspec.Struct, frozen=True):
    """Which stage1 image to use: one of rkt's `--stage1-…` flags and its value."""

    kind: StageKind
    value: str = ""


class Stage1Image(msgspec.Struct, frozen=True):
    """A stage1 image of the kvm engine, its boot files on this host's disk."""

    image: Image
    manifest: ImageManifest
    folder: Path
    kernel_parameters: tuple[str, ...]

    @property
    def initrd(self) -> Path:
        """The initial RAM disk with the agent."""
        return self.folder / "initrd"

    def kernel_for(self, accelerator: str) -> Path:
        """The kernel for an accelerator, `kvm` or `tcg`."""
        own = self.folder / "kernel-tcg"
        return own if accelerator == "tcg" and own.exists() else self.folder / "kernel"


def find_stage1(
    store: Store, choice: Stage1Choice, policy: FetchPolicy, system_config: Path
) -> Stage1Image:
    """The chosen stage1 image, in the store, with its boot files extracted.

    The default image, one out of the images folder, and one that is in the store already need no
    signature. Raises ImageNotFoundError, SignatureError and the like as `find_image`, ManifestError
    if the image is no stage1 image for this engine.
    """
    from kvmrkt.stage1.boot_files import boot_files

    image = _find(store, choice, policy, system_config)
    manifest = image.manifest()
    files = _check(manifest)
    return Stage1Image(
        image=image,
        manifest=manifest,
        folder=boot_files(store, image, store.data.cas / "stage1" / image.id, files),
        kernel_parameters=tuple((manifest.annotation(_PARAMETERS) or "").split()),
    )


def default_paths(system_config: Path) -> tuple[Path, ...]:
    """Where the default image is looked for: the installed one, then the checkout's own."""
    checkout = Path(__file__).resolve().parents[2]
    return system_config / IMAGES_FOLDER / IMAGE_FILE, checkout / "build" / IMAGE_FILE


def _find(store: Store, choice: Stage1Choice, policy: FetchPolicy, system_config: Path) -> Image:
    if choice.kind == "default":
        paths = default_paths(system_config)
        for path in paths:
            if path.exists():
                return import_trusted(store, path)
        looked_at = " nor ".join(map(os.fspath, paths))
        raise ImageNotFoundError(
            f"there is no default stage1 image: neither {looked_at} exists",
            hint="build it with make, or use --stage1-{path,url,name,hash,from-dir}",
        )
    if choice.kind == "from-dir":
        if "/" in choice.value:
            raise ImageError(f'--stage1-from-dir takes the name of a file, not "{choice.value}"')
        return import_trusted(store, system_config / IMAGES_FOLDER / choice.value)
    if choice.kind in ("name", "hash"):
        image = find_in_store(store, choice.value)
        store.touch(image.id)
        return image
    text = choice.value
    if choice.kind == "path":
        if Path(text).absolute() in default_paths(system_config):
            return import_trusted(store, Path(text))
        text = os.fspath(Path(text).absolute())
    return find_image(store, text, policy, dependencies=False)


def _check(manifest: ImageManifest) -> dict[str, str]:
    """The paths in the image of the boot files, by their names on disk."""
    for name in _REQUIRED:
        if not manifest.annotation(name):
            raise ManifestError(
                f'image "{manifest.name}" is not a stage1 image for kvmrkt:'
                f" its manifest lacks the annotation {name}",
                hint="choose another with --stage1-{path,url,name,hash,from-dir}",
            )
    engine = manifest.annotation(_ENGINE)
    if engine != "kvm":
        raise ManifestError(f'stage1 image "{manifest.name}" is for the unknown engine "{engine}"')
    version = manifest.annotation(f"{_RKT}interface-version") or "1"
    if not version.isascii() or not version.isdigit() or not 1 <= int(version) <= INTERFACE_VERSION:
        raise ManifestError(
            f'stage1 image "{manifest.name}" has the interface version "{version}";'
            f" kvmrkt speaks 1 to {INTERFACE_VERSION}"
        )
    files = {}
    for name, annotation in (
        ("kernel", _KERNEL),
        ("kernel-tcg", _KERNEL_TCG),
        ("initrd", _INITRD),
    ):
        if path := manifest.annotation(annotation):
            if not path.startswith("/") or ".." in path.split("/"):
                raise ManifestError(
                    f'stage1 image "{manifest.name}": the annotation {annotation} is no'
                    f" absolute path: {path!r}"
                )
            files[name] = path
    return files
