"""From a planned pod to its machine: what it takes is written down, then made, then given back."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from kvmrkt.faults import reach
from kvmrkt.lean_imports import without_tls
from kvmrkt.paths import runtime_pod_dir
from kvmrkt.pods.records import AppRecord
from kvmrkt.pods.resources import Resources
from kvmrkt.stage1.kvm import share
from kvmrkt.stage1.kvm.accel import HELLO_SECONDS
from kvmrkt.stage1.kvm.jail.cell import furnish, limit
from kvmrkt.stage1.kvm.machine import (
    Accelerator,
    DiskImage,
    Machine,
    NetworkCard,
    Plan9,
    VirtioFs,
)
from kvmrkt.stage1.kvm.podspec import PodSpec, Share
from kvmrkt.stage1.kvm.scratch import make_scratch
from kvmrkt.stage1.kvm.sizing import share_fairly, size_machine
from kvmrkt.stage1.kvm.translate import SCRATCH
from kvmrkt.stage1.kvm.tsc import tsc_khz
from kvmrkt.stage1.kvm.vmm import (
    CONSOLE,
    MONITOR,
    SHARE,
    Vmm,
    Wires,
    find_qemu,
    machine_ports,
    make_wires,
)

if TYPE_CHECKING:
    from kvmrkt.net.attachment import Attachment
    from kvmrkt.pods.directory import PodDirectory
    from kvmrkt.stage1.kvm.activated import Activation
    from kvmrkt.stage1.kvm.agent import AppExited, AppStarted
    from kvmrkt.stage1.kvm.engine import KvmPod
    from kvmrkt.trace import Trace


class _Records:
    """Writes what becomes of each app to the pod's directory."""

    def __init__(self, directory: PodDirectory, warn: Callable[[str], None]) -> None:
        self._directory = directory
        self._warn = warn
        self._started: dict[str, int] = {}

    def app_started(self, event: AppStarted) -> None:
        self._started[event.name] = event.time_ns
        self._directory.write_app_record(event.name, AppRecord(started_ns=event.time_ns))

    def app_exited(self, event: AppExited) -> None:
        record = AppRecord(
            code=event.status,
            started_ns=self._started.get(event.name),
            finished_ns=event.time_ns,
            oom_kills=event.oom_kills,
        )
        self._directory.write_app_record(event.name, record)
        if event.oom_kills:
            self._warn(
                f'app "{event.name}" ran out of memory: {event.oom_kills} of its processes were '
                "killed (--memory gives it more)"
            )


class Launch(NamedTuple):
    """One start of a pod's machine; `attachment` is its networks, which outlive a second start."""

    pod: KvmPod
    accelerator: Accelerator
    attachment: Attachment | None
    trace: Trace
    warn: Callable[[str], None]


def run_machine(launch: Launch) -> int:
    """Start the machine, follow it to its end, and return the pod's exit status.

    Raises EngineError; MachineStoppedError if no app can have run yet.
    """
    pod = launch.pod
    with ExitStack() as stack:
        directory, resources = pod.directory, Resources(pod.directory)
        logs = directory.path / "logs"
        logs.mkdir(mode=0o750, exist_ok=True)
        scratch = directory.path / "scratch.img"
        scratch.unlink(missing_ok=True)  # of a first try under another accelerator
        make_scratch(directory.data.cas, scratch)
        reach("scratch-made")
        resources.record_run_dir()
        wires = make_wires(stack, tuple(port for app in pod.spec.apps for port in app.ports))
        served, setup = _serve_folders(pod, resources, wires, logs, stack)
        machine = _machine(launch, wires, scratch, served)
        qemu = find_qemu(launch.accelerator, lean=served is None)
        cell = None
        if pod.jailed:
            cell = furnish(machine, qemu, pod.spec.uuid, stack)
            cell = limit(cell, pod.spec.uuid, resources, launch.warn)
        vmm = Vmm.start(qemu, machine, wires, logs / "qemu", setup=setup, cell=cell)
        stack.callback(vmm.kill)
        reach("qemu-started")
        resources.record_process(vmm.process.pid, "qemu")
        reach("qemu-recorded")
        for client in launch.attachment.dhcp if launch.attachment else ():
            client.keep()
        launch.trace.end("spawn")
        spec = _spec(pod.spec, served, machine.memory_bytes)
        spec = _with_network(spec, launch.attachment, network_dns=pod.network_dns)
        return _supervise(launch, spec, vmm, wires)


