"""A guest as the agent's tests drive it: booted by the host's own code, spoken to line by line.

The host's `Agent` keeps of an error only what a person reads, and knows no method that `kvmrkt run`
does not need; here the messages are those of `docs/protocol.md`, and nothing is left out.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import socket
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from real_pods import BUSYBOX, DEADLINE_SECONDS

from kvmrkt.images.policy import FetchPolicy
from kvmrkt.images.store import Store
from kvmrkt.images.tree import tree_for
from kvmrkt.paths import DataDir
from kvmrkt.stage1.image import Stage1Choice, Stage1Sources, find_stage1
from kvmrkt.stage1.kvm.accel import choose_accelerator
from kvmrkt.stage1.kvm.agent import EVENTS, AppExited, AppStatus, Event, GuestStatus, Hello
from kvmrkt.stage1.kvm.applog import LogRecord, decode_record
from kvmrkt.stage1.kvm.boot import Boot as Stage1Boot
from kvmrkt.stage1.kvm.boot import boot_of
from kvmrkt.stage1.kvm.machine import DiskImage, Machine
from kvmrkt.stage1.kvm.podspec import AppSpec, Disk, PodSpec
from kvmrkt.stage1.kvm.ports import CONTROL_PORT, LOG_PORT
from kvmrkt.stage1.kvm.scratch import DEFAULT_BYTES, make_scratch
from kvmrkt.stage1.kvm.sizing import size_machine
from kvmrkt.stage1.kvm.translate import SCRATCH
from kvmrkt.stage1.kvm.tsc import tsc_khz
from kvmrkt.stage1.kvm.vmm import CONSOLE, MONITOR, Vmm, Wires, find_qemu, machine_ports, make_wires

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_T = TypeVar("_T")

DISK = "image0"
"""The serial of the disk that holds busybox."""


@dataclass(frozen=True)
class Boot:
    """What all guests of a test session have in common."""

    stage1: Stage1Boot
    image: Path
    cas: Path


def prepare_boot(folder: Path, image: Path = BUSYBOX) -> Boot:
    """Take stage1 and an image into a store of their own, and render the image."""
    data = DataDir(folder)
    with Store(data) as store:
        # no folder of an installed kvmrkt: the checkout's own stage1 image
        stage1 = find_stage1(store, Stage1Choice("default"), FetchPolicy(), Stage1Sources(folder))
        tree = tree_for(store, store.import_aci(image).id)
    return Boot(boot_of(stage1), tree, data.cas)


class RefusedError(Exception):
    """The agent answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        """Take JSON-RPC's error object apart."""
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.message: str = error["message"]
        data = error.get("data", {})
        self.kind: str | None = data.get("kind")
        self.app: str | None = data.get("app")


@dataclass(frozen=True)
class Ran:
    """An app that came to its end."""

    exit: AppExited
    records: list[LogRecord]

    @property
    def lines(self) -> list[str | None]:
        """What it wrote, both streams."""
        return [record.text for record in self.records]


