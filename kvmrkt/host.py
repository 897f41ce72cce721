"""Pods from request to exit status: what `run`, `prepare` and `run-prepared` do."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from kvmrkt.activation import activated_ports
from kvmrkt.errors import (
    EXIT_FAILURE,
    AppStartError,
    EngineError,
    KvmrktError,
    PodError,
    UsageError,
    describe,
)
from kvmrkt.faults import reach
from kvmrkt.images.locks import locked
from kvmrkt.net.choice import needs_links
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.host_volumes import check_sources
from kvmrkt.pods.leftovers import remove_tree
from kvmrkt.pods.resources import release_all
from kvmrkt.pods.states import Section
from kvmrkt.preparing import PodParts, fill, gather, reopen
from kvmrkt.stage1.engine import EnginePod, PodRun, RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kvmrkt.config import GlobalOptions
    from kvmrkt.pods.request import PodRequest
    from kvmrkt.preparing import PrepareOptions
    from kvmrkt.trace import Trace


class Setting(NamedTuple):
    """On whose behalf a pod is prepared or run."""

    host: GlobalOptions
    trace: Trace
    warn: Callable[[str], None]


def _nobody_asks() -> None:
    return


def run_pod(
    request: PodRequest,
    source: PrepareOptions,
    options: RunOptions,
    setting: Setting,
    *,
    uuid_file: Path | None = None,
) -> int:
    """Run a pod from its images to its end, and return its exit status.

    A pod that could not be started leaves nothing behind; one that ran stays, exited, for
    `status`, `logs` and `gc`. Raises KvmrktError.
    """
    with locked(setting.host.data.prepare_lock, shared=True):
        parts = gather(request, source, setting.host, setting.warn)
        setting.trace.end("image")
        pod = PodDirectory.create(setting.host.data)
        with _discarding(pod), _stoppable():
            run = _plan(pod, parts, options, setting.host)
            check_sources(parts.manifest)
            if uuid_file is not None:
                save_uuid(uuid_file, pod.uuid)
            fill(pod, parts)
            _enter(pod, options, setting.host)
    setting.trace.end("prepare")
    try:
        with _stoppable():
            status = run.run(setting.trace, setting.warn)
    except EngineError as error:
        if isinstance(error, AppStartError):
            _discard(pod)
        else:
            _close(pod, error.exit_status)
        raise
    except BaseException:
        _discard(pod)
        raise
    _close(pod, status)
    return status


def prepare_pod(request: PodRequest, source: PrepareOptions, setting: Setting) -> PodDirectory:
    """Make a pod that waits for `run_prepared_pod`, on this boot of the host or a later one.

    Raises KvmrktError; then nothing of the pod stays.
    """
    with locked(setting.host.data.prepare_lock, shared=True):
        parts = gather(request, source, setting.host, setting.warn)
        pod = PodDirectory.create(setting.host.data)
        with _discarding(pod), _stoppable():
            _plan(pod, parts, RunOptions(), setting.host)  # what can never run is refused now
            fill(pod, parts)
            pod.to_prepared()
    return pod


def run_prepared_pod(
    pod: PodDirectory,
    options: RunOptions,
    setting: Setting,
    *,
    entered: Callable[[], None] = _nobody_asks,
) -> int:
    """Run a prepared pod to its end, and return its exit status.

    What speaks against it before it is in `run`, which `entered` is told, leaves it prepared.
    Raises PodError if it is not prepared, or is somebody else's already; and KvmrktError.
    """
    if pod.section is not Section.PREPARED or not pod.lock():
        raise PodError(f'pod "{pod.uuid}" is not prepared')
    try:
        with _stoppable():
            parts = reopen(pod, setting.host)
            if options.interactive and len(parts.manifest.apps) > 1:
                raise UsageError("interactive option only supports pods with one app")
            run = _plan(pod, parts, options, setting.host)
            check_sources(parts.manifest)
            _enter(pod, options, setting.host)
    except BaseException:
        pod.unlock()
        raise
    setting.trace.end("prepare")
    try:
        with _stoppable():
            entered()
            status = run.run(setting.trace, setting.warn)
    except BaseException as error:
        _close(pod, error.exit_status if isinstance(error, KvmrktError) else EXIT_FAILURE)
        raise
    _close(pod, status)
    return status


def save_uuid(file: Path, uuid: str) -> None:
    """Write the UUID to a file, as rkt did: nothing else, no newline. Raises UsageError."""
    try:
        file.write_text(uuid)
    except OSError as error:
        raise UsageError(f"cannot save the pod's UUID in {file}: {describe(error)}") from error
    reach("uuid-saved")


def _plan(pod: PodDirectory, parts: PodParts, options: RunOptions, host: GlobalOptions) -> PodRun:
    return parts.stage1.engine.plan(
        EnginePod(
            directory=pod,
            manifest=parts.manifest,
            trees=parts.trees,
            stage1=parts.stage1,
            options=options,
            activated=activated_ports(parts.manifest, networked=needs_links(options.networks)),
            insecure=host.insecure,
            host=host,
        )
    )


def _enter(pod: PodDirectory, options: RunOptions, host: GlobalOptions) -> None:
    """Move the pod to `run`, its lock held, with how it is run written down."""
    pod.write_file("runtime-config", _runtime_config(pod, options, host))
    pod.write_pid(os.getpid())  # whoever sees a pod in `run` can tell who runs it
    pod.to_run()
    reach("pod-entered")


class _InsecureConfig(msgspec.Struct, frozen=True, rename="pascal"):
    disable_paths: bool
    disable_capabilities: bool
    disable_seccomp: bool


class _RuntimeConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """rkt's file of the same name: how this run was asked for."""

    hostname: str
    debug: bool
    mutable: bool
    interactive: bool
    resolv_conf_mode: str
    etc_hosts_mode: str
    net_list: tuple[str, ...]
    insecure_options: _InsecureConfig


