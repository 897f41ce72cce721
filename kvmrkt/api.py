"""The Python interface: the operations of the command line, without a shell.

What is exported by `kvmrkt` itself keeps its promises between versions (docs/python-api.md).
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from kvmrkt.config import GlobalOptions, InsecureOptions, parse_insecure_options
from kvmrkt.errors import EngineError, PodError, PodTimeoutError, UsageError
from kvmrkt.paths import DEFAULT_LOCAL_CONFIG, DEFAULT_SYSTEM_CONFIG
from kvmrkt.pods.states import ENDED, PodState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from kvmrkt import host
    from kvmrkt.appc.pod_manifest import PodManifest
    from kvmrkt.background import Supervisor
    from kvmrkt.errors import KvmrktError
    from kvmrkt.images.policy import PullPolicy
    from kvmrkt.pods.directory import PodDirectory
    from kvmrkt.pods.logs import LogRecord
    from kvmrkt.pods.request import PodRequest
    from kvmrkt.pods.status import PodStatus
    from kvmrkt.preparing import PrepareOptions
    from kvmrkt.stage1.engine import RunOptions
    from kvmrkt.trace import Trace


def _say_nothing(line: str) -> None:
    return


class Host:
    """One host: its image store, its pods and its configuration."""

    def __init__(
        self,
        dir: Path | str | None = None,
        *,
        system_config: Path | str = DEFAULT_SYSTEM_CONFIG,
        local_config: Path | str = DEFAULT_LOCAL_CONFIG,
        user_config: Path | str | None = None,
        insecure_options: str | InsecureOptions = "none",
        trust_keys_from_https: bool = False,
        report: Callable[[str], None] = _say_nothing,
    ) -> None:
        """Everything as the global flags of the same names; nothing is read or made yet.

        Without `dir` it is the configuration's data directory, or else the usual one.

        `report` gets what the command line would say on standard error, a line a call.
        """
        if isinstance(insecure_options, str):
            insecure_options = parse_insecure_options(insecure_options)
        self.options = GlobalOptions(
            dir=None if dir is None else Path(dir).resolve(),
            system_config=Path(system_config),
            local_config=Path(local_config),
            user_config=None if user_config is None else Path(user_config),
            insecure=insecure_options,
            trust_keys_from_https=trust_keys_from_https,
        )
        self._report = report

    @classmethod
    def with_options(cls, options: GlobalOptions, report: Callable[[str], None]) -> Host:
        """A host as the command line describes it."""
        host = cls(report=report)
        host.options = options
        return host

    # -- images --------------------------------------------------------------------------------

    def fetch(
        self,
        image: str,
        *,
        signature: Path | None = None,
        pull_policy: PullPolicy = "update",
    ) -> str:
        """Bring an image into the store, its root filesystem made, and return its ID.

        Raises ImageError and its like.
        """
        from kvmrkt.fetching import fetch_policy, open_store
        from kvmrkt.images.find import find_image
        from kvmrkt.images.tree import tree_for

        policy = fetch_policy(self.options, pull_policy, report=self._report)
        with open_store(self.options) as store:
            found = find_image(store, image, policy, signature=signature)
            tree_for(store, found.id)
        return found.id

    # -- pods ----------------------------------------------------------------------------------

    def run(
        self,
        request: PodRequest,
        source: PrepareOptions | None = None,
        options: RunOptions | None = None,
        *,
        output: IO[bytes] | int = subprocess.DEVNULL,
    ) -> Pod:
        """Start a pod in a process of its own, and return once that has taken it over.

        `output` gets the apps' lines as `kvmrkt run` shows them; they are kept with the pod in
        any case. Raises KvmrktError; then nothing of the pod stays.
        """
        pod = self.prepare(request, source)
        try:
            pod.start(options, output=output)
        except BaseException:
            pod.remove()
            raise
        return pod

    def run_here(
        self,
        request: PodRequest,
        source: PrepareOptions | None = None,
        options: RunOptions | None = None,
        *,
        uuid_file: Path | None = None,
        trace: Trace | None = None,
    ) -> int:
        """Run a pod to its end in this process, and return its exit status.

        Its lines go to standard output; SIGTERM and SIGINT stop it. For the main thread alone.
        """
        from kvmrkt import host
        from kvmrkt.preparing import PrepareOptions
        from kvmrkt.stage1.engine import RunOptions

        return host.run_pod(
            request,
            source or PrepareOptions(),
            options or RunOptions(),
            self._setting(trace),
            uuid_file=uuid_file,
        )

    def prepare(self, request: PodRequest, source: PrepareOptions | None = None) -> Pod:
        """Make a pod that waits to be started, now or after a reboot."""
        from kvmrkt import host
        from kvmrkt.preparing import PrepareOptions

        directory = host.prepare_pod(request, source or PrepareOptions(), self._setting(None))
        return Pod(self, directory)

    def pods(self) -> list[Pod]:
        """Every pod, as `kvmrkt list` orders them."""
        from kvmrkt.pods.lookup import listed_pods

        return [Pod(self, directory) for directory in listed_pods(self.options.data)]

    def pod(self, uuid: str) -> Pod:
        """The one pod whose UUID begins so; PodNotFoundError for none, or more than one."""
        from kvmrkt.pods.lookup import find_pod

        return Pod(self, find_pod(self.options.data, uuid))

    def collect_garbage(
        self, *, grace_seconds: float = 1800, expire_prepared_seconds: float = 86400
    ) -> int:
        """Mark pods that ended, delete those whose time is over, and return how many these were.

        What goes wrong is reported, and tried again next time.
        """
        from kvmrkt.pods.gc import mark, sweep

        def report(step: object, uuid: str, error: KvmrktError | None = None) -> None:
            if error is not None:
                self._report(f'pod "{uuid}" not removed: {": ".join(error.causes())}')

        mark(self.options.data, report)
        return sweep(
            self.options.data,
            report,
            grace_seconds=grace_seconds,
            expire_prepared_seconds=expire_prepared_seconds,
        )

    def _setting(self, trace: Trace | None) -> host.Setting:
        from kvmrkt import host
        from kvmrkt.trace import Trace

        return host.Setting(self.options, trace or Trace.since_process_start(), self._report)


class Pod:
    """One pod, in whatever state; as a context manager it is stopped at the end of the block."""

    def __init__(self, host: Host, directory: PodDirectory) -> None:
        """Pods come from a Host's methods."""
        self.host = host
        self._directory = directory
        self._supervisor: Supervisor | None = None

    def __enter__(self) -> Self:
        """The pod itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the pod if it runs; what it left stays, for `status` and until `remove`."""
        if self.state is PodState.RUNNING:
            self.stop()
        self._finish()

    def __repr__(self) -> str:
        """Which one, for a debugger."""
        return f"<Pod {self.uuid}>"

    @property
    def uuid(self) -> str:
        """The pod's UUID."""
        return self._directory.uuid

    @property
    def state(self) -> PodState:
        """The state now; PodNotFoundError once the pod is removed."""
        return self._directory.state()

    def status(self) -> PodStatus:
        """What `kvmrkt status --format=json` shows, as data."""
        from kvmrkt.pods.status import read_pod

        return read_pod(self._directory).status

    def manifest(self) -> PodManifest:
        """The pod manifest."""
        from kvmrkt.appc.pod_manifest import parse_pod_manifest

        self._directory.state()  # follows a pod that has moved
        text = self._directory.read_pod_manifest()
        if text is None:
            raise PodError(f'pod "{self.uuid}" has no manifest yet')
        return parse_pod_manifest(text)

    def start(
        self, options: RunOptions | None = None, *, output: IO[bytes] | int = subprocess.DEVNULL
    ) -> None:
        """Run a prepared pod in a process of its own, as `Host.run`.

        Raises KvmrktError for what speaks against it; then the pod is prepared still.
        """
        from kvmrkt.background import Supervisor
        from kvmrkt.stage1.engine import RunOptions

        options = options or RunOptions()
        if options.interactive:
            raise UsageError("a pod in the background cannot be interactive", hint="use run_here")
        self._supervisor = Supervisor.start(
            self._directory, options, self.host.options, output=output
        )

    def run_here(self, options: RunOptions | None = None, *, trace: Trace | None = None) -> int:
        """Run a prepared pod to its end in this process, as `Host.run_here`."""
        from kvmrkt import host
        from kvmrkt.stage1.engine import RunOptions

        setting = self.host._setting(trace)
        return host.run_prepared_pod(self._directory, options or RunOptions(), setting)

    def wait_ready(self, timeout_seconds: float | None = None) -> bool:
        """Wait until every app has started, and say whether it has.

        False when the pod ended before that, or the time is over.
        """
        from kvmrkt.pods.waiting import Outcome, wait_ready

        return wait_ready(self._directory, timeout_seconds) is Outcome.HAPPENED

    def wait(self, timeout_seconds: float | None = None) -> int:
        """Wait until the pod has ended, and return its exit status.

        Raises what ended a pod that this object started, EngineError for a pod that ended
        without a status, PodError for one that was never run, PodTimeoutError after the time.
        """
        from kvmrkt.pods.waiting import Outcome, wait_ended

        if self._supervisor is None:
            state = self.state
            if state is not PodState.RUNNING and state not in ENDED:
                raise PodError(f'pod "{self.uuid}" is not running: it is {state}')
        if self._supervisor is None or timeout_seconds is not None:
            outcome = wait_ended(self._directory, timeout_seconds)
            if outcome is Outcome.TIME_OVER:
                raise PodTimeoutError(
                    f'pod "{self.uuid}" has not ended within {timeout_seconds:g} seconds'
                )
        if self._supervisor is not None:
            return self._supervisor.wait()
        status = self.exit_status
        if status is None:
            raise EngineError(f'the supervisor of pod "{self.uuid}" was killed')
        return status

    def logs(
        self, apps: Iterable[str] | None = None, *, since_ns: int = 0, follow: bool = False
    ) -> Iterator[LogRecord]:
        """What the apps wrote, or some of them, line by line in order of time.

        `since_ns` is CLOCK_REALTIME; with `follow` it goes on until the pod has ended. Raises
        PodError for a pod that has not run, and an app that it has not.
        """
        from kvmrkt.pods.log_reader import check_has_run, known_apps, read_logs

        check_has_run(self._directory)
        return read_logs(self._directory, known_apps(self._directory, apps), since_ns, follow)

    @property
    def exit_status(self) -> int | None:
        """The exit status of a pod that has ended; None before, and if its supervisor was killed.

        It is 254, or another of docs/exit-statuses.md, where the machinery failed.
        """
        self._directory.state()
        return self._directory.read_exit()

    def stop(self, *, force: bool = False) -> bool:
        """Stop the pod and wait for its end; False if it had ended before.

        Raises PodError if it does not run or does not end.
        """
        from kvmrkt.pods.stop import stop

        return stop(self._directory, force=force)

    def export(self, output: Path | str, app: str | None = None, *, overwrite: bool = False) -> str:
        """Write an app of an ended pod to an image file, with what its run has changed.

        Returns the new image's ID. `app` may be None in a pod of one; the file's name must end in
        `.aci`. Raises KvmrktError; then no file is there, or the old one.
        """
        from kvmrkt.exporting import export_app

        file, host = Path(output).absolute(), self.host
        return export_app(
            self._directory, app, file, host.options, host._report, overwrite=overwrite
        )

    def remove(self) -> None:
        """Delete a pod that does not run, and all it left; PodError if it runs."""
        from kvmrkt.pods.gc import remove

        remove(self._directory)
        self._finish()

    def _finish(self) -> None:
        """The pod has ended: so has the process that ran it."""
        if self._supervisor is not None:
            self._supervisor.finish()
