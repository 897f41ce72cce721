"""The configuration files: what they set, which one counts, what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.configuration import (
    Configuration,
    ImageLimits,
    Stage1Default,
    load_configuration,
)
from kvmrkt.errors import ConfigError
from kvmrkt.images.web.aws import AwsKey
from kvmrkt.images.web.credentials import BearerToken, Credentials, Login

HUB = "registry-1.docker.io"
BASIC = {"user": "u", "password": "p"}


class Files:
    """Writes files below a folder and loads them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0

    def raw(self, path: str, content: bytes) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return target

    def add(self, folder: str, kind: str, **content: Any) -> Path:
        """One more file in `<layer>/<kind>.d`."""
        self.count += 1
        whole = {"rktKind": kind, "rktVersion": "v1"} | content
        return self.raw(f"{folder}/{self.count}.json", msgspec.json.encode(whole))

    def load(self, **options: Any) -> Configuration:
        return load_configuration(
            self.root / "system", self.root / "local", self.root / "user", **options
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def refused(files: Files) -> str:
    with pytest.raises(ConfigError) as caught:
        files.load()
    return str(caught.value)


def test_without_files_everything_is_the_default(files: Files) -> None:
    assert files.load() == Configuration()
    assert load_configuration(files.root / "none", files.root / "none") == Configuration()


def test_credentials_of_all_types(files: Files) -> None:
    files.add("system/auth.d", "auth", domains=["A.org", "b.org:8443"], type="basic",
              credentials=BASIC)  # fmt: skip
    files.add("system/auth.d", "auth", domains=["[::1]:5000"], type="oauth",
              credentials={"token": "t"})  # fmt: skip
    key = {"accessKeyID": "i", "secretAccessKey": "s"}
    files.add("system/auth.d", "auth", domains=["c.org"], type="aws", credentials=key)
    files.add("system/auth.d", "auth", domains=["d.org"], type="aws",
              credentials=key | {"awsRegion": "eu-west-1"})  # fmt: skip
    files.add("system/auth.d", "dockerAuth", registries=["quay.io", "index.docker.io"],
              credentials=BASIC)  # fmt: skip
    assert files.load().credentials == Credentials(
        {
            "a.org": Login("u", "p"),
            "b.org:8443": Login("u", "p"),
            "[::1]:5000": BearerToken("t"),
            "c.org": AwsKey("i", "s", "us-east-1"),
            "d.org": AwsKey("i", "s", "eu-west-1"),
        },
        {"quay.io": Login("u", "p"), HUB: Login("u", "p")},
    )


def test_rkt_s_own_example_of_overriding(files: Files) -> None:
    files.add("system/auth.d", "auth", domains=["coreos.com", "tectonic.com", "kubernetes.io"],
              type="oauth", credentials={"token": "common-token"})  # fmt: skip
    files.add("local/auth.d", "auth", domains=["coreos.com"], type="basic",
              credentials={"user": "foo", "password": "bar"})  # fmt: skip
    files.add("local/auth.d", "auth", domains=["tectonic.com"], type="oauth",
              credentials={"token": "tectonic-token"})  # fmt: skip
    found = files.load().credentials
    assert found.headers_for("GET", "https://kubernetes.io/") == {
        "Authorization": "Bearer common-token"
    }
    assert found.headers_for("GET", "https://coreos.com/") == {
        "Authorization": "Basic Zm9vOmJhcg=="
    }
    assert found.headers_for("GET", "https://tectonic.com/") == {
        "Authorization": "Bearer tectonic-token"
    }


def test_the_user_s_folder_has_the_last_word_per_registry(files: Files) -> None:
    files.add("system/auth.d", "dockerAuth", registries=["index.docker.io", "quay.io"],
              credentials=BASIC)  # fmt: skip
    files.add("user/auth.d", "dockerAuth", registries=["docker.io"],
              credentials={"user": "me", "password": "mine"})  # fmt: skip
    found = files.load().credentials
    assert found.docker_login(HUB) == ("me", "mine")
    assert found.docker_login("quay.io") == ("u", "p")


def test_paths_are_overridden_one_by_one(files: Files) -> None:
    files.add("system/paths.d", "paths", data="/a", **{"stage1-images": "/b"})
    files.add("local/paths.d", "paths", data="/c")
    assert (files.load().data, files.load().stage1_images) == (Path("/c"), Path("/b"))


def test_the_stage1_image_s_name_and_location_are_overridden_apart(files: Files) -> None:
    files.add("system/stage1.d", "stage1", name="a.org/s", version="1", location="/s.aci")
    files.add("local/stage1.d", "stage1", location="https://a.org/s.aci")
    assert files.load().stage1 == Stage1Default("a.org/s", "1", "https://a.org/s.aci")
    files.add("user/stage1.d", "stage1", name="b.org/s", version="2")
    assert files.load().stage1 == Stage1Default("b.org/s", "2", "https://a.org/s.aci")


def test_limits_of_images(files: Files) -> None:
    files.add("system/images.d", "images", maxEntries=5, maxPathBytes=6)
    files.add("local/images.d", "images", maxEntries=7, maxExpandedBytes=8, maxDownloadBytes=9)
    assert files.load().limits == ImageLimits(7, 6, 8, 9)


def test_only_the_folders_asked_for_are_read(files: Files) -> None:
    files.raw("local/auth.d/bad.json", b"{")
    files.add("local/paths.d", "paths", data="/a")
    assert files.load(folders=("paths.d",)).data == Path("/a")


def test_only_json_files_directly_in_the_folder_count(files: Files) -> None:
    files.raw("local/auth.d/readme.txt", b"x")
    files.raw("local/auth.d/sub/a.json", b"x")
    files.raw("local/a.json", b"x")
    (files.root / "local/auth.d/folder.json").mkdir()
    os.mkfifo(files.root / "local/auth.d/fifo.json")
    assert files.load() == Configuration()


def test_a_link_to_a_file_is_as_good_as_the_file(files: Files) -> None:
    target = files.raw("elsewhere", b'{"rktKind": "paths", "rktVersion": "v1", "data": "/a"}')
    (files.root / "local/paths.d").mkdir(parents=True)
    (files.root / "local/paths.d/a.json").symlink_to(target)
    assert files.load().data == Path("/a")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"rktKind": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b"[]", "it is not a JSON object"),
        (b"{}", "rktKind: is required"),
        (b'{"rktKind": ""}', "rktKind: is required"),
        (b'{"rktKind": 1}', "rktKind: is required"),
        (b'{"rktKind": "auth"}', "rktVersion: is required"),
        (b'{"rktKind": "auth", "rktVersion": "v2"}', 'rktVersion: "v2" is not known'),
        (b'{"rktKind": "paths", "rktVersion": "v1"}', 'rktKind: "paths" does not belong here'),
        (b'{"rktKind": "auth", "rktKind": "auth"}', "rktKind: is there twice"),
        (b'{"a": {"b": 1, "b": 2}}', "b: is there twice"),
        (b" " * ((1 << 20) + 1), "larger than"),
    ],
)
def test_files_that_are_no_configuration(files: Files, content: bytes, reason: str) -> None:
    path = files.raw("local/auth.d/a.json", content)
    message = refused(files)
    assert message.startswith(f"cannot use {path}: ")
    assert reason in message


