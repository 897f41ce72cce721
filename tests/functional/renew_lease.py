"""A DHCP client for a guest without a machine: FOLDER NETWORK. Obtains, renews after a second, and
gives back when a line is read from standard input."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from kvmrkt.net.choice import NetworkChoice
from kvmrkt.net.plan import plan_networks
from kvmrkt.net.setup import set_up
from kvmrkt.paths import DataDir
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.resources import Resources, release_all


def main() -> None:
    folder = Path(sys.argv[1])
    pod = PodDirectory.create(DataDir(folder / "renewing"))
    plan = plan_networks((folder / "etc",), (NetworkChoice(sys.argv[2]),))
    with ExitStack() as stack:
        attachment = set_up(plan, pod, Resources(pod), stack)
        (client,) = attachment.dhcp
        assert client._lease is not None
        client._lease = client._lease._replace(seconds=2)  # half of it is when to renew
        client.keep()
        sys.stdin.readline()
    release_all(pod)


if __name__ == "__main__":
    main()
