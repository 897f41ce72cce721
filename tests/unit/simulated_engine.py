"""An engine without a virtual machine and without root, for tests of everything above an engine.

An app's program says what happens: PROGRAMS are those that end by themselves, `/bin/sleep` runs
until it is stopped, `/bin/hold` as well, and holds things on the host meanwhile; BEFORE_THE_APPS
and WHILE_THEY_RUN are ways in which the machinery breaks, and any other path is a program that the
image lacks. Apps run in the manifest's order, each as far as it gets by itself; the first that
fails stops the others, as the real agent does.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import msgspec
from raw_tar import bare, folder, raw

from kvmrkt.errors import (
    AgentSilentError,
    AppStartError,
    BootTimeoutError,
    GuestError,
    GuestPanicError,
    HostError,
    KvmrktError,
    ManifestError,
    OutOfMemoryError,
    VmmError,
)
from kvmrkt.net.choice import needs_links
from kvmrkt.net.plan import plan_networks
from kvmrkt.pods.ports import forwards
from kvmrkt.pods.records import AppRecord
from kvmrkt.pods.resources import Resources
from kvmrkt.stage1.engine import AppExport, EnginePod, register_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from kvmrkt.appc.image_manifest import ImageManifest
    from kvmrkt.appc.pod_manifest import RuntimeApp
    from kvmrkt.trace import Trace

NAME = "simulated"
SLEEP = "/bin/sleep"
HOLD = "/bin/hold"
HANGS = "/fails/hangs"
DISK = "scratch.img"
LEFT = bare(folder(b"rootfs"), raw(b"rootfs/made", b"by the app\n"))
"""What every simulated app leaves: an archive of its file system, which is the pod's disk."""
BROKEN = b"broken"
"""A disk with which the machine dies half-way."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

BEFORE_THE_APPS: dict[str, Callable[[], KvmrktError]] = {
    "/fails/no-accelerator": lambda: HostError("there is no /dev/kvm", hint="load a module"),
    "/fails/silent": lambda: BootTimeoutError("the guest's agent said nothing within 60 seconds"),
    "/fails/no-qemu": lambda: VmmError("cannot start qemu: not found"),
}
WHILE_THEY_RUN: dict[str, Callable[[], KvmrktError]] = {
    "/fails/panic": lambda: GuestPanicError("the guest's kernel panicked", details="last words"),
    "/fails/mute": lambda: AgentSilentError("the guest's agent closed its control port"),
    "/fails/lies": lambda: GuestError("the guest's agent broke the protocol"),
    "/fails/memory": lambda: OutOfMemoryError("the host ran out of memory"),
    "/fails/killed": lambda: VmmError("QEMU was ended by SIGKILL"),
}


class SimulatedPod:
    """One pod on its way from start to end."""

    def __init__(self, pod: EnginePod) -> None:
        self._pod = pod
        self._statuses: dict[str, int] = {}
        self._failed = 0
        self._asleep: list[str] = []

    def run(self, trace: Trace, warn: Callable[[str], None]) -> int:
        """What an engine's run is: starts, records, lines of output, ends."""
        warn("this pod is only simulated")
        (self._pod.directory.path / DISK).write_bytes(LEFT)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self._hang()
            self._fail(BEFORE_THE_APPS)
            for app in self._pod.manifest.apps:
                self._check_program(app)
            for app in self._pod.manifest.apps:
                self._record(app.name, None)
            self._fail(WHILE_THEY_RUN)
            for app in self._pod.manifest.apps:
                self._run_app(app)
            self._sleep()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        trace.end("app")
        return self._failed

    def _argv(self, app: RuntimeApp) -> list[str]:
        assert app.app is not None
        return app.app.exec

    def _hang(self) -> None:
        """A guest that never answers, until a signal has enough of it."""
        if any(self._argv(app)[0] == HANGS for app in self._pod.manifest.apps):
            signal.sigwait(STOP_SIGNALS)
            raise KvmrktError("the pod was killed on request, before its apps had ended")

    def _fail(self, ways: Mapping[str, Callable[[], KvmrktError]]) -> None:
        for app in self._pod.manifest.apps:
            if error := ways.get(self._argv(app)[0]):
                raise error()

    def _check_program(self, app: RuntimeApp) -> None:
        program = self._argv(app)[0]
        if program not in {*PROGRAMS, SLEEP, HOLD, *WHILE_THEY_RUN}:
            raise AppStartError(f'cannot start app "{app.name}": {program}: no such file')

    def _run_app(self, app: RuntimeApp) -> None:
        program, *arguments = self._argv(app)
        if program == HOLD:
            self._hold()
        if program in (SLEEP, HOLD):
            self._asleep.append(app.name)
            return
        status = PROGRAMS[program](self, app, arguments)
        self._record(app.name, status)
        self._failed = self._failed or status

    def _hold(self) -> None:
        """A folder and a process on the host, written down as the real engine does."""
        resources = Resources(self._pod.directory)
        folder = resources.record_run_dir()
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(1000)", folder],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        resources.record_process(child.pid, "held")

    def _sleep(self) -> None:
        """A sleeper ends when it is stopped, by a person or since another app failed."""
        if self._asleep and not self._failed:
            sys.stdout.flush()
            signal.sigwait(STOP_SIGNALS)
        for app in self._asleep:
            self._record(app, 128 + signal.SIGTERM)

    def _record(self, app: str, status: int | None) -> None:
        now_ns = time.time_ns()
        old = self._pod.directory.read_app_record(app) or AppRecord(started_ns=now_ns)
        if status is not None:
            old = msgspec.structs.replace(old, code=status, finished_ns=now_ns)
        self._pod.directory.write_app_record(app, old)

    def say(self, app: RuntimeApp, text: str) -> None:
        """A line of an app: shown, and kept as the real engine keeps it."""
        from kvmrkt.stage1.kvm.applog import LogRecord, format_line

        if self._pod.options.interactive:
            sys.stdout.write(f"{text}\n")
            return
        record = LogRecord(time.time_ns(), 784_177_000, app.name, 7, "stdout", text)
        logs = self._pod.directory.path / "logs"
        logs.mkdir(exist_ok=True)
        with (logs / f"{app.name}.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")
        sys.stdout.write(format_line(record) + "\n")


