"""What the guest boots from: the kernels and the initrd of a stage1 image of this engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvmrkt.errors import ManifestError

if TYPE_CHECKING:
    from pathlib import Path

    from kvmrkt.appc.image_manifest import ImageManifest
    from kvmrkt.stage1.image import Stage1Image

_KERNEL = "kvmrkt.io/stage1/kvm/kernel"
_KERNEL_TCG = "kvmrkt.io/stage1/kvm/kernel-tcg"
_INITRD = "kvmrkt.io/stage1/kvm/initrd"
_SSH = "kvmrkt.io/stage1/kvm/ssh"
_PARAMETERS = "kvmrkt.io/stage1/kvm/kernel-parameters"
_FILES = (
    ("kernel", _KERNEL),
    ("kernel-tcg", _KERNEL_TCG),
    ("initrd", _INITRD),
    ("ssh", _SSH),
)
_REQUIRED = (_KERNEL, _INITRD)


class Boot(msgspec.Struct, frozen=True):
    """Boot files on this host's disk, and the kernel's parameters."""

    folder: Path
    kernel_parameters: tuple[str, ...]

    @property
    def initrd(self) -> Path:
        """The initial RAM disk with the agent."""
        return self.folder / "initrd"

    @property
    def ssh(self) -> Path:
        """The SSH server that the guest gets when it is first asked for; not every image has it."""
        return self.folder / "ssh"

    def kernel_for(self, accelerator: str) -> Path:
        """The kernel for an accelerator, `kvm` or `tcg`."""
        own = self.folder / "kernel-tcg"
        return own if accelerator == "tcg" and own.exists() else self.folder / "kernel"


def boot_of(stage1: Stage1Image) -> Boot:
    """What a pod with this stage1 image boots from."""
    parameters = stage1.manifest.annotation(_PARAMETERS) or ""
    return Boot(stage1.folder, tuple(parameters.split()))


def boot_files(manifest: ImageManifest) -> dict[str, str]:
    """The paths in the image of the boot files, by their names on disk; raises ManifestError."""
    files = {}
    for name, annotation in _FILES:
        path = manifest.annotation(annotation)
        if path and (not path.startswith("/") or ".." in path.split("/")):
            raise ManifestError(
                f'stage1 image "{manifest.name}": the annotation {annotation} is no'
                f" absolute path: {path!r}"
            )
        if path:
            files[name] = path
        elif annotation in _REQUIRED:
            raise ManifestError(
                f'image "{manifest.name}" is not a stage1 image for the engine kvm:'
                f" its manifest lacks the annotation {annotation}"
            )
    return files
