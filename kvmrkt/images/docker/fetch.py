"""From a reference to a docker or OCI image to an App Container image in the store."""

from __future__ import annotations

import io
import tarfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvmrkt.images.disk import storing, temporary
from kvmrkt.images.docker.convert import convert
from kvmrkt.images.docker.digests import digest_of
from kvmrkt.images.docker.layers import unpacked_layers
from kvmrkt.images.docker.sources import usable
from kvmrkt.images.references import DockerReference, OciLayoutReference
from kvmrkt.images.store import Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from kvmrkt.images.docker.sources import ImageSource
    from kvmrkt.images.policy import FetchPolicy
    from kvmrkt.images.references import DockerArchiveReference
    from kvmrkt.images.store import Image, Store

SOURCE_KIND = "docker"
"""The kind under which the store remembers these images' sources."""

_DEV_LINKS = {
    "dev/fd": "/proc/self/fd",
    "dev/stderr": "/dev/console",
    "dev/stdin": "/proc/self/fd/0",
    "dev/stdout": "/dev/console",
}
"""rkt's: as docker's, but for outputs that are no file that could be opened a second time."""


def fetch_docker(
    store: Store,
    reference: DockerReference | OciLayoutReference | DockerArchiveReference,
    *,
    policy: FetchPolicy,
) -> Image:
    """Fetch an image, unless its source has nothing else than what the store has of it.

    For a caller that holds the source's lock and knows that an image without a signature will do.
    Raises ImageNotFoundError if there is no such image, ImageError for one that cannot be had or
    is not what its digests say.
    """
    what = str(reference)
    with _opened(store, reference, policy) as source:
        image = source.find()
        with usable(what):
            manifest = convert(image.config, image.origin)
        stamp = digest_of(manifest)  # which names the digest of the docker manifest
        known = store.known_source(SOURCE_KIND, what)
        if known is not None and known.stamp == stamp:
            return known.image
        from kvmrkt.images.importing import import_layers

        with (
            usable(what),
            unpacked_layers(store, source, image, policy) as layers,
            _dev_links(store) as links,
        ):
            return import_layers(
                store, manifest, [links, *layers], Source(SOURCE_KIND, what, stamp)
            )


def _opened(
    store: Store,
    reference: DockerReference | OciLayoutReference | DockerArchiveReference,
    policy: FetchPolicy,
) -> AbstractContextManager[ImageSource]:
    if isinstance(reference, DockerReference):
        from kvmrkt.images.docker.registry import open_registry

        return open_registry(reference, policy)
    if isinstance(reference, OciLayoutReference):
        from kvmrkt.images.docker.layout import open_layout

        return open_layout(reference)
    from kvmrkt.images.docker.archive import open_archive

    return open_archive(store, reference)


@contextmanager
def _dev_links(store: Store) -> Iterator[Path]:
    """A layer for below all others: the links in /dev that programs in containers expect."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as target:
        folder = tarfile.TarInfo("dev")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        target.addfile(folder)
        for name, to in _DEV_LINKS.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, to, 0o777
            target.addfile(link)
    with temporary(store.data.cas, "layer") as path:
        with storing("write a layer to the image store"):
            path.write_bytes(out.getvalue())
        yield path