def _echo(pod: SimulatedPod, app: RuntimeApp, arguments: list[str]) -> int:
    pod.say(app, " ".join(arguments))
    return 0


def _env(pod: SimulatedPod, app: RuntimeApp, _: list[str]) -> int:
    assert app.app is not None
    for variable in app.app.environment:
        pod.say(app, f"{variable.name}={variable.value}")
    return 0


def _hostname(pod: SimulatedPod, app: RuntimeApp, _: list[str]) -> int:
    pod.say(app, pod._pod.options.hostname or f"rkt-{pod._pod.directory.uuid}")
    return 0


PROGRAMS: dict[str, Callable[[SimulatedPod, RuntimeApp, list[str]], int]] = {
    "/bin/app": lambda *_: 0,
    "/bin/true": lambda *_: 0,
    "/bin/exit": lambda _pod, _app, arguments: int(arguments[0]),
    "/bin/kill": lambda _pod, _app, arguments: 128 + int(arguments[0]),
    "/bin/echo": _echo,
    "/bin/env": _env,
    "/bin/hostname": _hostname,
}


class SimulatedEngine:
    """The engine `simulated`."""

    def boot_files(self, manifest: ImageManifest) -> Mapping[str, str]:
        """It boots nothing."""
        return {}

    def plan(self, pod: EnginePod) -> SimulatedPod:
        """Refuses an isolator by name, as a real engine refuses what makes no sense."""
        for app in pod.manifest.apps:
            assert app.app is not None
            if any(isolator.name == "refused" for isolator in app.app.isolators):
                raise ManifestError(f'cannot run app "{app.name}": the isolator is refused')
            assert pod.trees[app.image.id].exists()
        if needs_links(pod.options.networks):  # checked as a real engine does, and not made
            folders = pod.host.system_config, pod.host.local_config
            plan_networks(folders, pod.options.networks, forwards(pod.manifest))
        return SimulatedPod(pod)

    def export(self, app: AppExport, warn: Callable[[str], None]) -> Generator[bytes, None, None]:
        """The disk's content is the stream; a test may have put there what it likes."""
        warn(f"app {app.app} is only simulated")
        assert app.tree.exists()
        content = (app.directory.path / DISK).read_bytes()
        if content == BROKEN:
            yield LEFT[:700]
            raise VmmError("QEMU was ended by SIGKILL")
        yield from (content[at : at + 700] for at in range(0, len(content), 700))


def register() -> None:
    """Make the engine known to this process."""
    register_engine(NAME, SimulatedEngine())
