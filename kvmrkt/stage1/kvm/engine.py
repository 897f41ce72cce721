"""The KVM engine: a pod in a virtual machine of its own, under KVM or software emulation."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from kvmrkt.errors import VmmError
from kvmrkt.faults import reach
from kvmrkt.lean_imports import without_tls
from kvmrkt.net.choice import needs_links
from kvmrkt.paths import RUNTIME, runtime_pod_dir
from kvmrkt.pods.records import AppRecord
from kvmrkt.pods.resources import Resources
from kvmrkt.stage1.kvm import share
from kvmrkt.stage1.kvm.accel import HELLO_SECONDS, choose_accelerator, remember_bad
from kvmrkt.stage1.kvm.boot import Boot, boot_files, boot_of
from kvmrkt.stage1.kvm.jail.cell import furnish, limit
from kvmrkt.stage1.kvm.machine import (
    Accelerator,
    DiskImage,
    Machine,
    NetworkCard,
    Plan9,
    VirtioFs,
)
from kvmrkt.stage1.kvm.podspec import PodSpec, Share, Terminal
from kvmrkt.stage1.kvm.scratch import make_scratch
from kvmrkt.stage1.kvm.sizing import Sizing, share_fairly, size_machine
from kvmrkt.stage1.kvm.translate import SCRATCH, Streams, translate
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
    from kvmrkt.activation import ActivatedPort
    from kvmrkt.appc.image_manifest import ImageManifest
    from kvmrkt.config import GlobalOptions
    from kvmrkt.configuration import KvmSettings
    from kvmrkt.net.attachment import Attachment
    from kvmrkt.net.plan import NetworkPlan
    from kvmrkt.pods.directory import PodDirectory
    from kvmrkt.stage1.engine import AppExport, EnginePod, RunOptions
    from kvmrkt.stage1.kvm.activated import Activation
    from kvmrkt.stage1.kvm.agent import AppExited, AppStarted
    from kvmrkt.trace import Trace


class KvmPod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod in this engine's own terms: its PodRun."""

    directory: PodDirectory
    spec: PodSpec
    images: dict[str, Path]
    """The rendered image behind each disk serial of the spec."""
    folders: tuple[share.HostFolder, ...]
    boot: Boot
    accelerator: str = "auto"
    hello_seconds: float | None = None
    sizing: Sizing = Sizing()
    jailed: bool = True
    tty_fd: int | None = None
    network: NetworkPlan | None = None
    network_dns: bool = True
    activated: tuple[ActivatedPort, ...] = ()

    def run(self, trace: Trace, warn: Callable[[str], None]) -> int:
        """Boot the pod, follow it to its end, and return its exit status.

        With `auto`, a KVM that breaks while the guest boots is remembered as broken and the pod
        starts once more under emulation.
        """
        choice = choose_accelerator(self.accelerator, RUNTIME)
        if choice.kind == "tcg" and self.accelerator != "tcg":
            warn(f"{choice.reason}; the pod runs under software emulation, which is slow")
        with ExitStack() as stack:
            return self._run(choice.kind, _join_networks(self, stack, warn), trace, warn)

    def _run(
        self,
        accelerator: Accelerator,
        attachment: Attachment | None,
        trace: Trace,
        warn: Callable[[str], None],
    ) -> int:
        try:
            return _run_machine(self, accelerator, attachment, trace, warn)
        except VmmError as error:
            from kvmrkt.stage1.kvm.monitor import MachineStoppedError

            if not isinstance(error, MachineStoppedError):
                raise
            if accelerator != "kvm" or self.accelerator != "auto":
                raise
            remember_bad(error.message)
            warn(f"KVM broke while the guest booted ({error.message}); once more under emulation")
            return _run_machine(self, "tcg", attachment, trace, warn)


class KvmEngine:
    """The engine `kvm`."""

    def boot_files(self, manifest: ImageManifest) -> Mapping[str, str]:
        """Kernels and initrd."""
        return boot_files(manifest)

    def plan(self, pod: EnginePod) -> KvmPod:
        """Translate the manifest to the agent's terms."""
        options, settings = pod.options, _settings(pod.host)
        translation = translate(
            pod.manifest,
            pod.directory.uuid,
            hostname=options.hostname,
            streams=_streams(options),
            insecure=pod.insecure,
        )
        spec = msgspec.structs.replace(
            translation.spec,
            resolv_conf=options.resolv_conf,
            hosts=_hosts(options, translation.spec.hostname),
        )
        return KvmPod(
            directory=pod.directory,
            spec=spec,
            images={serial: pod.trees[image] for serial, image in translation.image_ids.items()},
            folders=translation.folders,
            boot=boot_of(pod.stage1),
            accelerator=options.accelerator or settings.accelerator or "auto",
            hello_seconds=options.boot_timeout_seconds or settings.boot_timeout_seconds,
            sizing=Sizing.of(settings),
            jailed=not pod.insecure.jail,
            tty_fd=options.tty_fd,
            network=_network(pod),
            network_dns=options.network_dns,
            activated=pod.activated,
        )

    def export(self, app: AppExport, warn: Callable[[str], None]) -> Generator[bytes, None, None]:
        """Read it in a virtual machine that does nothing else."""
        from kvmrkt.stage1.kvm.export import export

        return export(app, _settings(app.host), warn)


