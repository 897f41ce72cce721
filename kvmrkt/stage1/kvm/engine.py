"""The KVM engine: a pod in a virtual machine of its own, under KVM or software emulation."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.errors import VmmError
from kvmrkt.net.choice import needs_links
from kvmrkt.paths import RUNTIME
from kvmrkt.pods.resources import Resources
from kvmrkt.stage1.kvm.accel import choose_accelerator, remember_bad
from kvmrkt.stage1.kvm.boot import Boot, boot_files, boot_of
from kvmrkt.stage1.kvm.launch import Launch, run_machine
from kvmrkt.stage1.kvm.podspec import PodSpec, Terminal
from kvmrkt.stage1.kvm.sizing import Sizing
from kvmrkt.stage1.kvm.translate import Streams, translate

if TYPE_CHECKING:
    from kvmrkt.activation import ActivatedPort
    from kvmrkt.appc.image_manifest import ImageManifest
    from kvmrkt.config import GlobalOptions
    from kvmrkt.configuration import KvmSettings
    from kvmrkt.net.attachment import Attachment
    from kvmrkt.net.plan import NetworkPlan
    from kvmrkt.pods.directory import PodDirectory
    from kvmrkt.stage1.engine import AppExport, EnginePod, RunOptions
    from kvmrkt.stage1.kvm.share import HostFolder
    from kvmrkt.trace import Trace


class KvmPod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod in this engine's own terms: its PodRun."""

    directory: PodDirectory
    spec: PodSpec
    images: dict[str, Path]
    """The rendered image behind each disk serial of the spec."""
    folders: tuple[HostFolder, ...]
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
            attachment = _join_networks(self, stack, warn)
            return self._run(Launch(self, choice.kind, attachment, trace, warn))

    def _run(self, launch: Launch) -> int:
        try:
            return run_machine(launch)
        except VmmError as error:
            from kvmrkt.stage1.kvm.monitor import MachineStoppedError

            if not isinstance(error, MachineStoppedError):
                raise
            if launch.accelerator != "kvm" or self.accelerator != "auto":
                raise
            remember_bad(error.message)
            launch.warn(
                f"KVM broke while the guest booted ({error.message}); once more under emulation"
            )
            return run_machine(launch._replace(accelerator="tcg"))


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