AUTH: dict[str, Any] = {"domains": ["a.org"], "type": "basic", "credentials": BASIC}
DOCKER: dict[str, Any] = {"registries": ["a.org"], "credentials": BASIC}


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        ("auth", AUTH | {"x": 1}, "unknown field `x`"),
        ("auth", {"type": "basic", "credentials": BASIC}, "missing required field `domains`"),
        ("auth", AUTH | {"domains": []}, "domains: "),
        ("auth", AUTH | {"domains": "a.org"}, "domains: "),
        ("auth", AUTH | {"domains": [1]}, "domains[0]: "),
        ("auth", AUTH | {"domains": ["a.org", "A.org"]}, "a.org: is configured twice"),
        ("auth", AUTH | {"domains": ["https://a.org"]}, 'domains: "https://a.org" is not a host'),
        ("auth", AUTH | {"domains": ["a.org/b"]}, "is not a host"),
        ("auth", AUTH | {"domains": [""]}, "is not a host"),
        ("auth", AUTH | {"type": "digest"}, "type: "),
        ("auth", AUTH | {"credentials": {}}, "credentials: "),
        ("auth", AUTH | {"credentials": None}, "credentials: "),
        ("auth", AUTH | {"credentials": BASIC | {"x": 1}}, "unknown field `x`"),
        ("auth", AUTH | {"credentials": BASIC | {"password": ""}}, "credentials.password: "),
        ("auth", AUTH | {"credentials": BASIC | {"user": "a:b"}}, "credentials.user: "),
        ("auth", AUTH | {"type": "oauth"}, "credentials: "),
        ("auth", AUTH | {"type": "oauth", "credentials": {"token": "a\nb"}}, "credentials.token"),
        ("auth", AUTH | {"type": "aws"}, "credentials: "),
        (
            "auth",
            AUTH | {"type": "aws", "credentials": {"accessKeyID": " ", "secretAccessKey": "x"}},
            "credentials.accessKeyID",
        ),
        ("dockerAuth", {"domains": ["a.org"], "credentials": BASIC}, "domains"),
        ("dockerAuth", DOCKER | {"registries": ["a.org", "a.org"]}, "registries: "),
        ("dockerAuth", DOCKER | {"registries": ["https://a.org/v1"]}, "registries: "),
        ("dockerAuth", DOCKER | {"credentials": {"user": "a"}}, "`password`"),
        ("paths", {"data": "a/b"}, "data: is not an absolute path"),
        ("paths", {"stage1-images": "."}, "stage1-images: is not an absolute path"),
        ("paths", {"data": "/a\0"}, "data: "),
        ("paths", {"data": 1}, "data: "),
        ("paths", {"stage1_images": "/a"}, "unknown field `stage1_images`"),
        ("stage1", {"name": "a"}, "version: is required"),
        ("stage1", {"version": "1"}, "name: is required"),
        ("stage1", {"location": "a.aci"}, "location: "),
        ("stage1", {"location": "ftp://a/b.aci"}, "location: "),
        ("images", {"maxEntries": 0}, "maxEntries: "),
        ("images", {"maxPathBytes": -1}, "maxPathBytes: "),
        ("images", {"maxExpandedBytes": "1"}, "maxExpandedBytes: "),
        ("images", {"maxDownloadBytes": 1.5}, "maxDownloadBytes: "),
        ("images", {"max_entries": 1}, "unknown field `max_entries`"),
    ],
)
def test_what_the_kinds_refuse(
    files: Files, kind: str, content: dict[str, Any], reason: str
) -> None:
    folder = "auth" if kind.endswith("uth") else kind
    path = files.add(f"local/{folder}.d", kind, **content)
    message = refused(files)
    assert message.startswith(f"cannot use {path}: ")
    assert reason in message


