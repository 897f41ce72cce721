"""A host's operations, without a shell: what the commands are written on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.appc.image_manifest import check_platform
from kvmrkt.appc.image_manifest import encode as encode_image_manifest
from kvmrkt.appc.pod_manifest import PodManifest
from kvmrkt.appc.pod_manifest import encode as encode_pod_manifest
from kvmrkt.errors import EXIT_FAILURE, AppStartError, EngineError, UsageError, describe
from kvmrkt.fetching import fetch_policy, open_store
from kvmrkt.images.find import find_image
from kvmrkt.images.policy import PullPolicy  # noqa: TC001 - msgspec reads the types
from kvmrkt.images.tree import tree_for
from kvmrkt.pods.compose import ImageFacts, compose
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.leftovers import remove_tree
from kvmrkt.pods.resources import release_all
from kvmrkt.stage1.image import Stage1Choice, Stage1Image, find_stage1
from kvmrkt.stage1.kvm import engine
from kvmrkt.stage1.kvm.engine import KvmPod
from kvmrkt.stage1.kvm.share import check_sources
from kvmrkt.stage1.kvm.translate import Streams, translate

if TYPE_CHECKING:
    from kvmrkt.config import GlobalOptions
    from kvmrkt.images.store import Image
    from kvmrkt.pods.request import PodRequest
    from kvmrkt.trace import Trace


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a pod is run, beside what is in it."""

    stage1: Stage1Choice
    pull_policy: PullPolicy = "new"
    accelerator: str = "auto"
    boot_timeout_seconds: float | None = None
    uuid_file: Path | None = None
    streams: Streams = Streams()
    tty_fd: int | None = None


def run_pod(
    request: PodRequest,
    options: RunOptions,
    host: GlobalOptions,
    trace: Trace,
    warn: Callable[[str], None],
) -> int:
    """Run a pod from its images to its end, and return its exit status.

    A pod that could not be started leaves nothing behind; one that ran stays, exited, for
    `status`, `logs` and `gc`. Raises KvmrktError.
    """
    with open_store(host) as store:
        policy = fetch_policy(host, options.pull_policy, report=warn)
        stage1 = find_stage1(store, options.stage1, policy, host.system_config)
        images = [
            find_image(store, app.image, policy, signature=app.signature) for app in request.apps
        ]
        manifests = {image.id: image.manifest() for image in images}
        for manifest in manifests.values():
            check_platform(manifest)
        facts = [ImageFacts(image.id, manifests[image.id]) for image in images]
        composition = compose(request, facts)
        trees = {image.id: tree_for(store, image.id) for image in images}
    for warning in composition.warnings:
        warn(warning)
    trace.end("image")
    pod = PodDirectory.create(host.data)
    try:
        translation = translate(
            composition.manifest,
            pod.uuid,
            hostname=request.hostname,
            streams=options.streams,
            insecure=host.insecure,
        )
        check_sources(translation.folders)
        if options.uuid_file is not None:
            _save_uuid(options.uuid_file, pod.uuid)
        _prepare(pod, composition.manifest, images, trees, stage1)
        trace.end("prepare")
        kvm_pod = KvmPod(
            directory=pod,
            spec=translation.spec,
            images={serial: trees[image] for serial, image in translation.image_ids.items()},
            folders=translation.folders,
            stage1=stage1,
            accelerator=options.accelerator,
            hello_seconds=options.boot_timeout_seconds,
            tty_fd=options.tty_fd,
        )
        status = engine.run_pod(kvm_pod, host.data, trace, warn)
    except EngineError as error:
        if isinstance(error, AppStartError):
            _discard(pod)
        else:
            _close(pod, EXIT_FAILURE)
        raise
    except BaseException:
        _discard(pod)
        raise
    _close(pod, status)
    return status


def _save_uuid(file: Path, uuid: str) -> None:
    try:
        file.write_text(uuid)
    except OSError as error:
        raise UsageError(f"cannot save the pod's UUID in {file}: {describe(error)}") from error


def _prepare(
    pod: PodDirectory,
    manifest: PodManifest,
    images: list[Image],
    trees: dict[str, Path],
    stage1: Stage1Image,
) -> None:
    """Fill the pod's directory, and move it to `run` with the lock held."""
    pod.to_prepare()
    pod.write_pod_manifest(encode_pod_manifest(manifest))
    (pod.path / "appsinfo").mkdir(mode=0o750)
    for app, image in zip(manifest.apps, images, strict=True):
        # rkt's place for the image's own manifest, which `app` in the pod manifest overrides
        (pod.path / "appsinfo" / app.name).mkdir(mode=0o750)
        pod.write_file(f"appsinfo/{app.name}/manifest", image.manifest_bytes())
        pod.write_file(f"appsinfo/{app.name}/treeStoreID", trees[image.id].stem.encode())
    pod.write_file("stage1/manifest", encode_image_manifest(stage1.manifest))
    pod.to_run()
    pod.write_pid(os.getpid())


def _close(pod: PodDirectory, status: int) -> None:
    """The pod has ended: keep its records and logs, give back everything else."""
    release_all(pod)
    pod.write_exit(status)
    pod.unlock()


def _discard(pod: PodDirectory) -> None:
    """The pod never ran: leave nothing of it."""
    release_all(pod)
    remove_tree(pod.path)
    pod.unlock()
