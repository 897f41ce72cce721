"""The pod's sysctl isolator."""

from __future__ import annotations

from typing import Any

import pytest

from kvmrkt.appc.image_manifest import Isolator
from kvmrkt.appc.sysctl import SYSCTL, sysctls
from kvmrkt.errors import ManifestError


def test_parameters_are_kept_in_their_order() -> None:
    value = {"net.ipv4.tcp_mtu_probing": "1", "kernel.shmmax": 65536, "vm.swappiness": "10"}
    asked = [Isolator("resource/memory", {"limit": "1G"}), Isolator(SYSCTL, value)]
    assert sysctls(asked) == [
        "net.ipv4.tcp_mtu_probing=1",
        "kernel.shmmax=65536",
        "vm.swappiness=10",
    ]
    assert sysctls([]) == []


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([], "is not an object of names and values"),
        ({"kernel.core_pattern": "|/x"}, "kernel.core_pattern may not be set by a pod"),
        ({"kernel.modprobe": "/x"}, "may not be set by a pod"),
        ({"network": "1"}, "is not the name of a sysctl"),
        ({"net.ipv4/../../kernel.modprobe": "1"}, "is not the name of a sysctl"),
        ({"net..x": "1"}, "is not the name of a sysctl"),
        ({"net.x": ""}, "is no text that could be set"),
        ({"net.x": True}, "is no text that could be set"),
        ({"net.x": "a\0b"}, "is no text that could be set"),
        ({"net.x": None}, "is no text that could be set"),
    ],
)
def test_faulty_and_dangerous_parameters_are_refused(value: Any, why: str) -> None:
    with pytest.raises(ManifestError) as caught:
        sysctls([Isolator(SYSCTL, value)])
    assert why in caught.value.message


def test_a_pod_has_one_isolator_of_the_kind() -> None:
    with pytest.raises(ManifestError, match="a pod has one"):
        sysctls([Isolator(SYSCTL, {}), Isolator(SYSCTL, {})])
