"""Network configurations: what CNI's JSON says, and how faulty files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.errors import ConfigError, KvmrktError, UsageError
from kvmrkt.net.choice import NetworkChoice
from kvmrkt.net.conf import Chain, NetworkConf, parse_network
from kvmrkt.net.files import choose, load_networks
from kvmrkt.net.ipam_conf import HostLocal, Static
from kvmrkt.net.plan import plan_networks

SUBNET = {"type": "host-local", "subnet": "10.1.0.0/16"}


def parsed(**content: Any) -> NetworkConf:
    conf = parse_network(
        json.dumps({"name": "n", "type": "ptp", "ipam": SUBNET} | content).encode()
    )
    assert isinstance(conf, NetworkConf)
    return conf


def write(folder: Path, file: str, **content: Any) -> Path:
    path = folder / "net.d" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "ptp", "ipam": SUBNET} | content))
    return path


def test_keys_are_matched_without_regard_to_case() -> None:
    conf = parse_network(
        b"""{"Name": "x", "TYPE": "bridge", "Bridge": "br7", "IsGateway": true, "IpMasq": true,
        "MTU": 1400, "HairpinMode": true,
        "Ipam": {"Type": "host-local", "subnet": "10.1.0.0/16", "RangeStart": "10.1.0.9"}}"""
    )
    assert isinstance(conf, NetworkConf)
    assert (conf.name, conf.type, conf.bridge, conf.mtu) == ("x", "bridge", "br7", 1400)
    assert (conf.is_gateway, conf.masquerade, conf.hairpin) == (True, True, True)
    assert isinstance(conf.ipam, HostLocal)
    assert str(conf.ipam.sets[0][0].start) == "10.1.0.9"


def test_a_subnet_alone_leaves_out_its_ends_and_the_gateway() -> None:
    ipam = parsed().ipam
    assert isinstance(ipam, HostLocal)
    ((only,),) = ipam.sets
    assert [str(part) for part in only] == [
        "10.1.0.0/16", "10.1.0.1", "10.1.255.254", "10.1.0.1",
    ]  # fmt: skip


def test_ranges_give_one_address_each() -> None:
    ranges = [[{"subnet": "10.2.0.0/24"}, {"subnet": "10.3.0.0/24"}], [{"subnet": "fd00::/64"}]]
    ipam = parsed(ipam={"type": "host-local", "ranges": ranges}).ipam
    assert isinstance(ipam, HostLocal)
    assert [len(group) for group in ipam.sets] == [2, 1]
    assert str(ipam.sets[1][0].gateway) == "fd00::1"


def test_static_addresses_and_routes() -> None:
    ipam = parsed(
        ipam={
            "type": "static",
            "addresses": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.0.0.0/8", "gw": "10.9.0.7"}],
        }
    ).ipam
    assert isinstance(ipam, Static)
    assert str(ipam.addresses[0][0]) == "10.9.0.5/24"
    assert [str(route.gateway) for route in ipam.routes] == ["None", "10.9.0.7"]


def test_a_default_gateway_is_a_gateway() -> None:
    assert parsed(type="bridge", isDefaultGateway=True).is_gateway


@pytest.mark.parametrize(
    "content",
    [
        {"type": "flannel"},
        {"ipam": {"type": "calico-ipam"}},
        {"plugins": [{"type": "bridge", "ipam": SUBNET}, {"type": "portmap"}]},
    ],
)
def test_what_kvmrkt_does_not_make_is_for_plugins(content: dict[str, Any]) -> None:
    made = {"name": "n", "type": "bridge", "ipam": SUBNET, "cniVersion": "0.4.0"} | content
    conf = parse_network(json.dumps(made).encode())
    assert isinstance(conf, Chain)
    assert conf.cni_version == "0.4.0"
    assert len(conf.plugins) == len(content.get("plugins", [1]))


def test_a_list_of_one_plugin_is_that_plugin() -> None:
    conf = parse_network(
        json.dumps({"name": "n", "plugins": [{"type": "ptp", "ipam": SUBNET}]}).encode()
    )
    assert isinstance(conf, NetworkConf)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"name": "../x"}, 'name: "../x" is not'),
    ({"name": 7}, "name: expected a string"),
    ({"name": None}, "name: is required, but missing"),
    ({"type": None}, "type: is required, but missing"),
    ({"type": "ipvlan"}, 'type: "ipvlan" cannot be given to a virtual machine'),
    ({"type": "../../bin/sh"}, "is not a plug-in's name"),
    ({"plugins": []}, "plugins: is empty"),
    ({"plugins": [7]}, "plugins: expected a list of objects"),
    ({"mtu": 1}, "mtu: 1 is not between"),
    ({"mtu": True}, "mtu: expected a whole number"),
    ({"ipMasq": "yes"}, "ipmasq: expected true or false"),
    ({"ipam": {"type": "host-local"}}, "ipam.subnet: is required, but missing"),
    ({"ipam": {}}, "a point-to-point link needs addresses"),
    ({"ipam": []}, "ipam: expected an object"),
    ({"ipam": {**SUBNET, "subnet": "10.0.0.1/8"}}, "ipam.subnet: 10.0.0.1/8 has host bits set"),
    ({"ipam": {**SUBNET, "subnet": "10.0.0.0/31"}}, "is too small"),
    ({"ipam": {**SUBNET, "rangeStart": "10.2.0.1"}}, "ipam.rangestart: 10.2.0.1 is not in"),
    ({"ipam": {**SUBNET, "gateway": "x"}}, "ipam.gateway: 'x' does not appear to be"),
    ({"ipam": {**SUBNET, "rangeStart": "10.1.9.9", "rangeEnd": "10.1.1.1"}}, "is after rangeEnd"),
    ({"ipam": {**SUBNET, "ranges": [[{"subnet": "10.1.5.0/24"}]]}}, "overlap"),
    ({"ipam": {**SUBNET, "routes": [{"dst": "there"}]}}, "ipam.routes: 'there'"),
    ({"ipam": {**SUBNET, "routes": [{}] * 65}}, "routes: more than 64 items"),
    ({"type": "macvlan"}, 'master: "" is not the name of a link'),
    ({"type": "macvlan", "master": "eth0", "mode": "fast"}, 'mode: "fast" is not one of'),
    ({"type": "bridge", "bridge": "a/b"}, 'bridge: "a/b" is not the name of a link'),
    ({"type": "bridge", "bridge": "x" * 16}, "is not the name of a link"),
    ({"hostServices": ["tcp/0"]}, 'hostServices: "tcp/0" is not a service'),
    ({"hostServices": ["icmp"]}, 'hostServices: "icmp" is not a service'),
    ({"dns": {"nameservers": ["ns1"]}}, "dns.nameservers: 'ns1'"),
    ({"dns": {"search": ["a\nnameserver 6.6.6.6"]}}, "is not a word for resolv.conf"),
]


@pytest.mark.parametrize(("content", "error"), FAULTS)
def test_faulty_configurations_are_refused(content: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(**content)
    assert error in caught.value.message


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "it is not valid JSON"),
        (b"\xff", "it is not valid JSON"),
        (b"[]", "it is not a JSON object"),
        (b"[" * 50000, "it is not valid JSON: nested too deep"),
        (b" " * 70000, "it is larger than 65536 bytes"),
    ],
)
def test_what_is_no_object_is_refused(data: bytes, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        parse_network(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8)
    | st.sampled_from(["10.0.0.0/24", "host-local", "ptp", "bridge", "fd00::/120", "tcp/80"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["name", "type", "ipam", "subnet", "ranges", "routes", "dst", "plugins",
                         "mtu", "dns", "addresses", "address", "gateway"]), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(json_values)
def test_any_json_is_taken_or_refused_with_a_reason(value: Any) -> None:
    try:
        parse_network(json.dumps(value).encode())
    except ConfigError as error:
        assert error.message


# -- folders -----------------------------------------------------------------------------------


def test_every_host_has_rkts_two_networks(tmp_path: Path) -> None:
    networks = load_networks([tmp_path], lambda _: None)
    assert list(networks) == ["default-restricted", "default"]
    restricted, default = (network.conf for network in networks.values())
    assert isinstance(default, NetworkConf)
    assert isinstance(restricted, NetworkConf)
    assert (default.masquerade, restricted.masquerade) == (True, False)


def test_later_folders_win_by_name_and_the_order_is_the_files(tmp_path: Path) -> None:
    system, local = tmp_path / "system", tmp_path / "local"
    write(system, "20-a.conf", name="a")
    write(system, "10-b.conf", name="b")
    write(system, "ignored.txt", name="c")
    written = write(local, "05-a.conf", name="a")
    write(local, "06-a.conf", name="a")
    said: list[str] = []
    networks = load_networks([system, local], said.append)
    assert list(networks) == ["a", "b", "default-restricted", "default"]
    assert networks["a"].file == str(written)
    assert said == [
        f'"a" network already defined, ignoring {local}/net.d/06-a.conf',
        f'overriding "a" network with one from {local}',
    ]


def test_a_faulty_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "x.conf", name="x", mtu=1)
    with pytest.raises(ConfigError) as caught:
        load_networks([tmp_path], lambda _: None)
    assert caught.value.message.startswith(f"cannot use {path}: mtu: 1 is not between")


def test_pipes_and_folders_are_no_configuration(tmp_path: Path) -> None:
    import os

    (tmp_path / "net.d" / "x.conf").mkdir(parents=True)
    os.mkfifo(tmp_path / "net.d" / "y.conf")
    assert len(load_networks([tmp_path], lambda _: None)) == 2


@pytest.mark.parametrize(
    ("asked", "joined"),
    [
        (["default"], ["default"]),
        (["default-restricted"], ["default-restricted"]),
        (["z"], ["default-restricted", "z"]),
        (["z", "default"], ["default", "z"]),
        (["all"], ["default-restricted", "default", "z"]),
    ],
)
def test_the_restricted_network_comes_along_without_the_default_one(
    tmp_path: Path, asked: list[str], joined: list[str]
) -> None:
    write(tmp_path, "zz.conf", name="z")
    networks = load_networks([tmp_path], lambda _: None)
    chosen = choose(networks, tuple(NetworkChoice(name) for name in asked))
    assert [each.choice.name for each in chosen] == joined


def test_networks_that_are_not_there_are_named(tmp_path: Path) -> None:
    networks = load_networks([tmp_path], lambda _: None)
    with pytest.raises(UsageError, match="networks not found: x, y"):
        choose(networks, (NetworkChoice("x"), NetworkChoice("y")))


@pytest.mark.parametrize(
    ("choices", "error"),
    [
        ("host", "requires private network configuration"),
        ("default,same", 'the networks "default" and "same" overlap'),
        ("plugin", 'cannot find the CNI plug-in "calico"'),
    ],
)
def test_what_cannot_be_joined_is_refused_before_the_pod_runs(
    tmp_path: Path, choices: str, error: str
) -> None:
    write(tmp_path, "zz-same.conf", name="same",
          ipam={"type": "host-local", "subnet": "172.16.0.0/12"})  # fmt: skip
    write(tmp_path, "zz-plugin.conf", name="plugin", type="calico")
    with pytest.raises(KvmrktError) as caught:
        plan_networks([tmp_path], tuple(NetworkChoice(name) for name in choices.split(",")))
    assert error in caught.value.message
