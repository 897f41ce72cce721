"""What the host tells the agent: the PodSpec of `docs/protocol.md`, version 1."""

from __future__ import annotations

from typing import Literal

import msgspec

PROTOCOL = 1

ReadMode = Literal["null", "stream", "tty"]
WriteMode = Literal["log", "stream", "tty", "null"]


class Interface(msgspec.Struct, frozen=True):
    """One network interface of the guest, found by its MAC address."""

    mac: str
    name: str
    mtu: int
    addresses: tuple[str, ...]
    prefix_routes: bool = True
    """Whether the networks of its addresses are neighbours on the link."""


class Route(msgspec.Struct, frozen=True):
    """One route; without a gateway the destination is on the link."""

    destination: str
    gateway: str | None
    interface: str


class Network(msgspec.Struct, frozen=True):
    """The guest's interfaces and routes."""

    interfaces: tuple[Interface, ...]
    routes: tuple[Route, ...]


class Disk(msgspec.Struct, frozen=True):
    """A block device, found by its serial (at most 20 bytes, virtio-blk's limit)."""

    serial: str
    filesystem: Literal["squashfs", "ext4"]
    read_only: bool


class Share(msgspec.Struct, frozen=True):
    """The host folder whose entries are the host volumes."""

    transport: Literal["virtiofs", "9p"]
    tag: str


class HostVolume(msgspec.Struct, frozen=True, tag_field="kind", tag="host"):
    """A volume that is the entry of its name at the top of the share."""

    name: str
    read_only: bool


class EmptyVolume(msgspec.Struct, frozen=True, tag_field="kind", tag="empty", omit_defaults=True):
    """A volume made on the scratch disk, gone with the pod."""

    name: str
    mode: int
    uid: int
    gid: int
    initialize: bool = False
    """It begins with what the image has where it is mounted; mode and owner too."""


class AppMount(msgspec.Struct, frozen=True):
    """A volume at a path in an app's root."""

    volume: str
    path: str
    read_only: bool


class Limits(msgspec.Struct, frozen=True):
    """cgroup v2 limits of one app; None leaves a limit open."""

    memory_bytes: int | None = None
    cpu_millis: int | None = None
    cpu_shares: int | None = None
    processes: int | None = None


class Terminal(msgspec.Struct, frozen=True):
    """The pseudo-terminal of an app in tty mode."""

    rows: int
    columns: int
    name: str


class AppSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One app, everything translated from App Container terms to what the kernel needs."""

    name: str
    disk: str
    root: str = "rootfs"
    argv: tuple[str, ...]
    environment: tuple[str, ...]
    user: str
    group: str
    supplementary_gids: tuple[int, ...] = ()
    working_directory: str = "/"
    read_only_root: bool = False
    mounts: tuple[AppMount, ...] = ()
    capabilities: tuple[str, ...] = ()
    no_new_privileges: bool = False
    seccomp: str | None = None
    """A filter (struct sock_filter[]) in base64; None for none."""
    protect_paths: bool = True
    limits: Limits = Limits()
    oom_score_adj: int | None = None
    pre_start: tuple[tuple[str, ...], ...] = ()
    post_stop: tuple[tuple[str, ...], ...] = ()
    stdin: ReadMode = "null"
    stdout: WriteMode = "log"
    stderr: WriteMode = "log"
    terminal: Terminal | None = None

    @property
    def ports(self) -> tuple[str, ...]:
        """The virtio-serial ports that carry this app's streams."""
        names = []
        if "tty" in (self.stdin, self.stdout, self.stderr):
            names.append(f"app.{self.name}.tty")
        for stream in ("stdin", "stdout", "stderr"):
            if getattr(self, stream) == "stream":
                names.append(f"app.{self.name}.{stream}")
        return tuple(names)


class ExportSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Whose file system the guest is to send, as `app.export` carries it."""

    name: str
    disk: str
    root: str = "rootfs"
    disks: tuple[Disk, ...]
    protocol: int = PROTOCOL


class PodSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A whole pod, as `pod.start` carries it."""

    uuid: str
    hostname: str
    realtime_ns: int
    entropy: str
    apps: tuple[AppSpec, ...]
    disks: tuple[Disk, ...]
    volumes: tuple[HostVolume | EmptyVolume, ...] = ()
    share: Share | None = None
    network: Network | None = None
    sysctls: tuple[str, ...] = ()
    """Parameters of the guest's kernel, `NAME=VALUE`, names with dots."""
    resolv_conf: str | None = None
    hosts: str | None = None
    on_failure: Literal["stop", "continue"] = "stop"
    protocol: int = PROTOCOL
