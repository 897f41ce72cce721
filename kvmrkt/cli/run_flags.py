"""How a pod is run, beside what is in it: the flags that `run` and `run-prepared` share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kvmrkt.cli.command import GO_DURATION, OptionalValue
from kvmrkt.cli.dns_flags import DNS_FLAGS
from kvmrkt.cli.flags import OneOf, boolean, faulty, path, value
from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    import click

    from kvmrkt.appc.pod_manifest import ExposedPort
    from kvmrkt.stage1.engine import RunOptions

RUN_FLAGS: list[click.Option] = [
    OptionalValue(
        ["--net"], bare="default", multiple=True, metavar="[=NAME[:ARGUMENTS],...]",
        help="Networks to join: default, default-restricted, none, all, or those of net.d.",
    ),
    *DNS_FLAGS,
    boolean("--interactive", "Connect the one app to this terminal."),
    value("--ipc", "IPC namespace: auto or private, which are the same.", metavar="MODE"),
    boolean("--mds-register", "Register the pod with the metadata service."),
    value(
        "--accel", "How the machine is run; auto unless a configuration file says otherwise.",
        type=OneOf("auto", "kvm", "tcg"),
    ),
    value("--boot-timeout", "How long the guest may take to answer.", type=GO_DURATION),
    path("--trace", "Write where the time of the start went, as JSON."),
]  # fmt: skip


def check_run_flags(flags: dict[str, Any], ports: tuple[ExposedPort, ...] = ()) -> None:
    """Raises UsageError for what can be seen to be wrong, and for what is not available.

    `ports` are those that the command line wants to lead to the pod.
    """
    from kvmrkt.cli.network_flags import check_mds, check_ports_reachable, parse_networks

    networks = parse_networks(flags["net"])
    check_ports_reachable(ports, networks)
    check_mds(networks, mds_register=flags["mds_register"])
    ipc = flags["ipc"]
    if ipc == "parent":
        raise UsageError(
            "--ipc=parent is not supported by the kvm stage1",
            hint="a machine has IPC objects of its own; the pod's apps share them",
        )
    if ipc not in (None, "", "auto", "private"):
        raise faulty("--ipc", ipc, "should be one of auto, private, parent")


def run_options(flags: dict[str, Any]) -> RunOptions:
    """The options that checked flags mean; raises UsageError."""
    from kvmrkt.cli import dns_flags
    from kvmrkt.cli.network_flags import parse_networks
    from kvmrkt.stage1.engine import RunOptions

    hosts, entries = dns_flags.hosts(flags)
    return RunOptions(
        accelerator=flags["accel"],
        boot_timeout_seconds=flags["boot_timeout"] and flags["boot_timeout"] / 1e9,
        hostname=dns_flags.hostname(flags),
        resolv_conf=dns_flags.resolv_conf(flags),
        networks=parse_networks(flags["net"]),
        network_dns="none" not in flags["dns"],
        hosts=hosts,
        hosts_entries=entries,
        interactive=flags["interactive"],
        tty_fd=0 if flags["interactive"] and os.isatty(0) and os.isatty(1) else None,
    )
