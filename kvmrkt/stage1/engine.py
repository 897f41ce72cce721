"""What an execution engine is, and how the one that a stage1 image names is found.

An engine runs pods: from a directory in `run`, its lock held, to an exit status. It does not know
how the pod came to be, nor what is kept of it afterwards. The stage1 image says which engine by
its annotation ENGINE_ANNOTATION.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from kvmrkt.config import GlobalOptions, InsecureOptions
from kvmrkt.errors import ManifestError
from kvmrkt.net.choice import NO_NETWORK, NetworkChoice

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from kvmrkt.activation import ActivatedPort
    from kvmrkt.appc.image_manifest import ImageManifest
    from kvmrkt.appc.pod_manifest import PodManifest
    from kvmrkt.pods.directory import PodDirectory
    from kvmrkt.stage1.image import Stage1Image
    from kvmrkt.trace import Trace

ENGINE_ANNOTATION = "kvmrkt.io/stage1/engine"


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a pod is run, beside what is in it."""

    accelerator: str | None = None
    """`auto`, `kvm` or `tcg`; None for what is configured, else `auto`."""
    boot_timeout_seconds: float | None = None
    """How long the guest may take to answer; None for the engine's own patience."""
    hostname: str | None = None
    """`rkt-UUID` by default."""
    resolv_conf: str | None = None
    """What /etc/resolv.conf says in every app; None leaves the image's own."""
    hosts: str | None = None
    """What /etc/hosts says in every app; None for loopback, the pod's name and `hosts_entries`."""
    hosts_entries: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Addresses, and the names of each, for /etc/hosts."""
    networks: tuple[NetworkChoice, ...] = NO_NETWORK
    """What the pod joins beside its loopback."""
    network_dns: bool = True
    """Whether a network may say the name servers, where `resolv_conf` does not."""
    interactive: bool = False
    """The one app's streams are this process's, raw."""
    tty_fd: int | None = None
    """The terminal of an interactive pod, if it has one."""


class EnginePod(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an engine is given of a pod."""

    directory: PodDirectory
    manifest: PodManifest
    trees: Mapping[str, Path]
    """The rendered root filesystem of each image, by image ID."""
    stage1: Stage1Image
    options: RunOptions
    activated: tuple[ActivatedPort, ...] = ()
    """Ports whose connections come by sockets that this process was passed."""
    insecure: InsecureOptions = InsecureOptions()
    host: GlobalOptions = GlobalOptions()
    """Where an engine finds its configuration."""


class AppExport(msgspec.Struct, frozen=True, kw_only=True):
    """An app of a pod that has ended, whose file system is wanted."""

    directory: PodDirectory
    app: str
    tree: Path
    """The rendered root filesystem of its image."""
    stage1: Stage1Image
    host: GlobalOptions = GlobalOptions()


class PodRun(Protocol):
    """A pod that is ready to be run, once."""

    def run(self, trace: Trace, warn: Callable[[str], None]) -> int:
        """Start the pod, follow it to its end, and return its exit status.

        What becomes of each app is written to the pod's directory; whatever is made on the host
        is recorded there before. Raises EngineError when the machinery fails (AppStartError if
        no app ran), HostError if this host cannot run the pod.
        """


class Engine(Protocol):
    """One way to run pods."""

    def boot_files(self, manifest: ImageManifest) -> Mapping[str, str]:
        """What the engine needs out of a stage1 image: absolute paths in it, by file name.

        Raises ManifestError for an image that is none of this engine's.
        """

    def plan(self, pod: EnginePod) -> PodRun:
        """Work out how the pod will be run, and touch nothing.

        The directory need not have reached `run` yet. Raises ManifestError or PodError for a pod
        that this engine can never run.
        """

    def export(self, app: AppExport, warn: Callable[[str], None]) -> Generator[bytes, None, None]:
        """The app's file system as its run left it: a tar stream with `rootfs` at its top.

        A generator, to be closed by whoever does not take all of it. What it gives is the
        tenant's work, not to be trusted. Nothing of the pod changes. Raises EngineError when the
        machinery fails or the file system cannot be read, HostError.
        """


_ENGINES: dict[str, str | Engine] = {"kvm": "kvmrkt.stage1.kvm.engine:ENGINE"}


def register_engine(name: str, engine: Engine) -> None:
    """Make one more engine known to this process, or replace one."""
    _ENGINES[name] = engine


def find_engine(stage1: ImageManifest) -> Engine:
    """The engine of a stage1 image; ManifestError for one that names none that is known."""
    name = stage1.annotation(ENGINE_ANNOTATION)
    if not name:
        raise ManifestError(
            f'image "{stage1.name}" is not a stage1 image for kvmrkt:'
            f" its manifest lacks the annotation {ENGINE_ANNOTATION}",
            hint="choose another with --stage1-{path,url,name,hash,from-dir}",
        )
    entry = _ENGINES.get(name)
    if entry is None:
        raise ManifestError(f'stage1 image "{stage1.name}" is for the unknown engine "{name}"')
    if isinstance(entry, str):
        import importlib

        module, _, attribute = entry.partition(":")
        found: Engine = getattr(importlib.import_module(module), attribute)
        return found
    return entry
