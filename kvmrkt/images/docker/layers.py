"""Getting an image's layers: in parallel, decompressed as they come, every digest checked."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from typing import IO, TYPE_CHECKING, cast

from kvmrkt.errors import ImageError, ManifestError
from kvmrkt.images.disk import storing, temporary
from kvmrkt.images.docker.digests import VerifiedStream, check_digests, hasher
from kvmrkt.images.docker.endings import end_archive
from kvmrkt.images.stream import compression_of, tar_chunks

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from kvmrkt.images.docker.sources import FoundImage, ImageSource, Layer
    from kvmrkt.images.policy import FetchPolicy
    from kvmrkt.images.store import Store
    from kvmrkt.images.tar import Limits

_AT_ONCE = 3
_HEADER_BYTES = 512
_USTAR = slice(257, 262)


@contextmanager
def unpacked_layers(
    store: Store, source: ImageSource, image: FoundImage, policy: FetchPolicy
) -> Iterator[list[Path]]:
    """The layers as uncompressed tars in temporary files of the store, from the lowest up.

    A layer that is there twice is got once. ImageError if one is not what its digests say, or if
    all are too large together.
    """
    wanted = _unique(image)
    size = sum(layer.size_bytes for layer in wanted)
    if size > policy.max_download_bytes:
        raise ImageError(
            f"its layers have {size} bytes; the limit is {policy.max_download_bytes}",
        )
    budget = _Budget(store.limits)
    with ExitStack() as stack:
        paths = {
            layer.name: stack.enter_context(temporary(store.data.cas, "layer")) for layer in wanted
        }
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="layer") as pool:
            try:
                tasks = [
                    pool.submit(_get, source, layer, diff_id, paths[layer.name], policy, budget)
                    for layer, diff_id in wanted.items()
                ]
                for task in wait(tasks, return_when=FIRST_EXCEPTION).done:
                    task.result()
            except BaseException:
                budget.stop()
                pool.shutdown(cancel_futures=True)
                raise
        yield [paths[layer.name] for layer in image.layers]


class _Budget:
    """How much all layers may unpack to, and whether anyone still wants them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._left = limits.expanded_bytes
        self._stopped = False
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Account for some bytes; raises if they are too many, or in vain."""
        with self._lock:
            self._left -= size
            if self._left < 0:
                raise ImageError(f"it is larger than {self.limits.expanded_bytes} bytes, unpacked")
        if self._stopped:
            raise ImageError("another layer could not be had")

    def stop(self) -> None:
        """End all work soon."""
        self._stopped = True


def _unique(image: FoundImage) -> dict[Layer, str]:
    """Each layer once, with the digest of its tar."""
    wanted: dict[Layer, str] = {}
    for layer, diff_id in zip(image.layers, image.config.rootfs.diff_ids, strict=True):
        if wanted.setdefault(layer, diff_id) != diff_id:
            raise ManifestError(f"rootfs.diff_ids: two different ones for layer {layer.label}")
    return wanted


def _get(
    source: ImageSource,
    layer: Layer,
    diff_id: str,
    path: Path,
    policy: FetchPolicy,
    budget: _Budget,
) -> None:
    try:
        with (
            policy.progress(f"layer {layer.label}", layer.size_bytes) as advance,
            source.open_layer(layer) as raw,
        ):
            stream = VerifiedStream(
                raw, digest=layer.digest, size_bytes=layer.size_bytes, advance=advance
            )
            actual = _unpack(stream, diff_id, path, budget)
            stream.finish()
        check_digests(actual, diff_id, "its tar")
        with storing("write a layer to the image store"):
            end_archive(path, budget.limits)
    except ImageError as error:
        message = f"layer {layer.label} cannot be had"
        raise type(error)(message, hint=error.hint, details=error.details) from error


def _unpack(stream: VerifiedStream, diff_id: str, path: Path, budget: _Budget) -> str:
    """Write the tar; returns its digest."""
    header = stream.beginning(_HEADER_BYTES)
    # a tar may begin with a file named like a compression's magic
    compression = None if header[_USTAR] == b"ustar" else compression_of(header)
    tar_hash = hasher(diff_id)
    with storing("write a layer to the image store"):
        out = path.open("wb")
    with out, closing(_chunks(stream, compression)) as chunks:
        for chunk in chunks:
            budget.take(len(chunk))
            tar_hash.update(chunk)
            with storing("write a layer to the image store"):
                out.write(chunk)
        with storing("write a layer to the image store"):
            out.flush()
    return f"{tar_hash.name}:{tar_hash.hexdigest()}"


def _chunks(stream: VerifiedStream, compression: str | None) -> Generator[bytes, None, None]:
    """Pieces of the tar; when this is closed, nobody reads from the stream any more."""
    yield from tar_chunks(cast("IO[bytes]", stream), compression)  # which only calls read()
