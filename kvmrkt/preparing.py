"""From a request to a pod's directory with everything in it that the pod needs to be run."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.appc.image_manifest import check_platform
from kvmrkt.appc.image_manifest import encode as encode_image_manifest
from kvmrkt.appc.pod_manifest import PodManifest, parse_pod_manifest
from kvmrkt.appc.pod_manifest import encode as encode_pod_manifest
from kvmrkt.errors import (
    EXIT_IMAGE_REFUSED,
    ArchiveError,
    ManifestError,
    PodError,
    SignatureError,
)
from kvmrkt.faults import reach
from kvmrkt.fetching import fetch_policy, open_store, stage1_sources
from kvmrkt.images.find import find_image
from kvmrkt.images.policy import PullPolicy  # noqa: TC001 - msgspec reads the types
from kvmrkt.images.tree import tree_for
from kvmrkt.pods.compose import ImageFacts, check_mounts, compose
from kvmrkt.pods.machine_record import MACHINE_FILE, MachineRecord, read_machine, write_machine
from kvmrkt.stage1.image import Stage1Choice, Stage1Image, find_stage1, stage1_of_pod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kvmrkt.config import GlobalOptions
    from kvmrkt.images.policy import FetchPolicy
    from kvmrkt.images.store import Image, Store
    from kvmrkt.pods.directory import PodDirectory
    from kvmrkt.pods.request import PodRequest


class PrepareOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where what a pod is made of comes from."""

    stage1: Stage1Choice = Stage1Choice("default")
    pull_policy: PullPolicy = "new"


class PodParts(msgspec.Struct, frozen=True):
    """What a pod is made of."""

    manifest: PodManifest
    image_manifests: dict[str, bytes]
    """By image ID."""
    trees: dict[str, Path]
    """The rendered root filesystem of each image, by image ID."""
    stage1: Stage1Image


def gather(
    request: PodRequest,
    options: PrepareOptions,
    host: GlobalOptions,
    warn: Callable[[str], None],
) -> PodParts:
    """Find or fetch the images, render their trees, and compose the pod manifest.

    Raises KvmrktError; nothing of a pod exists yet.
    """
    with open_store(host) as store:
        policy = fetch_policy(host, options.pull_policy, report=warn)
        stage1 = find_stage1(store, options.stage1, policy, stage1_sources(host))
        with _refusing():
            images = _images(store, request, policy)
            manifests = {image.id: image.manifest() for image in images}
            for manifest in manifests.values():
                check_platform(manifest)
        facts = [ImageFacts(image.id, manifests[image.id]) for image in images]
        composition = compose(request, facts)
        parts = PodParts(
            manifest=composition.manifest,
            image_manifests={image.id: image.manifest_bytes() for image in images},
            trees={image.id: tree_for(store, image.id) for image in images},
            stage1=stage1,
        )
    for warning in composition.warnings:
        warn(warning)
    return parts


@contextmanager
def _refusing() -> Iterator[None]:
    """An image that is refused is told apart by the status of the command that wanted a pod."""
    try:
        yield
    except (ArchiveError, ManifestError, SignatureError) as error:
        error.exit_status = EXIT_IMAGE_REFUSED
        raise


def _images(store: Store, request: PodRequest, policy: FetchPolicy) -> list[Image]:
    """The image of each app, in order; a whole manifest's are in the store, or nowhere."""
    if request.manifest is not None:
        return [store.find_by_hash(app.image.id) for app in request.manifest.apps]
    check_mounts(request)
    return [find_image(store, app.image, policy, signature=app.signature) for app in request.apps]


def fill(pod: PodDirectory, parts: PodParts) -> None:
    """Write everything down in the pod's directory, which goes to `prepare`."""
    pod.to_prepare()
    pod.write_pod_manifest(encode_pod_manifest(parts.manifest))
    (pod.path / "appsinfo").mkdir(mode=0o750)
    for app in parts.manifest.apps:
        # rkt's place for the image's own manifest, which `app` in the pod manifest overrides
        (pod.path / "appsinfo" / app.name).mkdir(mode=0o750)
        pod.write_file(f"appsinfo/{app.name}/manifest", parts.image_manifests[app.image.id])
        tree = parts.trees[app.image.id].stem
        pod.write_file(f"appsinfo/{app.name}/treeStoreID", tree.encode())
    pod.write_file("stage1/manifest", encode_image_manifest(parts.stage1.manifest))
    write_machine(pod, MachineRecord(parts.stage1.id))
    reach("pod-filled")


def reopen(pod: PodDirectory, host: GlobalOptions) -> PodParts:
    """What a prepared pod is made of, from its directory and the store alone.

    A tree that is gone is made again of its image. Raises PodError for a directory that lacks
    something, ImageNotFoundError for an image that is needed and not in the store any more.
    """
    text, stage1_text = pod.read_pod_manifest(), pod.read_file("stage1/manifest")
    record = read_machine(pod)
    if text is None or stage1_text is None or record is None:
        raise PodError(
            f'pod "{pod.uuid}" is damaged: it lacks pod, stage1/manifest or {MACHINE_FILE}',
            hint="prepare it again",
        )
    manifest = parse_pod_manifest(text)
    with open_store(host) as store:
        return PodParts(
            manifest=manifest,
            image_manifests={},
            trees={app.image.id: tree_of_app(pod, store, app.name, app.image.id)
                   for app in manifest.apps},
            stage1=stage1_of_pod(store, record.stage1, stage1_text),
        )  # fmt: skip


def tree_of_app(pod: PodDirectory, store: Store, app: str, image_id: str) -> Path:
    """The squashfs that an app of a pod stands on; made again of its image if it is gone.

    Raises ImageNotFoundError if the image is needed for that, and gone too.
    """
    name = (pod.read_file(f"appsinfo/{app}/treeStoreID") or b"").decode(errors="replace").strip()
    kept = store.data.cas / "tree" / f"{name}.squashfs"
    return kept if name and "/" not in name and kept.exists() else tree_for(store, image_id)
