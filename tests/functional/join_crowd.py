"""Many pods' networks at once, without machines: run on a world's host. FOLDER NETWORK COUNT.

Every pod is a process of its own that joins, waits until all are in, and ends: every third is
killed, for gc to clean up after. Prints the addresses of all, and those of gc's pods.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from kvmrkt.net.choice import NetworkChoice
from kvmrkt.net.plan import plan_networks
from kvmrkt.net.setup import set_up
from kvmrkt.paths import DataDir
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.resources import Resources, release_all
from kvmrkt.pods.states import Section


def join(folder: Path, network: str, said: int, go_on: int) -> None:
    pod = PodDirectory.create(DataDir(folder / "crowd"))
    plan = plan_networks((folder / "etc",), (NetworkChoice(network), NetworkChoice("default")))
    with ExitStack() as stack:
        attachment = set_up(plan, pod, Resources(pod), stack)
        os.write(said, json.dumps([link.addresses for link in attachment.links]).encode() + b"\n")
        if os.read(go_on, 1) == b"k":
            os.kill(os.getpid(), signal.SIGKILL)
    release_all(pod)


def main() -> None:
    folder, network, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    answers, said = os.pipe()
    orders = []
    for _ in range(count):
        go_on, order = os.pipe()
        if os.fork() == 0:
            status = 1
            try:
                join(folder, network, said, go_on)
                status = 0
            finally:
                os._exit(status)
        os.close(go_on)
        orders.append(order)
    os.close(said)
    with os.fdopen(answers) as lines:
        joined = [json.loads(lines.readline()) for _ in range(count)]
        for number, order in enumerate(orders):
            os.write(order, b"k" if number % 3 == 0 else b"e")
    endings = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(count)]
    left = DataDir(folder / "crowd").pods
    for path in sorted(left.glob("*/*")):
        pod = PodDirectory(DataDir(folder / "crowd"), Section(path.parent.name), path.name)
        release_all(pod)
    print(json.dumps({"joined": joined, "killed": endings.count(-signal.SIGKILL),  # noqa: T201
                      "failed": [each for each in endings if each > 0]}))  # fmt: skip


if __name__ == "__main__":
    main()
