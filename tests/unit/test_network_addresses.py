"""Addresses of pods: chosen in turn, held by one pod at a time, given back."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvmrkt.paths
from kvmrkt.errors import HostError, UsageError
from kvmrkt.net.ipam import choose_address
from kvmrkt.net.ipam_conf import HostLocal, Range, Static, parse_ipam
from kvmrkt.net.keys import Keys
from kvmrkt.net.leases import release_leases, take_leases


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kvmrkt.paths, "RUNTIME", tmp_path)
    return tmp_path


def ipam(subnet: str = "10.0.0.0/29", **keys: Any) -> HostLocal:
    found = parse_ipam(Keys({"type": "host-local", "subnet": subnet} | keys))
    assert isinstance(found, HostLocal)
    return found


def take(pod: str, wanted: str | None = None, conf: HostLocal | Static | None = None) -> list[str]:
    leases = take_leases("n", conf or ipam(), pod, wanted=ip_address(wanted) if wanted else None)
    return [str(lease.address) for lease in leases]


def test_addresses_are_given_in_turn_and_rest_when_given_back() -> None:
    assert [take("a"), take("b")] == [["10.0.0.2/29"], ["10.0.0.3/29"]]
    release_leases("n", "a")
    assert take("c") == ["10.0.0.4/29"]
    assert [take("d"), take("e")] == [["10.0.0.5/29"], ["10.0.0.6/29"]]
    assert take("f") == ["10.0.0.2/29"]


def test_an_exhausted_range_is_a_clear_error() -> None:
    for pod in "abcde":
        take(pod)
    with pytest.raises(HostError, match=r"no address is free in 10\.0\.0\.0/29") as caught:
        take("f")
    assert "kvmrkt gc" in (caught.value.hint or "")
    release_leases("n", "c")
    assert take("f") == ["10.0.0.4/29"]


def test_giving_back_twice_is_fine() -> None:
    take("a")
    release_leases("n", "a")
    release_leases("n", "a")
    release_leases("other", "a")


def test_a_pod_may_ask_for_an_address() -> None:
    assert take("a", "10.0.0.5") == ["10.0.0.5/29"]
    assert take("b") == ["10.0.0.2/29"]
    for wanted, reason in [
        ("10.0.0.5", "belongs to another pod"),
        ("10.0.0.1", "is the network's gateway"),
        ("10.0.0.9", "is in no range"),
        ("fd00::1", "is in no range"),
    ]:
        with pytest.raises(UsageError, match=reason):
            take("c", wanted)


def test_dual_stack_gives_one_address_of_each_family() -> None:
    conf = parse_ipam(
        Keys({"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/29"}],
                                               [{"subnet": "fd00::/64"}]]})
    )  # fmt: skip
    assert take("a", conf=conf) == ["10.0.0.2/29", "fd00::2/64"]
    assert take("b", "fd00::77", conf=conf) == ["10.0.0.3/29", "fd00::77/64"]


def test_a_static_address_is_one_pods_at_a_time() -> None:
    conf = parse_ipam(Keys({"type": "static", "addresses": [{"address": "10.0.0.5/29"}]}))
    assert take("a", conf=conf) == ["10.0.0.5/29"]
    with pytest.raises(HostError, match="belongs to pod a"):
        take("b", conf=conf)


def test_a_damaged_file_is_named(runtime: Path) -> None:
    take("a")
    (runtime / "net" / "leases" / "n.json").write_text("{")
    with pytest.raises(HostError, match=r"leases/n\.json is damaged"):
        take("b")


@given(st.sets(st.integers(1, 30)), st.integers(0, 40), st.integers(1, 29))
def test_a_chosen_address_is_free_and_in_its_range(taken: set[int], last: int, start: int) -> None:
    base = ip_address("10.0.0.0")
    only = Range(ip_network("10.0.0.0/27"), base + start, base + 30, base + 1)
    busy = {base + number for number in taken}
    free = [n for n in range(start, 31) if n not in taken and n != 1]
    try:
        chosen = choose_address((only,), busy, last=base + last).address.ip
    except HostError:
        assert not free
        return
    assert int(chosen) - int(base) in free
