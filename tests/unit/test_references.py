"""What a text that names an image means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.errors import UsageError
from kvmrkt.images.references import (
    DockerArchiveReference,
    DockerReference,
    FileReference,
    HashReference,
    NameReference,
    OciLayoutReference,
    Reference,
    UrlReference,
    parse_name,
    parse_reference,
)

HUB = "registry-1.docker.io"
SHA256 = "sha256:" + "0a" * 32
V1 = (("version", "v1"),)


def parse(text: str) -> Reference:
    return parse_reference(text, is_file=lambda path: path == "here")


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("sha512-ab", HashReference("sha512-ab")),
        ("sha512-" + "a" * 128, HashReference("sha512-" + "a" * 128)),
        ("sha512-a", NameReference("sha512-a")),
        ("https://example.com/a.aci", UrlReference("https://example.com/a.aci")),
        ("HTTPS://example.com:8443/a.aci", UrlReference("https://example.com:8443/a.aci")),
        ("http://example.com/a.aci?x=1#y", UrlReference("http://example.com/a.aci?x=1#y")),
        ("file:///a/b.aci", FileReference(Path("/a/b.aci"))),
        ("file://localhost/a/b.aci", FileReference(Path("/a/b.aci"))),
        ("file:///a%20b.aci", FileReference(Path("/a b.aci"))),
        ("/a/b", FileReference(Path("/a/b"))),
        ("./a", FileReference(Path("./a"))),
        ("../a:b", FileReference(Path("../a:b"))),
        ("x/./a", FileReference(Path("x/a"))),
        ("a.aci", FileReference(Path("a.aci"))),
        ("here", FileReference(Path("here"))),
        ("example.com/app", NameReference("example.com/app")),
        ("example.com/app:v1", NameReference("example.com/app", V1)),
        ("example.com/app,version=v1", NameReference("example.com/app", V1)),
        ("my-app:v1", NameReference("my-app", V1)),
        (
            "example.com/app,x=a=b,arch=amd64,os=linux,version=1:2",
            NameReference(
                "example.com/app",
                (("version", "1:2"), ("os", "linux"), ("arch", "amd64"), ("x", "a=b")),
            ),
        ),
    ],
)
def test_app_container_images(text: str, reference: Reference) -> None:
    assert parse(text) == reference


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("docker://redis", DockerReference(HUB, "library/redis", "latest")),
        ("docker:redis", DockerReference(HUB, "library/redis", "latest")),
        ("docker:///redis:3", DockerReference(HUB, "library/redis", "3")),
        ("Docker://redis", DockerReference(HUB, "library/redis", "latest")),
        ("docker://docker.io/redis", DockerReference(HUB, "library/redis", "latest")),
        ("docker://index.docker.io/a/b", DockerReference(HUB, "a/b", "latest")),
        ("docker://user/app__x.y--z:T_1.2-3", DockerReference(HUB, "user/app__x.y--z", "T_1.2-3")),
        ("docker://quay.io/a/b/c", DockerReference("quay.io", "a/b/c", "latest")),
        ("docker://Quay.IO/a", DockerReference("quay.io", "a", "latest")),
        ("docker://localhost/a", DockerReference("localhost", "a", "latest")),
        ("docker://localhost:5000/a:1", DockerReference("localhost:5000", "a", "1")),
        ("docker://host:5000/a", DockerReference("host:5000", "a", "latest")),
        ("docker://127.0.0.1:5000/a", DockerReference("127.0.0.1:5000", "a", "latest")),
        ("docker://[::1]:5000/a:1", DockerReference("[::1]:5000", "a", "1")),
        ("docker://[fe80::1]/a", DockerReference("[fe80::1]", "a", "latest")),
        (f"docker://a@{SHA256}", DockerReference(HUB, "library/a", None, SHA256)),
        (f"docker://q.io/a:1@{SHA256}", DockerReference("q.io", "a", "1", SHA256)),
        ("oci:/a/b", OciLayoutReference(Path("/a/b"))),
        ("oci:a:v1", OciLayoutReference(Path("a"), "v1")),
        ("oci:///a/b:x.org/y:v1@z", OciLayoutReference(Path("/a/b"), "x.org/y:v1@z")),
        ("docker-archive:/a.tar", DockerArchiveReference(Path("/a.tar"))),
        ("docker-archive:a.tar:n:1", DockerArchiveReference(Path("a.tar"), "n:1")),
    ],
)
def test_docker_and_oci_images(text: str, reference: Reference) -> None:
    assert parse(text) == reference


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("cimd:appc:v=0:example.com%2Fapp", NameReference("example.com/app")),
        (
            "cimd:appc:v=0:example.com/app?os=linux&version=v1",
            NameReference("example.com/app", (*V1, ("os", "linux"))),
        ),
        ("cimd:appc:v=0:a?x=1%262%3D3", NameReference("a", (("x", "1&2=3"),))),
        (
            "cimd:aci-archive:v=0:https%3A%2F%2Fexample.com%2Fa.aci",
            UrlReference("https://example.com/a.aci"),
        ),
        (
            "cimd:aci-archive:v=0:https%3A%2F%2Fexample.com%2Fa%3Fb%3Dc",
            UrlReference("https://example.com/a?b=c"),
        ),
        ("cimd:aci-archive:v=0:file%3A%2F%2F%2Fa%2Fb", FileReference(Path("/a/b"))),
        ("cimd:docker:v=0:busybox", DockerReference(HUB, "library/busybox", "latest")),
        (f"cimd:docker:v=0:q.io/a@{SHA256}", DockerReference("q.io", "a", None, SHA256)),
    ],
)
def test_distribution_points(text: str, reference: Reference) -> None:
    assert parse(text) == reference


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("a\0b", "NUL"),
        ("https://example.com/a", "the URL does not end in .aci"),
        ("https:///a.aci", "no URL"),
        ("https://[::/a.aci", "no URL"),
        ("https://a:99999/a.aci", "no URL"),
        ("https://a/b c.aci", "no URL"),
        ("file:///a", "the file does not end in .aci"),
        ("file:///a%00.aci", "no path"),
        ("ftp://a/b.aci", "cannot fetch ftp images"),
        ("A", "neither a file nor an image name"),
        ("a b", "neither a file nor"),
        ("a:", "version after : is empty"),
        ("a,version=", "version is empty"),
        ("a,b", '"b" is not label=value'),
        ("a,name=b", "is not label=value"),
        ("a,x=1,x=2", "the label x is there twice"),
        ("a:1,version=1", "the label version is there twice"),
        ("docker://", "invalid docker image"),
        ("docker://Redis", "lowercase"),
        ("docker://a:", "invalid docker image"),
        ("docker://a:-x", "invalid docker image"),
        ("docker://a:" + "t" * 129, "invalid docker image"),
        ("docker://a@sha256:00", "invalid docker image"),
        ("docker://a@md5:" + "0" * 32, "invalid docker image"),
        ("docker://a//b", "invalid docker image"),
        ("docker://a/../b", "invalid docker image"),
        ("docker://q.io/", "invalid docker image"),
        ("docker://q.io:99999/a", "invalid docker image"),
        ("docker://q.io:x/a", "invalid docker image"),
        ("docker://[::::1]/a", "invalid docker image"),
        ("docker://user:pw@q.io/a", "invalid docker image"),
        ("docker://" + "a" * 256, "at most 255"),
        ("oci:", "the path is empty"),
        ("oci:a:", "the reference after the path is empty"),
        ("docker-archive::a", "the path is empty"),
        ("cimd:appc:v=1:a", "cimd:TYPE:v=0:DATA"),
        ("cimd:appc", "cimd:TYPE:v=0:DATA"),
        ("cimd:appc:v=0:a?x=1%2Cy=2", "comma"),
        ("cimd:appc:v=0:A", "neither a file nor"),
        ("cimd:aci-archive:v=0:ftp%3A%2F%2Fa", "not of file, http or https"),
        ("cimd:flatpak:v=0:a", 'type "flatpak"'),
    ],
)
def test_texts_that_name_no_image(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert reason in f"{caught.value} {caught.value.hint}"


def test_parse_name_takes_everything_for_a_name() -> None:
    assert parse_name("a.aci") == NameReference("a.aci")
    assert parse_name("docker:a") == NameReference("docker", (("version", "a"),))


def test_references_print_as_people_write_them() -> None:
    assert str(parse("a.org/app,x=1,os=linux,version=v1")) == "a.org/app:v1,os=linux,x=1"
    assert str(parse("docker:redis")) == f"docker://{HUB}/library/redis:latest"
    assert str(parse(f"docker:a/b:1@{SHA256}")) == f"docker://{HUB}/a/b:1@{SHA256}"
    assert str(parse("a.aci")) == "./a.aci"


def test_a_name_that_looks_like_something_else_prints_as_a_distribution_point() -> None:
    for reference in (
        NameReference("a.aci"),
        NameReference("sha512-ab"),
        NameReference("docker", V1),
        NameReference("a", (("x", "./b"),)),
        NameReference("oci", (("version", "a"), ("x", "1+1 =\u20ac\udcff"))),
    ):
        assert str(reference).startswith("cimd:appc:v=0:")
        assert parse(str(reference)) == reference


names = st.from_regex(r"[a-z0-9]{1,8}([-._~/][a-z0-9]{1,8}){0,3}", fullmatch=True)
label_values = st.text(st.characters(exclude_characters=",\0"), max_size=8)
paths = st.from_regex(r"/?[a-z./]{1,10}", fullmatch=True)
tails = st.from_regex(r"(:[a-zA-Z0-9._-]{1,6})?(@sha256:[0-9a-f]{64})?", fullmatch=True)


@st.composite
def texts(draw: st.DrawFn) -> str:
    name, value, path = draw(names), draw(label_values), draw(paths)
    return draw(
        st.sampled_from(
            [
                f"{name}:{value}",
                f"{name},x={value},os=linux",
                f"cimd:appc:v=0:{name}?x={value}",
                f"https://{name}/{value}.aci",
                f"cimd:aci-archive:v=0:https%3A//{name}",
                f"docker:{name}{draw(tails)}",
                f"docker://{name}/{name}{draw(tails)}",
                f"oci:{path}:{value}",
                f"oci:{path}",
                f"docker-archive:{path}:{value}",
                path,
            ]
        )
    )


@given(st.text(max_size=30) | texts())
def test_any_text_is_refused_or_prints_as_what_it_is(text: str) -> None:
    try:
        reference: Any = parse_reference(text, is_file=lambda _: False)
    except UsageError:
        return
    assert parse_reference(str(reference), is_file=lambda _: False) == reference
