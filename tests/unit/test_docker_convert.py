"""From an image's configuration to an App Container manifest."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.appc.image_manifest import App, ImageManifest, parse_image_manifest
from kvmrkt.errors import ManifestError
from kvmrkt.images.docker.convert import Origin, convert
from kvmrkt.images.docker.manifests import parse_config

ORIGIN = Origin(
    registry="registry-1.docker.io",
    repository="library/redis",
    tag="7.2",
    original_name="redis:7.2",
    image_id="sha256:" + "b" * 64,
    manifest_digest="sha256:" + "a" * 64,
)


def converted(origin: Origin = ORIGIN, **changes: Any) -> ImageManifest:
    document = {"architecture": "amd64", "os": "linux", "config": {}, **changes}
    return parse_image_manifest(convert(parse_config(json.dumps(document).encode()), origin))


def app(**container: Any) -> App:
    made = converted(config=container).app
    assert made is not None
    return made


def test_the_whole_manifest_is_as_docker2aci_makes_it() -> None:
    data = convert(
        parse_config(
            json.dumps(
                {
                    "architecture": "arm64",
                    "os": "linux",
                    "author": "A. Person",
                    "created": "2024-05-06T07:08:09Z",
                    "config": {
                        "User": "redis",
                        "Entrypoint": ["docker-entrypoint.sh"],
                        "Cmd": ["redis-server", "--port", "1"],
                        "Env": ["PATH=/bin:/usr/bin", "OPTIONS=a=b", "EMPTY=", "UNSET"],
                        "ExposedPorts": {"6380/udp": {}, "6379/tcp": {}},
                        "Volumes": {"/data": {}},
                        "WorkingDir": "/data",
                        "Labels": {"Org.Example": "Y"},
                    },
                }
            ).encode()
        ),
        ORIGIN,
    )
    assert json.loads(data) == {
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": "registry-1.docker.io/library/redis",
        "labels": [
            {"name": "arch", "value": "aarch64"},
            {"name": "os", "value": "linux"},
            {"name": "version", "value": "7.2"},
        ],
        "app": {
            "exec": ["docker-entrypoint.sh", "redis-server", "--port", "1"],
            "user": "redis",
            "group": "redis",
            "workingDirectory": "/data",
            "environment": [
                {"name": "PATH", "value": "/bin:/usr/bin"},
                {"name": "OPTIONS", "value": "a=b"},
                {"name": "EMPTY", "value": ""},
            ],
            "mountPoints": [{"name": "volume-data", "path": "/data"}],
            "ports": [
                {"name": "6379-tcp", "protocol": "tcp", "port": 6379},
                {"name": "6380-udp", "protocol": "udp", "port": 6380},
            ],
            "userLabels": {"Org.Example": "Y"},
        },
        "annotations": [
            {"name": "author", "value": "A. Person"},
            {"name": "created", "value": "2024-05-06T07:08:09Z"},
            {"name": "appc.io/docker/originalname", "value": "redis:7.2"},
            {"name": "appc.io/docker/registryurl", "value": "registry-1.docker.io"},
            {"name": "appc.io/docker/repository", "value": "library/redis"},
            {"name": "appc.io/docker/tag", "value": "7.2"},
            {"name": "appc.io/docker/imageid", "value": "sha256:" + "b" * 64},
            {"name": "appc.io/docker/manifesthash", "value": "sha256:" + "a" * 64},
            {"name": "appc.io/docker/entrypoint", "value": '["docker-entrypoint.sh"]'},
            {"name": "appc.io/docker/cmd", "value": '["redis-server","--port","1"]'},
        ],
    }


def test_the_same_image_gives_the_same_bytes_whatever_the_order_of_its_maps() -> None:
    ports = ["80/tcp", "443/tcp", "53/udp"]
    made = {
        convert(
            parse_config(
                json.dumps({"config": {"ExposedPorts": dict.fromkeys(order, {})}}).encode()
            ),
            ORIGIN,
        )
        for order in (ports, ports[::-1])
    }
    assert len(made) == 1


@pytest.mark.parametrize(
    ("registry", "repository", "name"),
    [
        ("quay.example", "org/app", "quay.example/org/app"),
        ("127.0.0.1:5000", "app", "127.0.0.1_5000/app"),
        ("[::1]:5000", "app", "1_5000/app"),
        ("", "layout", "layout"),
        ("", "My Layout.d", "my_layout.d"),
        ("quay.example", "a__b/c---d", "quay.example/a_b/c-d"),
        ("", "-x-", "x"),
    ],
)
def test_the_name_is_registry_and_repository_as_an_identifier(
    registry: str, repository: str, name: str
) -> None:
    assert converted(Origin(repository, registry)).name == name


def test_a_name_without_any_letter_is_refused() -> None:
    with pytest.raises(ManifestError, match="name: '___' has no letter"):
        converted(Origin("___"))


def test_what_is_not_known_makes_no_label_and_no_annotation() -> None:
    manifest = converted(Origin("app"))
    assert [label.name for label in manifest.labels] == ["arch", "os"]
    assert [item.name for item in manifest.annotations] == ["appc.io/docker/repository"]


def test_an_image_without_a_container_configuration_has_no_app() -> None:
    assert converted(config=None).app is None


@pytest.mark.parametrize(
    ("text", "user", "group"),
    [
        ("", "0", "0"),
        ("app", "app", "app"),
        ("1000", "1000", "1000"),
        ("app:web", "app", "web"),
        ("1:2", "1", "2"),
        ("app:", "app", "app"),
        (":web", "0", "web"),
    ],
)
def test_a_user_alone_is_its_own_group(text: str, user: str, group: str) -> None:
    made = app(User=text)
    assert (made.user, made.group) == (user, group)


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "words"),
    [
        (["/a", "b"], ["c"], ["/a", "b", "c"]),
        (None, ["c"], ["c"]),
        (["/a"], None, ["/a"]),
        ("/a", "b c", ["/a", "b c"]),
        (None, None, []),
    ],
)
def test_the_command_is_entrypoint_and_arguments(
    entrypoint: Any, cmd: Any, words: list[str]
) -> None:
    assert app(Entrypoint=entrypoint, Cmd=cmd).exec == words


def test_a_later_setting_of_a_variable_replaces_an_earlier_one() -> None:
    made = app(Env=["A=1", "B=2", "A=3"])
    assert [(item.name, item.value) for item in made.environment] == [("A", "3"), ("B", "2")]


@pytest.mark.parametrize(
    ("spec", "name", "protocol"),
    [
        ("80", "80", "tcp"),
        ("80/tcp", "80-tcp", "tcp"),
        ("80/UDP", "80-udp", "udp"),
        ("80/", "80", "tcp"),
    ],
)
def test_a_port_without_a_protocol_is_tcp(spec: str, name: str, protocol: str) -> None:
    [port] = app(ExposedPorts={spec: {}}).ports
    assert (port.name, port.protocol, port.port) == (name, protocol, 80)


def test_volumes_whose_names_would_be_equal_are_numbered() -> None:
    made = app(Volumes={"/a/b": {}, "/a-b": {}, "/a_b": {}, "/a/b/": {}, "/x/../c": {}, "/": {}})
    assert [(point.name, point.path) for point in made.mount_points] == [
        ("volume", "/"),
        ("volume-a-b", "/a-b"),
        ("volume-a-b-1", "/a/b"),
        ("volume-a-b-2", "/a_b"),
        ("volume-c", "/c"),
    ]


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"User": "a:b:c"}, "config.User: 'a:b:c'"),
        ({"User": "a\0b"}, "app.user: holds a NUL"),
        ({"ExposedPorts": {"http": {}}}, "config.ExposedPorts: 'http'"),
        ({"ExposedPorts": {"80-90/tcp": {}}}, "config.ExposedPorts: '80-90/tcp'"),
        ({"ExposedPorts": {"0/tcp": {}}}, r"app.ports\[0\].port: 0 is not between"),
        ({"ExposedPorts": {"99999": {}}}, r"app.ports\[0\].port: 99999 is not between"),
        ({"ExposedPorts": {"٣": {}}}, "config.ExposedPorts"),
        ({"Volumes": {"data": {}}}, r"app.mountPoints\[0\].path: 'data' is not an absolute"),
        ({"Volumes": {"": {}}}, r"app.mountPoints\[0\].path: '' is not an absolute"),
        ({"WorkingDir": "data"}, "app.workingDirectory: 'data' is not an absolute"),
        ({"WorkingDir": "/a\0b"}, "app.workingDirectory: holds a NUL"),
        ({"Env": ["=x"]}, r"app.environment\[0\].name: '' is not"),
        ({"Env": ["A B=x"]}, r"app.environment\[0\].name: 'A B' is not"),
        ({"Env": ["A=x\0"]}, r"app.environment\[0\].value: holds a NUL"),
        ({"Cmd": [""]}, r"app.exec\[0\]: must not be empty"),
        ({"Cmd": ["a", "\0"]}, r"app.exec\[1\]: holds a NUL"),
    ],
)
def test_a_configuration_that_makes_no_good_manifest_is_refused(
    container: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ManifestError, match=reason):
        app(**container)


_TEXT = st.text(max_size=6)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "User": _TEXT,
            "WorkingDir": _TEXT,
            "Env": st.lists(_TEXT, max_size=3),
            "Cmd": st.lists(_TEXT, max_size=3) | _TEXT,
            "Entrypoint": st.lists(_TEXT, max_size=3) | _TEXT,
            "ExposedPorts": st.dictionaries(_TEXT, st.none(), max_size=3),
            "Volumes": st.dictionaries(_TEXT | _TEXT.map("/".__add__), st.none(), max_size=3),
            "Labels": st.dictionaries(_TEXT, _TEXT, max_size=3),
        },
    ),
    _TEXT,
    _TEXT,
)
def test_any_configuration_makes_a_valid_manifest_or_a_manifest_error(
    container: dict[str, Any], repository: str, tag: str
) -> None:
    with contextlib.suppress(ManifestError):
        converted(Origin(repository, tag=tag), config=container)
