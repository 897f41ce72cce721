"""Who we are to servers: which credentials for which URL, and how they look on the wire."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kvmrkt.images.web.aws import AwsKey
from kvmrkt.images.web.credentials import BearerToken, Credentials, Login

LOGIN = Login("user", "pass word")
BASIC = {"Authorization": "Basic dXNlcjpwYXNzIHdvcmQ="}


def test_basic_and_bearer_headers() -> None:
    credentials = Credentials({"a.org": LOGIN, "b.org": BearerToken("t.o-k")})
    assert credentials.headers_for("GET", "https://a.org/x") == BASIC
    assert credentials.headers_for("GET", "https://b.org/") == {"Authorization": "Bearer t.o-k"}


def test_a_login_may_hold_any_letters() -> None:
    headers = Credentials({"a.org": Login("ü", "€")}).headers_for("GET", "https://a.org/")
    assert headers == {"Authorization": "Basic w7w64oKs"}


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("a.org", "https://a.org/"),
        ("a.org", "https://A.ORG:443/x?y"),
        ("a.org", "http://a.org/"),
        ("a.org:443", "https://a.org/"),
        ("a.org:80", "http://a.org/"),
        ("a.org:8443", "https://a.org:8443/"),
        ("a.org", "https://someone:secret@a.org/"),
        ("127.0.0.1:5000", "https://127.0.0.1:5000/"),
        ("[::1]", "https://[::1]/"),
        ("[::1]:5000", "https://[::1]:5000/"),
    ],
)
def test_urls_that_an_entry_is_for(entry: str, url: str) -> None:
    assert Credentials({entry: LOGIN}).headers_for("GET", url) == BASIC


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("a.org", "https://a.org:8443/"),
        ("a.org", "https://b.a.org/"),
        ("a.org", "https://a.org.evil/"),
        ("a.org", "https://a.org@evil/"),
        ("a.org", "https://evil/a.org"),
        ("a.org", "https://evil#a.org"),
        ("a.org", "https://evil?@a.org"),
        ("a.org:443", "http://a.org/"),
        ("a.org:8443", "https://a.org/"),
        ("::1", "https://[::1]/"),
        ("a.org", "https://a.org:x/"),
        ("a.org", "https://[a.org/"),
        ("a.org", "a.org"),
        ("a.org", ""),
    ],
)
def test_urls_that_an_entry_is_not_for(entry: str, url: str) -> None:
    assert Credentials({entry: LOGIN}).headers_for("GET", url) == {}


def test_the_docker_hub_has_several_names() -> None:
    credentials = Credentials(registries={"registry-1.docker.io": LOGIN, "q.io:5000": LOGIN})
    for name in ("registry-1.docker.io", "index.docker.io", "docker.io", "Docker.IO", "q.io:5000"):
        assert credentials.docker_login(name) == ("user", "pass word")
    assert credentials.docker_login("q.io") is None
    assert Credentials().docker_login("docker.io") is None


def test_secrets_are_not_in_representations() -> None:
    credentials = Credentials(
        {"a": Login("u", "secret"), "b": BearerToken("secret"), "c": AwsKey("id", "secret")},
        {"d": Login("u", "secret")},
    )
    assert "secret" not in repr(credentials)
    assert "secret" not in f"{credentials} {credentials.hosts} {credentials.registries!s}"
    assert "id" in repr(credentials)


BUCKET = "https://examplebucket.s3.amazonaws.com"


@pytest.mark.parametrize(
    ("url", "signed", "signature"),
    [
        (
            f"{BUCKET}/test.txt",
            {"Range": "bytes=0-9"},
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            f"{BUCKET}?lifecycle",
            {},
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            f"{BUCKET}:443/?prefix=J&max-keys=2",
            {},
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_the_signatures_of_amazon_s_own_examples(
    url: str, signed: dict[str, str], signature: str
) -> None:
    key = AwsKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    headers = key.headers_for("GET", url, now=datetime(2013, 5, 24, tzinfo=UTC), signed=signed)
    names = "host;range;" if signed else "host;"
    assert headers == {
        "x-amz-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "x-amz-date": "20130524T000000Z",
        "Authorization": "AWS4-HMAC-SHA256"
        " Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders={names}x-amz-content-sha256;x-amz-date,Signature={signature}",
    }


def test_a_signature_is_for_its_region_method_path_and_moment() -> None:
    now = datetime(2020, 1, 1, tzinfo=UTC)
    later = datetime(2020, 1, 1, 0, 0, 1, tzinfo=UTC)
    key, other = AwsKey("i", "s"), AwsKey("i", "s", "eu-west-1")
    made = [
        key.headers_for("GET", "https://a/b", now=now),
        other.headers_for("GET", "https://a/b", now=now),
        key.headers_for("HEAD", "https://a/b", now=now),
        key.headers_for("GET", "https://a/c", now=now),
        key.headers_for("GET", "https://a/b", now=later),
    ]
    assert len({headers["Authorization"] for headers in made}) == len(made)
    assert "/eu-west-1/s3/" in made[1]["Authorization"]


def test_a_path_is_signed_alike_however_it_is_quoted() -> None:
    now = datetime(2020, 1, 1, tzinfo=UTC)
    key = AwsKey("i", "s")
    quoted, plain = "https://a/b%2Bc%7Ed%20e", "https://a/b+c~d e"
    assert key.headers_for("GET", quoted, now=now) == key.headers_for("GET", plain, now=now)
    assert Credentials({"a": key}).headers_for("GET", plain, now=now) == key.headers_for(
        "GET", plain, now=now
    )
