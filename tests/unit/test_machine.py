"""QEMU's command line, the budget of device slots, and the machine's size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvmrkt.errors import UsageError
from kvmrkt.stage1.kvm.machine import (
    VIRTIO_SLOTS,
    DiskImage,
    Machine,
    Plan9,
    Port,
    VirtioFs,
    kernel_command_line,
    lay_out_disks,
    qemu_argv,
)
from kvmrkt.stage1.kvm.sizing import MIB, SYSTEM_BYTES, size_machine

QEMU = Path("/usr/bin/qemu")
SCRATCH = DiskImage("scratch", Path("/d/scratch.img"), read_only=False)


def images(count: int) -> tuple[DiskImage, ...]:
    return tuple(DiskImage(f"image{n}", Path(f"/t/{n}"), read_only=True) for n in range(count))


def a_machine(**changes: Any) -> Machine:
    plain: dict[str, Any] = {
        "name": "pod", "accelerator": "tcg", "cpus": 1, "memory_bytes": 256 * MIB,
        "kernel": Path("/k"), "initrd": Path("/i"), "kernel_parameters": ("quiet",),
        "tsc_khz": 2_000_000, "monitor_fd": 3, "console_fd": 4,
        "ports": (Port("kvmrkt.control", 5),), "disks": (*images(1), SCRATCH),
    }  # fmt: skip
    return Machine(**{**plain, **changes})


def values(argv: list[str], option: str) -> list[str]:
    return [argv[i + 1] for i, word in enumerate(argv) if word == option]


def test_the_tsc_rate_is_always_given() -> None:
    for accelerator in ("kvm", "tcg"):
        line = kernel_command_line(a_machine(accelerator=accelerator))
        assert "tsc_early_khz=2000000" in line.split()


def test_the_processor_is_the_hosts_with_kvm_and_the_fullest_under_emulation() -> None:
    assert values(qemu_argv(QEMU, a_machine(accelerator="kvm")), "-cpu") == ["host"]
    assert values(qemu_argv(QEMU, a_machine(accelerator="tcg")), "-cpu") == ["max"]


def test_nothing_comes_from_the_hosts_configuration_and_qemus_sandbox_is_whole() -> None:
    argv = qemu_argv(QEMU, a_machine())
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(argv)
    sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    assert values(argv, "-sandbox") == [sandbox]


def test_images_are_read_only_and_the_scratch_disk_is_not() -> None:
    drives = values(qemu_argv(QEMU, a_machine()), "-blockdev")
    assert ["read-only=on" in drive for drive in drives] == [True, False]


def test_the_scratch_disk_never_waits_for_the_hosts_disk() -> None:
    drives = values(qemu_argv(QEMU, a_machine()), "-blockdev")
    assert ["cache.no-flush=on" in drive for drive in drives] == [False, True]


def test_memory_is_shared_only_for_virtiofs() -> None:
    without = qemu_argv(QEMU, a_machine())
    assert not any("memfd" in word for word in without)
    shared = qemu_argv(QEMU, a_machine(share=VirtioFs("volumes", 9)))
    assert f"memory-backend-memfd,id=ram,size={256 * MIB},share=on" in shared
    assert "memory-backend=ram" in values(shared, "-M")[0]


def test_without_virtiofsd_qemu_serves_the_folder() -> None:
    argv = qemu_argv(QEMU, a_machine(share=Plan9("volumes", Path("/run/v"))))
    assert values(argv, "-fsdev") == ["local,id=share,path=/run/v,security_model=none"]


def test_a_comma_in_a_path_does_not_end_the_option() -> None:
    disk = DiskImage("image0", Path("/a,b"), read_only=True)
    drives = values(qemu_argv(QEMU, a_machine(disks=(disk,))), "-blockdev")
    assert drives[0].endswith("filename=/a,,b")


def test_disks_have_slots_of_their_own_while_slots_last() -> None:
    layout = lay_out_disks((*images(4), SCRATCH), other_devices=0)
    assert len(layout.slots) == VIRTIO_SLOTS - 3
    assert layout.luns == ()


def test_past_the_slots_images_share_a_scsi_controller() -> None:
    layout = lay_out_disks((*images(20), SCRATCH), other_devices=1)
    assert layout.slots == (SCRATCH,)
    assert len(layout.luns) == 20
    argv = qemu_argv(QEMU, a_machine(disks=(*images(20), SCRATCH)))
    assert sum(word.startswith("scsi-hd,") for word in argv) == 20
    assert "virtio-scsi-device,id=scsi" in argv


def test_a_pod_that_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(UsageError, match="room for 5"):
        lay_out_disks((*images(1), SCRATCH), other_devices=4)


def test_memory_is_the_sum_of_limits_and_the_systems_share() -> None:
    size = size_machine([128 * MIB, 1], [None, None], host_cpus=8, emulated=False)
    assert size.memory_bytes == SYSTEM_BYTES + 129 * MIB


@pytest.mark.parametrize(
    ("limits", "emulated", "cpus"),
    [
        ([None], False, 4),
        ([None], True, 1),
        ([500], True, 1),
        ([1500, 600], False, 3),
        ([64_000], False, 8),
    ],
)
def test_processors_are_the_limits_rounded_up_within_the_host(
    limits: list[int | None], emulated: bool, cpus: int
) -> None:
    assert size_machine([None], limits, host_cpus=8, emulated=emulated).cpus == cpus


def limits(*memory: int | None) -> list[tuple[int | None, int | None]]:
    from guest_double import an_app

    from kvmrkt.stage1.kvm.podspec import Limits
    from kvmrkt.stage1.kvm.sizing import share_fairly

    apps = [an_app(f"app{n}", limits=Limits(memory_bytes=size)) for n, size in enumerate(memory)]
    shared = share_fairly(apps, 288 * MIB)
    return [(app.limits.memory_bytes, app.limits.processes) for app in shared]


def test_an_app_without_a_limit_leaves_its_neighbours_what_they_need() -> None:
    assert limits(None) == [(256 * MIB, 576)]
    assert limits(None, 56 * MIB) == [(200 * MIB, 576), (56 * MIB, 576)]
    assert limits(None, None) == [(192 * MIB, 576)] * 2
    assert limits(300 * MIB, None)[1] == (MIB, 576)
