"""`kvmrkt port-forward`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import Command
from kvmrkt.cli.enter import running_pod
from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    from kvmrkt.inside.forward import Forward

_DEFAULT_ADDRESS = "127.0.0.1"
_LARGEST_PORT = 65535


def parse_forward(text: str) -> Forward:
    """`[[HOSTIP:]HOSTPORT:]PORT`; an IPv6 address stands in brackets. Raises UsageError.

    Without a host's port it is the pod's.
    """
    from ipaddress import ip_address

    from kvmrkt.inside.forward import Forward

    rest, colon, last = text.rpartition(":")
    pod_port = _port(text, last, least=1)
    if not colon:
        return Forward(_DEFAULT_ADDRESS, pod_port, pod_port)
    address, colon, middle = rest.rpartition(":")
    host_port = _port(text, middle, least=0)
    if not colon:
        return Forward(_DEFAULT_ADDRESS, host_port, pod_port)
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        return Forward(str(ip_address(bare)), host_port, pod_port)
    except ValueError:
        raise _faulty(text, f'"{address}" is no IP address') from None


def _port(text: str, digits: str, *, least: int) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5):
        raise _faulty(text, f'"{digits}" is no port')
    if not least <= int(digits) <= _LARGEST_PORT:
        raise _faulty(text, f"a port is a number from {least} to {_LARGEST_PORT}")
    return int(digits)


def _faulty(text: str, reason: str) -> UsageError:
    return UsageError(
        f'cannot forward "{text}": {reason}', hint="write [[HOSTIP:]HOSTPORT:]PODPORT"
    )


@click.command(
    cls=Command,
    root_only=True,
    params=[click.Argument(["uuid"], required=False), click.Argument(["ports"], required=False)],
    help="Forward a port of this host to one of a running pod: [[HOSTIP:]HOSTPORT:]PODPORT.",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> None:
    """Print what is forwarded, then serve until interrupted or the pod ends."""
    if not flags["uuid"] or not flags["ports"]:
        raise UsageError("give the UUID of a pod and a port of it")
    forward = parse_forward(flags["ports"])
    pod = running_pod(ctx, flags["uuid"])
    from kvmrkt.inside.connection import connect
    from kvmrkt.inside.forward import listen, serve

    with connect(pod) as connection, listen(forward) as server:
        address, port = server.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        click.echo(f"Forwarding from {shown}:{port} to port {forward.pod_port} of the pod")
        # said by threads, which know of no command
        serve(
            connection,
            server,
            forward.pod_port,
            lambda text: click.echo(f"{ctx.info_name}: {text}", err=True),
        )
