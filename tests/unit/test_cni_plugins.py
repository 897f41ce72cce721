"""Calls of CNI plug-ins, however they behave."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.errors import HostError
from kvmrkt.net.cni import plugin
from kvmrkt.net.cni.chain import dns_of, plugin_config, runtime_values, version_of
from kvmrkt.net.cni.plugin import Attachment, call_plugin, find_plugin, search_path
from kvmrkt.net.conf import Chain
from kvmrkt.net.rules import Forward

POD = Attachment("uuid", "/run/ns", "eth0", "IP=1.2.3.4", ("/a", "/b"))


def script(folder: Path, text: str) -> str:
    path = folder / "plugin"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_plugin_is_told_everything_and_answers(tmp_path: Path) -> None:
    program = script(tmp_path, """
read config
printf '{"said": "%s %s %s %s %s %s", "config": %s}' $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS \\
    $CNI_IFNAME $CNI_ARGS $CNI_PATH "$config"
""")  # fmt: skip
    assert call_plugin(program, "ADD", POD, b'{"name": "n"}\n') == {
        "said": "ADD uuid /run/ns eth0 IP=1.2.3.4 /a:/b",
        "config": {"name": "n"},
    }


def test_a_plugin_gets_none_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    program = script(tmp_path, """env | grep -q SECRET && exit 1; exit 0""")
    assert call_plugin(program, "DEL", POD, b"{}") is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('echo \'{"msg": "no", "details": "why"}\'; exit 3', "ADD failed: no; why"),
        ("echo oops >&2; exit 3", "ADD failed: exit status 3"),
        ("kill -SEGV $$", "ADD failed: signal 11"),
        ("echo rubbish", "printed something that is no result: b'rubbish"),
        ("echo '[]'", "printed something that is no result"),
        ("echo '{}'; exec sleep 1000", "did not end within 0.5 seconds: killed"),
        ("exec >&-; exec sleep 1000", "did not end within 0.5 seconds: killed"),
        ("sleep 1000 & wait", "did not end within 0.5 seconds: killed"),
    ],
)
def test_a_plugin_that_misbehaves_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: str
) -> None:
    if "0.5" in error:
        monkeypatch.setattr(plugin, "CALL_SECONDS", 0.5)
    with pytest.raises(HostError) as caught:
        call_plugin(script(tmp_path, text), "ADD", POD, b"{}")
    assert error in caught.value.message


def test_a_flood_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_MAX_OUTPUT_BYTES", 1000)
    with pytest.raises(HostError, match="printed more than 1000 bytes: killed"):
        call_plugin(script(tmp_path, "exec yes"), "ADD", POD, b"{}")


def test_its_own_words_are_shown(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        call_plugin(script(tmp_path, "echo oops >&2; exit 3"), "ADD", POD, b"{}")
    assert caught.value.details == "oops"


def test_plugins_are_looked_for_beside_the_configuration_first(tmp_path: Path) -> None:
    folder = tmp_path / "net.d"
    folder.mkdir()
    path = search_path([tmp_path])
    assert path[0] == str(folder)
    with pytest.raises(HostError, match='cannot find the CNI plug-in "kvx"'):
        find_plugin("kvx", path)
    (folder / "kvx").write_text("")
    with pytest.raises(HostError):
        find_plugin("kvx", path)
    os.chmod(folder / "kvx", 0o755)
    assert find_plugin("kvx", path) == str(folder / "kvx")


def config(version: str, capabilities: dict[str, Any], previous: Any = None) -> dict[str, Any]:
    chain = Chain("n", version, ())
    values = {"portMappings": [1], "mac": "02:00:00:00:00:01"}
    own = {"type": "x", "capabilities": capabilities}
    made: dict[str, Any] = json.loads(plugin_config(chain, own, values, previous))
    return made


def test_a_plugin_gets_the_values_it_asks_for_and_no_others() -> None:
    assert config("0.4.0", {"portMappings": True, "mac": False})["runtimeConfig"] == {
        "portMappings": [1]
    }
    assert "runtimeConfig" not in config("0.4.0", {})


def test_results_are_passed_on_since_0_3() -> None:
    assert config("0.4.0", {}, {"a": 1})["prevResult"] == {"a": 1}
    assert "prevResult" not in config("0.2.0", {}, {"a": 1})
    assert version_of("1.0.0") > version_of("0.3.1") > version_of("rubbish")


def test_ports_and_arguments_become_values() -> None:
    forwards = (Forward("tcp", None, 80, 8080), Forward("udp", "127.0.0.1", 53, 5353))
    values = runtime_values(
        forwards, {"IP": "10.0.0.9", "MAC": "02-00-00-00-00-01", "egressRate": "8000"}
    )
    assert values == {
        "portMappings": [
            {"hostPort": 80, "containerPort": 8080, "protocol": "tcp"},
            {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "127.0.0.1"},
        ],
        "ips": ["10.0.0.9"],
        "mac": "02:00:00:00:00:01",
        "bandwidth": {"egressRate": 8000},
    }


@given(
    st.dictionaries(
        st.sampled_from(["dns", "ips"]),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["nameservers", "search", "domain"]), inner, max_size=3
                )
            ),
        ),
    )
)
def test_names_of_a_result_are_good_or_none(result: dict[str, Any]) -> None:
    for word in dns_of(result).search:
        assert "\n" not in word


def test_names_of_a_result() -> None:
    assert dns_of({"dns": {"nameservers": ["10.0.0.1"], "domain": "a"}}) == (
        ("10.0.0.1",), (), (), "a",
    )  # fmt: skip
    assert not any(dns_of({"dns": {"nameservers": ["x"]}}))
    assert not any(dns_of(None))