def _runtime_config(pod: PodDirectory, options: RunOptions, host: GlobalOptions) -> bytes:
    config = _RuntimeConfig(
        hostname=options.hostname or f"rkt-{pod.uuid}",
        debug=host.debug,
        mutable=False,
        interactive=options.interactive,
        resolv_conf_mode="default" if options.resolv_conf is None else "stage0",
        etc_hosts_mode="default" if options.hosts is None else "stage0",
        net_list=tuple(
            f"{name}:{arguments}" if arguments else name for name, arguments in options.networks
        ),
        insecure_options=_InsecureConfig(
            host.insecure.paths, host.insecure.capabilities, host.insecure.seccomp
        ),
    )
    return msgspec.json.encode(config) + b"\n"


def _close(pod: PodDirectory, status: int) -> None:
    """The pod has ended: keep its records and logs, give back everything else."""
    try:
        release_all(pod)
        reach("pod-released")
    finally:  # what could not be released is listed still, for gc
        pod.write_exit(status)
        reach("exit-written")
        pod.unlock()


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let signals that end a process raise, so that the pod is put away properly.

    An engine whose pod runs has handlers of its own for them.
    """

    def stop(number: int, _frame: object) -> None:
        raise KvmrktError(f"stopped by {signal.Signals(number).name} before the pod's apps ran")

    usual: dict[signal.Signals, Any] = {}
    try:
        for name in (signal.SIGTERM, signal.SIGHUP):
            with suppress(ValueError):  # only the main thread hears of signals
                usual[name] = signal.signal(name, stop)
        yield
    finally:
        for name, handler in usual.items():
            signal.signal(name, handler)


@contextmanager
def _discarding(pod: PodDirectory) -> Iterator[None]:
    """Steps of which all succeed, or nothing of the pod stays."""
    try:
        yield
    except BaseException:
        _discard(pod)
        raise


def _discard(pod: PodDirectory) -> None:
    """The pod never ran: leave nothing of it."""
    release_all(pod)
    pod.to_garbage()  # nobody shall see it half deleted
    remove_tree(pod.path)
    pod.unlock()
