"""The host's rules as text: one transaction, one chain for each link, nothing of others'."""

from __future__ import annotations

import re

from kvmrkt.net.links import link_name
from kvmrkt.net.netlink import attribute, attributes
from kvmrkt.net.rules import Forward, PodLink, PodRules, link_local, transaction

MAC = "02:00:00:00:00:01"


def link(**changes: object) -> PodLink:
    whole = {
        "network": "n", "device": "kv1-0", "home": "kv1-0", "mac": MAC,
        "addresses": ("10.0.0.2/24", "fd00::2/64"), "masquerade": True, "onward": True,
    } | changes  # fmt: skip
    return PodLink(**whole)  # type: ignore[arg-type]


def pod(*links: PodLink, forwards: tuple[Forward, ...] = (), number: int = 1) -> PodRules:
    return PodRules(f"uuid-{number}", links or (link(),), forwards, ("10.0.0.2", "fd00::2"))


def elements(text: str, name: str) -> str:
    found = re.search(rf"(?:set|map) {name} {{ type [^;]*;(?: elements = {{ (.*?) }};)? }}", text)
    assert found is not None, name
    return found[1] or ""


def chain(text: str, name: str) -> str:
    found = re.search(rf" chain {name} {{(.*?)\n }}", text, re.DOTALL)
    assert found is not None, name
    return found[1]


def test_without_pods_both_tables_go() -> None:
    assert transaction([]).splitlines() == [
        "add table inet kvmrkt", "delete table inet kvmrkt",
        "add table netdev kvmrkt", "delete table netdev kvmrkt",
    ]  # fmt: skip


def test_no_table_of_others_is_named() -> None:
    tables = re.findall(r"table (\S+ \S+)", transaction([pod()]))
    assert set(tables) == {"inet kvmrkt", "netdev kvmrkt"}


def test_every_pod_is_in_the_sets() -> None:
    other = link(device="kv2-0", home="kv2-0", addresses=("10.0.0.3/24",), masquerade=False)
    text = transaction([pod(), pod(other, number=2)])
    assert elements(text, "pods4") == "10.0.0.2, 10.0.0.3"
    assert elements(text, "masquerade4") == "10.0.0.2"
    assert elements(text, "networks4") == (
        '"kv1-0" . 10.0.0.2 : jump net-n, "kv2-0" . 10.0.0.3 : jump net-n'
    )
    assert "ip daddr { 10.0.0.2, 10.0.0.3 } accept" in chain(text, "net-n")


def test_ports_lead_to_the_address_of_their_family() -> None:
    forwards = (
        Forward("tcp", None, 80, 8080), Forward("udp", "127.0.0.1", 53, 5353),
        Forward("tcp", "::1", 81, 8081),
    )  # fmt: skip
    text = transaction([pod(forwards=forwards)])
    assert elements(text, "ports4") == "tcp . 80 : 10.0.0.2 . 8080"
    assert elements(text, "ports6") == "tcp . 80 : fd00::2 . 8080"
    assert elements(text, "ports_at4") == "127.0.0.1 . udp . 53 : 10.0.0.2 . 5353"
    assert elements(text, "ports_at6") == "::1 . tcp . 81 : fd00::2 . 8081"


def test_a_network_that_leads_nowhere_ends_in_a_refusal() -> None:
    refusal = "\n  reject with icmpx admin-prohibited"
    assert chain(transaction([pod(link(onward=False))]), "net-n").endswith(refusal)
    assert chain(transaction([pod()]), "net-n").endswith(
        "@pods6 reject with icmpx admin-prohibited"
    )


def test_services_of_the_host_are_those_that_the_network_allows() -> None:
    services = (("tcp", 80), ("udp", 0))
    inner = chain(transaction([pod(link(host_services=services))]), "host-n")
    assert "tcp dport 80 accept" in inner
    assert "meta l4proto udp accept" in inner
    assert inner.rstrip().endswith("reject with icmpx admin-prohibited")


def test_what_a_link_may_send_ends_in_a_drop() -> None:
    inner = chain(transaction([pod()], guarded=[link()]), "kv1-0")
    assert 'hook ingress device "kv1-0"' in inner
    assert inner.rstrip().endswith("\n  drop")
    assert "0xfd000000000000000000000000000002" in inner
    macvtap = link(home="")
    text = transaction([pod(macvtap)], guarded=[macvtap])
    assert 'hook egress device "kv1-0"' in chain(text, "kv1-0")


def test_the_chains_of_links_that_stay_are_left_alone() -> None:
    going = link(device="kv2-0")
    text = transaction([pod()], unguarded=[going])
    assert "delete chain netdev kvmrkt kv2-0\n" in text
    assert "kvmrkt kv1-0" not in text
    assert "table netdev kvmrkt {" not in text


def test_base_chains_never_drop_by_policy() -> None:
    text = transaction([pod()])
    assert set(re.findall(r"policy (\w+)", text)) == {"accept"}


def test_the_kernels_own_ipv6_address_follows_from_the_card() -> None:
    assert link_local("02:c7:76:3d:af:4b") == "fe80::c7:76ff:fe3d:af4b"
    assert link_local("00:00:00:00:00:01") == "fe80::200:ff:fe00:1"


def test_a_links_name_is_its_pods_and_fits_the_kernel() -> None:
    name = link_name("6733c088-a507-4694-aabf-edae4be5266f", 31)
    assert name == "kv6733c088a5-31"
    assert len(name) <= 15


def test_netlinks_attributes_are_read_back_and_broken_ones_end_the_list() -> None:
    data = attribute(3, b"eth0\0") + attribute(4, b"\1\2\3\4")
    assert list(attributes(data)) == [(3, b"eth0\0"), (4, b"\1\2\3\4")]
    assert list(attributes(data + b"\0\0\0\0" + data)) == [(3, b"eth0\0"), (4, b"\1\2\3\4")]
    assert list(attributes(b"\1")) == []
