"""`machine.json`: what a pod needs, beside its manifest, to be run by whoever comes later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from kvmrkt.pods.directory import PodDirectory

MACHINE_FILE = "machine.json"


class MachineRecord(msgspec.Struct, frozen=True):
    """Chosen when the pod was prepared; `stage1` is an image ID, its manifest a file of the pod."""

    stage1: str


def write_machine(pod: PodDirectory, record: MachineRecord) -> None:
    """Write the file."""
    pod.write_file(MACHINE_FILE, msgspec.json.encode(record) + b"\n")


def read_machine(pod: PodDirectory) -> MachineRecord | None:
    """What the file says; None if it is missing or damaged."""
    try:
        return msgspec.json.decode(pod.read_file(MACHINE_FILE) or b"", type=MachineRecord)
    except msgspec.MsgspecError:
        return None