@pytest.mark.parametrize(
    ("kind", "content", "key"),
    [
        ("auth", AUTH, "a.org"),
        ("dockerAuth", DOCKER, "a.org"),
        ("paths", {"data": "/a"}, "data"),
        ("stage1", {"name": "a", "version": "1"}, "name"),
        ("stage1", {"location": "/a"}, "location"),
        ("images", {"maxEntries": 1}, "maxEntries"),
    ],
)
def test_the_same_thing_twice_in_one_folder(
    files: Files, kind: str, content: dict[str, Any], key: str
) -> None:
    folder = "auth" if kind.endswith("uth") else kind
    for layer in ("system", "local"):
        files.add(f"{layer}/{folder}.d", kind, **content)
    files.load()
    path = files.add(f"local/{folder}.d", kind, **content)
    assert refused(files) == f"cannot use {path}: {key}: is configured twice, also in 2.json"


def test_two_names_of_one_registry_may_stand_in_one_file_only(files: Files) -> None:
    files.add("local/auth.d", "dockerAuth", registries=["docker.io", HUB], credentials=BASIC)
    assert files.load().credentials.registries == {HUB: Login("u", "p")}
    files.add("local/auth.d", "dockerAuth", registries=["index.docker.io"], credentials=BASIC)
    assert f"{HUB}: is configured twice" in refused(files)


def test_secrets_are_not_in_messages(files: Files) -> None:
    secret = "geheim\n"
    for content in (
        AUTH | {"type": "oauth", "credentials": {"token": secret}},
        AUTH | {"credentials": {"user": "u", "password": [secret]}},
        AUTH | {"credentials": secret},
    ):
        path = files.add("local/auth.d", "auth", **content)
        assert "geheim" not in refused(files)
        path.unlink()


def test_a_folder_that_is_a_file_is_told(files: Files) -> None:
    path = files.raw("local/auth.d", b"")
    assert str(path) in refused(files)


@given(st.binary(max_size=60))
def test_no_content_is_more_than_a_configuration_error(tmp_path_factory: Any, data: bytes) -> None:
    files = Files(tmp_path_factory.mktemp("any"))
    for folder in ("auth.d", "paths.d"):
        files.raw(f"local/{folder}/a.json", data)
    with pytest.raises(ConfigError):
        files.load()