ENGINE = KvmEngine()


def _settings(host: GlobalOptions) -> KvmSettings:
    from kvmrkt.configuration import load_configuration

    layers = host.system_config, host.local_config, host.user_config
    return load_configuration(*layers, folders=("kvm.d",)).kvm


def _network(pod: EnginePod) -> NetworkPlan | None:
    """What has to be done for the pod's networks; None for a pod with loopback alone."""
    if not needs_links(pod.options.networks):
        return None
    from kvmrkt.net.plan import plan_networks
    from kvmrkt.pods.ports import forwards

    folders = pod.host.system_config, pod.host.local_config
    taken = {(port.protocol, port.host_port) for port in pod.activated}
    led = [way for way in forwards(pod.manifest) if (way.protocol, way.host_port) not in taken]
    return plan_networks(folders, pod.options.networks, tuple(led))


def _join_networks(pod: KvmPod, stack: ExitStack, warn: Callable[[str], None]) -> Attachment | None:
    if pod.network is None:
        return None
    from kvmrkt.net.setup import set_up

    for warning in pod.network.warnings:
        warn(warning)
    attachment = set_up(pod.network, pod.directory, Resources(pod.directory), stack)
    for client in attachment.dhcp:
        client.warn = warn
    return attachment


def _hosts(options: RunOptions, hostname: str) -> str | None:
    """What /etc/hosts says; None leaves it to the agent."""
    if options.hosts is not None or not options.hosts_entries:
        return options.hosts
    from kvmrkt.pods.dns import hosts

    return hosts(options.hosts_entries, hostname)


def _streams(options: RunOptions) -> Streams:
    if not options.interactive:
        return Streams()
    if options.tty_fd is None:
        return Streams("stream")
    from kvmrkt.stage1.kvm.streams import window_size

    rows, columns = window_size(options.tty_fd)
    return Streams("tty", Terminal(rows, columns, os.environ.get("TERM", "xterm")))


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


def _run_machine(
    pod: KvmPod,
    accelerator: Accelerator,
    attachment: Attachment | None,
    trace: Trace,
    warn: Callable[[str], None],
) -> int:
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
        machine = _machine(pod, accelerator, wires, scratch, served, attachment)
        qemu = find_qemu(accelerator, lean=served is None)
        cell = None
        if pod.jailed:
            cell = furnish(machine, qemu, pod.spec.uuid, stack)
            cell = limit(cell, pod.spec.uuid, resources, warn)
        vmm = Vmm.start(qemu, machine, wires, logs / "qemu", setup=setup, cell=cell)
        stack.callback(vmm.kill)
        reach("qemu-started")
        resources.record_process(vmm.process.pid, "qemu")
        reach("qemu-recorded")
        for client in attachment.dhcp if attachment else ():
            client.keep()
        trace.end("spawn")
        spec = _spec(pod.spec, served, machine.memory_bytes)
        spec = _with_network(spec, attachment, network_dns=pod.network_dns)
        records = _Records(directory, warn)
        activations = _activations(pod, attachment)
        return _supervise(pod, spec, vmm, wires, records, accelerator, trace, activations)


def _supervise(
    pod: KvmPod,
    spec: PodSpec,
    vmm: Vmm,
    wires: Wires,
    records: _Records,
    accelerator: Accelerator,
    trace: Trace,
    activations: tuple[Activation, ...],
) -> int:
    # QEMU starts while these are imported
    with without_tls():
        import asyncio
        import gc

        from kvmrkt.stage1.kvm.reach import Way
        from kvmrkt.stage1.kvm.streams import raw_terminal
        from kvmrkt.stage1.kvm.supervisor import Supervision, Supervisor

    plan = Supervision(
        spec=spec,
        logs=pod.directory.path / "logs",
        hello_seconds=pod.hello_seconds or HELLO_SECONDS[accelerator],
        way=Way(
            socket=runtime_pod_dir(pod.directory.uuid) / "ssh",
            keys=pod.directory.path / "ssh",
            program=pod.boot.ssh,
        ),
        activations=activations,
        tty_fd=pod.tty_fd,
    )
    supervisor = Supervisor(vmm, wires, plan, records, trace)
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
    pod: KvmPod,
    accelerator: Accelerator,
    wires: Wires,
    scratch: Path,
    served: VirtioFs | Plan9 | None,
    attachment: Attachment | None,
) -> Machine:
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
        cards=tuple(
            NetworkCard(link.mac, link.tap_fd) for link in (attachment.links if attachment else ())
        ),
    )


def _serve_folders(
    pod: KvmPod, resources: Resources, wires: Wires, logs: Path, stack: ExitStack
) -> tuple[VirtioFs | Plan9 | None, Callable[[], None] | None]:
    """The share for the pod's host volumes, and what QEMU's process must do before it starts."""
    if not pod.folders:
        return None, None
    mount_point = resources.record_run_dir() / share.TAG
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
