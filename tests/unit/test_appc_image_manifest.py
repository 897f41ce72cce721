"""The image manifest: each rule, and the path of the field that breaks it."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from aci_files import manifest
from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.appc.image_manifest import check_platform, encode, parse_image_manifest
from kvmrkt.errors import ManifestError


def parse(document: Any) -> Any:
    return parse_image_manifest(json.dumps(document).encode())


def with_app(**fields: Any) -> dict[str, Any]:
    document = manifest()
    document["app"] |= fields
    return document


PORT = {"name": "http", "protocol": "tcp", "port": 80}
FAULTS = [
    ("acKind", manifest(acKind="PodManifest")),
    ("acKind", manifest(acKind=None)),
    ("acVersion", manifest(acVersion="one")),
    ("acVersion", manifest(acVersion="1.0.0")),
    ("acVersion", manifest(acVersion=None)),
    ("name", manifest(name=None)),
    ("name", manifest(name="Example.com/App")),
    ("name", manifest(name="")),
    ("name", manifest(name="a//b")),
    ("name", manifest(name=7)),
    ("labels", manifest(labels={})),
    ("labels[0].value", manifest(labels=[{"name": "x"}])),
    ("labels[0].name", manifest(labels=[{"name": "name", "value": "x"}])),
    ("labels[0].name", manifest(labels=[{"name": "A", "value": "x"}])),
    ("labels[1].name", manifest(labels=[{"name": "x", "value": "1"}] * 2)),
    ("labels[0].value", manifest(labels=[{"name": "os", "value": "plan9"}])),
    (
        "labels[1].value",
        manifest(labels=[{"name": "os", "value": "linux"}, {"name": "arch", "value": "x86_64"}]),
    ),
    ("app.user", manifest(app={"exec": ["/a"], "group": "0"})),
    ("app.group", manifest(app={"exec": ["/a"], "user": "0"})),
    ("app.user", with_app(user="")),
    ("app.group", with_app(group=0)),
    ("app.exec", with_app(exec="/bin/sh")),
    ("app.exec[0]", with_app(exec=[""])),
    ("app.exec[1]", with_app(exec=["/a", 3])),
    ("app.exec[1]", with_app(exec=["/a", "b\0c"])),
    ("app.workingDirectory", with_app(workingDirectory="tmp")),
    ("app.workingDirectory", with_app(workingDirectory="/a/../b")),
    ("app.supplementaryGIDs[1]", with_app(supplementaryGIDs=[1, -1])),
    ("app.eventHandlers[0].name", with_app(eventHandlers=[{"name": "boot", "exec": ["/a"]}])),
    ("app.eventHandlers[0].exec", with_app(eventHandlers=[{"name": "pre-start", "exec": []}])),
    (
        "app.eventHandlers[1].name",
        with_app(eventHandlers=[{"name": "pre-start", "exec": ["/a"]}] * 2),
    ),
    ("app.environment[0].name", with_app(environment=[{"name": "A=B", "value": ""}])),
    ("app.environment[0].value", with_app(environment=[{"name": "A", "value": "\0"}])),
    ("app.environment[1].name", with_app(environment=[{"name": "A", "value": ""}] * 2)),
    ("app.isolators[0].name", with_app(isolators=[{"name": "A b", "value": 1}])),
    ("app.isolators[0].value", with_app(isolators=[{"name": "a"}])),
    ("app.mountPoints[0].name", with_app(mountPoints=[{"name": "a.b", "path": "/a"}])),
    ("app.mountPoints[0].path", with_app(mountPoints=[{"name": "a", "path": "a"}])),
    ("app.mountPoints[0].path", with_app(mountPoints=[{"name": "a", "path": "/../a"}])),
    ("app.mountPoints[1].name", with_app(mountPoints=[{"name": "a", "path": "/a"}] * 2)),
    (
        "app.mountPoints[0].readOnly",
        with_app(mountPoints=[{"name": "a", "path": "/a", "readOnly": "yes"}]),
    ),
    ("app.ports[0].port", with_app(ports=[PORT | {"port": 0}])),
    ("app.ports[0].port", with_app(ports=[PORT | {"port": "80"}])),
    ("app.ports[0].count", with_app(ports=[PORT | {"port": 65535, "count": 2}])),
    ("app.ports[0].protocol", with_app(ports=[PORT | {"protocol": ""}])),
    ("app.ports[1].name", with_app(ports=[PORT, PORT])),
    ("dependencies[0].imageName", manifest(dependencies=[{}])),
    ("dependencies[0].imageID", manifest(dependencies=[{"imageName": "a", "imageID": "md5-0"}])),
    ("dependencies[0].size", manifest(dependencies=[{"imageName": "a", "size": -1}])),
    ("pathWhitelist[1]", manifest(pathWhitelist=["/a", "b"])),
    ("annotations[0].name", manifest(annotations=[{"name": "?", "value": "x"}])),
    ("annotations[1].name", manifest(annotations=[{"name": "a", "value": "x"}] * 2)),
]


@pytest.mark.parametrize(("field", "document"), FAULTS)
def test_a_fault_is_named_by_the_path_of_its_field(field: str, document: Any) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(document)
    assert caught.value.message.startswith(f"{field}: ")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'"' + b"x" * 100,
        b"[" * 100_000,
        b" " * (1 << 20) + b"{}",
    ],
)
def test_what_is_no_manifest_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_image_manifest(data)


def test_a_good_manifest_is_read() -> None:
    document = with_app(
        environment=[{"name": "A", "value": "b"}],
        mountPoints=[{"name": "data", "path": "/data", "readOnly": True}],
        ports=[PORT | {"count": 3, "socketActivated": True}],
        supplementaryGIDs=[4],
        userLabels={"x": "y"},
    )
    read = parse(document)
    assert read.app.mount_points[0].read_only
    assert read.app.ports[0].count == 3
    assert read.app.supplementary_gids == [4]
    assert read.label("version") == "1.0"
    assert read.label("none") is None


def test_null_stands_for_an_absent_field() -> None:
    document = with_app(environment=None, ports=None)
    document["annotations"] = None
    assert parse(document).app.environment == []
    document["name"] = None
    with pytest.raises(ManifestError, match="^name: is required"):
        parse(document)


def test_exec_may_be_missing_or_searched_in_the_path() -> None:
    assert parse(manifest(app={"user": "0", "group": "0"})).app.exec == []
    assert parse(with_app(exec=["redis-server"])).app.exec == ["redis-server"]


def test_unknown_fields_are_kept_and_known_ones_are_what_the_structure_says() -> None:
    import msgspec

    document = with_app(
        mountPoints=[{"name": "a", "path": "/a", "x-note": 1}, {"name": "b", "path": "/b", "y": 2}]
    )
    document["x-top"] = {"deep": [1, None]}
    document["app"]["x-app"] = True
    assert json.loads(encode(parse(document))) == document
    read = parse(document)
    app = msgspec.structs.replace(read.app, mount_points=read.app.mount_points[1:], user="7")
    written = json.loads(encode(msgspec.structs.replace(read, app=app, labels=[])))
    assert written["x-top"] == document["x-top"]
    assert written["app"]["x-app"] is True
    assert written["app"]["user"] == "7"
    assert written["app"]["mountPoints"] == [{"name": "b", "path": "/b", "y": 2}]
    assert "labels" not in written


def test_a_field_of_our_own_bookkeeping_cannot_be_set_from_outside() -> None:
    read = parse(manifest() | {"//original": "x"})
    assert json.loads(read.original)["name"] == "example.com/app"


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({"arch": "amd64"}, "missing os label in the image manifest"),
        ({"os": "linux"}, "missing arch label in the image manifest"),
        ({"os": "freebsd", "arch": "amd64"}, 'bad os "freebsd" (must be one of: [linux])'),
        ({"os": "linux", "arch": "i386"}, 'bad arch "i386" for linux (must be one of: [amd64])'),
    ],
)
def test_another_platform_is_refused_in_rkts_words(labels: dict[str, str], text: str) -> None:
    read = parse(manifest(labels=[{"name": key, "value": labels[key]} for key in labels]))
    with pytest.raises(ManifestError) as caught:
        check_platform(read, machine="x86_64")
    assert text in caught.value.message


def test_the_own_platform_passes() -> None:
    check_platform(parse(manifest()), machine="x86_64")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(below for key, item in items for below in paths_in(item, (*path, key)))]


FULL = with_app(
    environment=[{"name": "A", "value": "b"}],
    isolators=[{"name": "resource/memory", "value": {"limit": "1G"}}],
    mountPoints=[{"name": "a", "path": "/a"}],
    ports=[PORT],
    eventHandlers=[{"name": "pre-start", "exec": ["/a"]}],
) | {"dependencies": [{"imageName": "b", "labels": []}], "pathWhitelist": ["/a"]}


@given(st.sampled_from(paths_in(FULL)[1:]), JSON)
def test_a_manifest_with_any_value_anywhere_is_read_or_refused(
    path: tuple[Any, ...], value: Any
) -> None:
    document = copy.deepcopy(FULL)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    try:
        read = parse(document)
    except ManifestError as error:
        assert ": " in error.message
    else:
        assert parse_image_manifest(encode(read)).name == read.name


@given(st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(ManifestError):
        parse_image_manifest(data)
