"""Making an image of what a run has left of an app's file system: rkt's `export`."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from itertools import chain
from typing import IO, TYPE_CHECKING

from kvmrkt.appc.pod_manifest import parse_pod_manifest
from kvmrkt.errors import (
    ArchiveError,
    ImageNotFoundError,
    PodError,
    UsageError,
    VmmError,
)
from kvmrkt.fetching import open_store
from kvmrkt.images import aci
from kvmrkt.images.stream import CHUNK_BYTES, TarStream
from kvmrkt.images.tar import REGULAR
from kvmrkt.images.tar_headers import header, padded
from kvmrkt.images.unpacking.replace import new_file
from kvmrkt.pods.keeping import keeping
from kvmrkt.pods.machine_record import MACHINE_FILE, read_machine
from kvmrkt.pods.states import PodState
from kvmrkt.preparing import tree_of_app
from kvmrkt.stage1.engine import AppExport
from kvmrkt.stage1.image import stage1_of_pod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kvmrkt.appc.pod_manifest import RuntimeApp
    from kvmrkt.config import GlobalOptions
    from kvmrkt.images.store import Store
    from kvmrkt.images.tar import Limits
    from kvmrkt.pods.directory import PodDirectory

EXTENSION = ".aci"
_EXPORTED = (PodState.EXITED, PodState.EXITED_GARBAGE)
_COMPRESSION_LEVEL = 1
_WHOLE_ALREADY = ("dependencies", "pathWhitelist")


def export_app(
    pod: PodDirectory,
    app: str | None,
    output: Path,
    host: GlobalOptions,
    warn: Callable[[str], None],
    *,
    overwrite: bool = False,
) -> str:
    """Write an app's file system to an image file, and return the new image's ID.

    `app` may be None in a pod of one. The file is whole at `output`, or nothing of it is there.
    Raises UsageError, PodError for a pod that has not ended, ImageError for a file system that
    makes no image, EngineError.
    """
    if output.suffix != EXTENSION:
        raise UsageError(f"extension must be {EXTENSION} (given {output})")
    with ExitStack() as stack:
        stack.enter_context(keeping(pod))  # nobody deletes it meanwhile
        if pod.state() not in _EXPORTED:
            raise PodError("pod is not exited. Only exited pods can be exported")
        chosen = _choose(pod, app)
        if not overwrite and os.path.lexists(output):
            raise UsageError("target file exists (try --overwrite)")
        store = stack.enter_context(open_store(host))
        manifest = _manifest_of(pod, chosen.name)
        while True:
            source, section = _source(pod, store, chosen, host), pod.section
            try:
                return _write(source, manifest, output, store.limits, warn, overwrite=overwrite)
            except VmmError:
                pod.state()
                if pod.section is section:
                    raise  # else gc has just moved the pod away from under QEMU


def write_image(manifest: bytes, rootfs: Iterator[bytes], output: IO[bytes], limits: Limits) -> str:
    """Write an image, compressed, of its manifest and a tar stream of nothing but `rootfs`.

    The stream is not trusted: what an import would refuse raises ArchiveError. The same input
    gives the same bytes. Returns the image's ID.
    """
    from kvmrkt.appc.types import HASH_PREFIX

    first = header(aci.MANIFEST, REGULAR, size_bytes=len(manifest)) + padded(manifest)
    compressed = _Gzip(output)
    stream = TarStream(chain((first,), rootfs), limits.expanded_bytes, compressed.write)
    aci.check(stream, limits)
    digest = stream.finish()
    compressed.finish()
    return HASH_PREFIX + digest


class _Gzip:
    """Compresses in steps of one size: what comes out does not depend on how it came in."""

    def __init__(self, output: IO[bytes]) -> None:
        from isal import isal_zlib

        self._output = output
        self._waiting = bytearray()
        self._gzip = isal_zlib.compressobj(_COMPRESSION_LEVEL, wbits=isal_zlib.MAX_WBITS | 16)

    def write(self, piece: bytes) -> None:
        self._waiting += piece
        while len(self._waiting) >= CHUNK_BYTES:
            self._output.write(self._gzip.compress(self._waiting[:CHUNK_BYTES]))
            del self._waiting[:CHUNK_BYTES]

    def finish(self) -> None:
        self._output.write(self._gzip.compress(self._waiting) + self._gzip.flush())


def _choose(pod: PodDirectory, name: str | None) -> RuntimeApp:
    text = pod.read_pod_manifest()
    if text is None:
        raise PodError("unable to find app: the pod has no manifest")
    apps = parse_pod_manifest(text).apps
    if name is not None:
        for app in apps:
            if app.name == name:
                return app
        raise PodError(f"unable to find app: app {name} is not present in pod")
    if len(apps) != 1:
        raise PodError(
            'unable to find app: specify app using "kvmrkt export --app= ..."',
            details="\n".join(("pod contains multiple apps:", *(f"\t{app.name}" for app in apps))),
        )
    return apps[0]


def _manifest_of(pod: PodDirectory, app: str) -> bytes:
    """The manifest of the app's image, for an image that has all its files itself.

    With the dependencies of the original, what the app has deleted would come back; its path
    whitelist would hide what the app has made.
    """
    import msgspec

    text = pod.read_file(f"appsinfo/{app}/manifest")
    try:
        fields = msgspec.json.decode(text or b"", type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError as error:
        raise PodError(f'pod "{pod.uuid}" is damaged: appsinfo/{app}/manifest') from error
    if not any(name in fields for name in _WHOLE_ALREADY):
        return text or b""
    return msgspec.json.encode(
        {name: value for name, value in fields.items() if name not in _WHOLE_ALREADY}
    )


def _source(pod: PodDirectory, store: Store, app: RuntimeApp, host: GlobalOptions) -> AppExport:
    record, stage1_manifest = read_machine(pod), pod.read_file("stage1/manifest")
    if record is None or stage1_manifest is None:
        raise PodError(f'pod "{pod.uuid}" is damaged: it lacks stage1/manifest or {MACHINE_FILE}')
    if not (pod.path / "scratch.img").exists():
        raise PodError(
            f'pod "{pod.uuid}" never ran: there is no disk that its apps wrote to',
            hint="kvmrkt image export gives an image as it is",
        )
    try:
        tree = tree_of_app(pod, store, app.name, app.image.id)
    except ImageNotFoundError as error:
        raise ImageNotFoundError(
            f'the root filesystem that app "{app.name}" ran on is gone from the store',
            hint=f"fetch its image again: {app.image.name or 'its name'} with ID {app.image.id}",
        ) from error
    return AppExport(
        directory=pod,
        app=app.name,
        tree=tree,
        stage1=stage1_of_pod(store, record.stage1, stage1_manifest),
        host=host,
    )


def _write(
    source: AppExport,
    manifest: bytes,
    output: Path,
    limits: Limits,
    warn: Callable[[str], None],
    *,
    overwrite: bool,
) -> str:
    with (
        closing(source.stage1.engine.export(source, warn)) as rootfs,
        new_file(output, overwrite=overwrite) as file,
    ):
        try:
            return write_image(manifest, rootfs, file, limits)
        except ArchiveError as error:
            raise ArchiveError(
                f'the file system of app "{source.app}" makes no image', hint=error.hint
            ) from error