@dataclass
class Guest:
    """A running guest and everything it has said."""

    vmm: Vmm
    wires: Wires
    records: list[LogRecord] = field(default_factory=list)
    log_ended: bool = False
    events: list[Event] = field(default_factory=list)
    """Those that nobody has waited for yet."""
    _names: set[str] = field(default_factory=set)
    _added_at: dict[str, int] = field(default_factory=dict)
    """How many records there were when an app of this name was added last."""
    _hello: Hello | None = None
    _answers: list[dict[str, Any]] = field(default_factory=list)
    _requests: int = 0
    _open: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _buffers: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Listen to all ports."""
        for name in (CONTROL_PORT, LOG_PORT, CONSOLE):
            self._buffers[name] = b""
            self._open.register(self.wires.ours[name], selectors.EVENT_READ, name)

    # -- what a test does ----------------------------------------------------------------------

    def hello(self) -> Hello:
        """Wait for the agent."""
        return self.wait(lambda: self._hello)

    def call(self, method: str, params: object = None) -> dict[str, Any]:
        """Make a request and wait for its result; raises RefusedError."""
        self._requests += 1
        message = {"jsonrpc": "2.0", "id": self._requests, "method": method, "params": params or {}}
        answer = self.send_line(msgspec.json.encode(message))
        assert answer["id"] == self._requests
        if "error" in answer:
            raise RefusedError(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def send_line(self, line: bytes) -> dict[str, Any]:
        """Send anything on the control port, and wait for the answer."""
        self.wires.ours[CONTROL_PORT].sendall(line + b"\n")
        return self.next_answer()

    def next_answer(self) -> dict[str, Any]:
        """Wait for the answer to a request."""
        return self.wait(lambda: self._answers.pop(0) if self._answers else None)

    def start_pod(self, *apps: AppSpec, on_failure: Any = "continue") -> None:
        """Wait for hello, then `pod.start`."""
        self.hello()
        self._names.update(app.name for app in apps)
        spec = PodSpec(
            uuid="00000000-0000-4000-8000-000000000000",
            hostname="guest",
            realtime_ns=time.time_ns(),
            entropy=base64.b64encode(os.urandom(64)).decode(),
            apps=apps,
            disks=(Disk(DISK, "squashfs", read_only=True), Disk(SCRATCH, "ext4", read_only=False)),
            on_failure=on_failure,
        )
        self.call("pod.start", spec)

    def add(self, app: AppSpec) -> None:
        """`app.add`."""
        self._names.add(app.name)
        self._added_at[app.name] = len(self.records)
        self.call("app.add", app)

    def start(self, app: AppSpec) -> int:
        """`app.add` and `app.start`; the app's process."""
        self.add(app)
        pid: int = self.call("app.start", {"name": app.name})["pid"]
        return pid

    def run(self, app: AppSpec) -> Ran:
        """From `app.add` over its end to `app.remove`."""
        try:
            self.start(app)
            end = self.exit_of(app.name)
            return Ran(end, self.records_of(app.name))
        finally:
            self.call("app.remove", {"name": app.name})

    def end(self, name: str) -> None:
        """Kill an app that runs, and remove it."""
        self.call("app.stop", {"name": name, "grace_seconds": 0})
        self.exit_of(name)
        self.call("app.remove", {"name": name})

    def event(self, kind: type[_T], name: str | None = None) -> _T:
        """Wait for an event, of one app if it is named, and take it off the list."""

        def found() -> _T | None:
            for event in self.events:
                if isinstance(event, kind) and name in (None, getattr(event, "name", None)):
                    self.events.remove(event)
                    return event
            return None

        return self.wait(found)

    def exit_of(self, name: str) -> AppExited:
        """Wait for an app's end; its records are there then."""
        return self.event(AppExited, name)

    def line_of(self, name: str, text: str) -> None:
        """Wait until an app has written this line."""
        self.wait(lambda: any(record.text == text for record in self.records_of(name)) or None)

    def records_of(self, name: str) -> list[LogRecord]:
        """What an app has written so far; not what one of its name wrote that was removed."""
        since = self._added_at.get(name, 0)
        return [record for record in self.records[since:] if record.app == name]

    def status_of(self, name: str) -> AppStatus:
        """An app's part of `pod.status`."""
        status = msgspec.convert(self.call("pod.status"), GuestStatus)
        return next(app for app in status.apps if app.name == name)

    def exit_status(self) -> int:
        """Wait until the guest is down; QEMU's status."""
        self.wait(lambda: not self._open.get_map() or None)
        return self.vmm.process.wait(timeout=DEADLINE_SECONDS)

    # -- what it hears -------------------------------------------------------------------------

    def wait(self, until: Callable[[], _T | None]) -> _T:
        """Listen until there is a value; the deadline is a backstop against hangs."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (value := until()) is None:
            assert self._open.get_map(), f"the guest is gone: {self.console()}"
            ready = self._open.select(timeout=max(0.0, deadline - time.monotonic()))
            assert ready, f"the guest said nothing more: {self.console()}"
            # control first: what was logged before a message can be read once the message can
            for name in (CONTROL_PORT, LOG_PORT, CONSOLE):
                self._read(name)
        return value

    def _read(self, name: str) -> None:
        end = self.wires.ours[name]
        while end.fileno() in self._open.get_map():
            try:
                data = end.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if not data:
                self._open.unregister(end)
            self._buffers[name] += data
        if name != CONSOLE:
            *lines, self._buffers[name] = self._buffers[name].split(b"\n")
            for line in lines:
                self._take_record(line) if name == LOG_PORT else self._take_message(line)

    def _take_record(self, line: bytes) -> None:
        record = decode_record(line, frozenset(self._names))
        if record.end:
            self.log_ended = True
        else:
            self.records.append(record)

    def _take_message(self, line: bytes) -> None:
        message = json.loads(line)
        assert message["jsonrpc"] == "2.0"
        if "method" not in message:
            self._answers.append(message)
        elif message["method"] == "hello":
            self._hello = msgspec.convert(message["params"], Hello)
        else:
            self.events.append(msgspec.convert(message["params"], EVENTS[message["method"]]))

    def console(self) -> str:
        """The last of what the kernel said, and QEMU's own words."""
        return self._buffers[CONSOLE][-4096:].decode(errors="replace") + self.vmm.last_words()

    def close(self) -> None:
        """Stop listening."""
        self._open.close()


@contextmanager
def booted(boot: Boot, folder: Path, *, scratch_bytes: int = DEFAULT_BYTES) -> Iterator[Guest]:
    """A guest whose agent waits for `pod.start`; gone with the block, however that ends."""
    accelerator = choose_accelerator("auto").kind
    scratch = folder / "scratch.img"
    make_scratch(boot.cas, scratch, scratch_bytes)
    size = size_machine([None], [], host_cpus=1, emulated=accelerator == "tcg")
    with ExitStack() as stack:
        wires = make_wires(stack, ())
        machine = Machine(
            name="kvmrkt-agent-test",
            accelerator=accelerator,
            cpus=size.cpus,
            memory_bytes=size.memory_bytes,
            kernel=boot.stage1.kernel_for(accelerator),
            initrd=boot.stage1.initrd,
            kernel_parameters=boot.stage1.kernel_parameters,
            tsc_khz=tsc_khz(),
            monitor_fd=wires.theirs[MONITOR].fileno(),
            console_fd=wires.theirs[CONSOLE].fileno(),
            ports=machine_ports(wires),
            disks=(
                DiskImage(DISK, boot.image, read_only=True),
                DiskImage(SCRATCH, scratch, read_only=False),
            ),
        )
        vmm = Vmm.start(find_qemu(accelerator, lean=True), machine, wires, folder / "qemu")
        stack.callback(vmm.kill)
        guest = Guest(vmm, wires)
        stack.callback(guest.close)
        yield guest


def app(name: str, *argv: str, **changes: Any) -> AppSpec:
    """An app that runs a program of busybox as root, without any capability."""
    fields: dict[str, Any] = {"environment": (), "user": "0", "group": "0", **changes}
    return AppSpec(name=name, disk=DISK, argv=argv, **fields)


def shell(name: str, script: str, **changes: Any) -> AppSpec:
    """An app that runs a script."""
    return app(name, "/bin/sh", "-c", script, **changes)