def _supervise(launch: Launch, spec: PodSpec, vmm: Vmm, wires: Wires) -> int:
    # QEMU starts while these are imported
    with without_tls():
        import asyncio
        import gc

        from kvmrkt.stage1.kvm.reach import Way
        from kvmrkt.stage1.kvm.streams import raw_terminal
        from kvmrkt.stage1.kvm.supervisor import Supervision, Supervisor

    pod = launch.pod
    plan = Supervision(
        spec=spec,
        logs=pod.directory.path / "logs",
        hello_seconds=pod.hello_seconds or HELLO_SECONDS[launch.accelerator],
        way=Way(
            socket=runtime_pod_dir(pod.directory.uuid) / "ssh",
            keys=pod.directory.path / "ssh",
            program=pod.boot.ssh,
        ),
        activations=_activations(pod, launch.attachment),
        tty_fd=pod.tty_fd,
    )
    records = _Records(pod.directory, launch.warn)
    supervisor = Supervisor(vmm, wires, plan, records, launch.trace)
    gc.freeze()  # what was imported stays; what the pod's life makes is collected
    gc.enable()
    with ExitStack() as stack:
        if pod.tty_fd is not None:
            stack.enter_context(raw_terminal(pod.tty_fd))
        return asyncio.run(supervisor.run())


def _activations(pod: KvmPod, attachment: Attachment | None) -> tuple[Activation, ...]:
    if not pod.activated or attachment is None:
        return ()
    from kvmrkt.stage1.kvm.activated import Activation

    address = attachment.links[0].addresses[0].partition("/")[0]
    return tuple(Activation(port, address) for port in pod.activated)


def _spec(spec: PodSpec, served: VirtioFs | Plan9 | None, memory_bytes: int) -> PodSpec:
    """The pod's spec, now that it is known how big its machine is and how host volumes travel."""
    spec = msgspec.structs.replace(spec, apps=share_fairly(spec.apps, memory_bytes))
    if served is None:
        return spec
    transport: Literal["virtiofs", "9p"] = "virtiofs" if isinstance(served, VirtioFs) else "9p"
    return msgspec.structs.replace(spec, share=Share(transport, served.tag))


def _with_network(spec: PodSpec, attachment: Attachment | None, *, network_dns: bool) -> PodSpec:
    """The pod's spec, now that its networks are there."""
    if attachment is None:
        return spec
    from kvmrkt.stage1.kvm.guest_network import guest_network, network_resolv_conf

    resolv_conf = spec.resolv_conf
    if resolv_conf is None and network_dns:
        resolv_conf = network_resolv_conf(attachment)
    return msgspec.structs.replace(spec, network=guest_network(attachment), resolv_conf=resolv_conf)


def _machine(
    launch: Launch, wires: Wires, scratch: Path, served: VirtioFs | Plan9 | None
) -> Machine:
    pod, accelerator = launch.pod, launch.accelerator
    links = launch.attachment.links if launch.attachment else ()
    size = size_machine(
        [app.limits.memory_bytes for app in pod.spec.apps],
        [app.limits.cpu_millis for app in pod.spec.apps],
        host_cpus=os.cpu_count() or 1,
        emulated=accelerator == "tcg",
        sizing=pod.sizing,
    )
    images = [DiskImage(serial, path, read_only=True) for serial, path in pod.images.items()]
    return Machine(
        name=f"kvmrkt-{pod.spec.uuid}",
        accelerator=accelerator,
        cpus=size.cpus,
        memory_bytes=size.memory_bytes,
        kernel=pod.boot.kernel_for(accelerator),
        initrd=pod.boot.initrd,
        kernel_parameters=pod.boot.kernel_parameters,
        tsc_khz=tsc_khz(),
        monitor_fd=wires.theirs[MONITOR].fileno(),
        console_fd=wires.theirs[CONSOLE].fileno(),
        ports=machine_ports(wires),
        disks=(*images, DiskImage(SCRATCH, scratch, read_only=False)),
        share=served,
        cards=tuple(NetworkCard(link.mac, link.tap_fd) for link in links),
    )


def _serve_folders(
    pod: KvmPod, resources: Resources, wires: Wires, logs: Path, stack: ExitStack
) -> tuple[VirtioFs | Plan9 | None, Callable[[], None] | None]:
    """The share for the pod's host volumes, and what QEMU's process must do before it starts."""
    if not pod.folders:
        return None, None
    mount_point = runtime_pod_dir(pod.directory.uuid) / share.TAG
    mount_point.mkdir(exist_ok=True)
    reach("mount-point-made")
    program = share.find_virtiofsd()
    if program is None:
        return Plan9(share.TAG, mount_point), share.make_tree(mount_point, pod.folders)
    with (logs / "virtiofsd").open("ab") as log:
        process, connection = share.start_virtiofsd(program, mount_point, pod.folders, log)
    stack.callback(process.wait, timeout=10)
    stack.callback(process.kill)
    reach("virtiofsd-started")
    resources.record_process(process.pid, "virtiofsd")
    reach("virtiofsd-recorded")
    wires.lend(SHARE, connection)
    return VirtioFs(share.TAG, connection.fileno()), None
