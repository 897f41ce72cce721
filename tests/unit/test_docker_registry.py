"""Talking to a registry."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_files import (
    DOCKER_LIST,
    OCI_MANIFEST,
    DockerImage,
    digest_of,
    docker_image,
    publish,
    reference,
)
from hypothesis import given
from hypothesis import strategies as st
from web_server import Answer, Request, Server, closed_port, redirect, serving, trust

from kvmrkt.config import InsecureOptions
from kvmrkt.errors import ImageError, ImageNotFoundError
from kvmrkt.images.docker.registry import open_registry
from kvmrkt.images.docker.registry_login import Challenge, parse_challenges
from kvmrkt.images.docker.sources import FoundImage
from kvmrkt.images.policy import FetchPolicy
from kvmrkt.images.references import DockerReference
from kvmrkt.images.web.credentials import Credentials, Login

SECURE = FetchPolicy(insecure=InsecureOptions(image=True))
PLAIN_HTTP = FetchPolicy(insecure=InsecureOptions(image=True, http=True))
BIG = os.urandom(300_000)
ERROR = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown", "detail": {}}]}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    trust(monkeypatch, tmp_path)
    with serving() as running:
        yield running


def login(server: Server) -> FetchPolicy:
    """A policy with a login for the server."""
    registries = {f"127.0.0.1:{server.port}": Login("me", "secret")}
    return FetchPolicy(insecure=SECURE.insecure, credentials=Credentials(registries=registries))


def found(server: Server, policy: FetchPolicy = SECURE, **changes: Any) -> FoundImage:
    with open_registry(reference(server, **changes), policy) as source:
        return source.find()


def pulled(server: Server, policy: FetchPolicy = SECURE) -> list[bytes]:
    """The layers' bytes."""
    with open_registry(reference(server), policy) as source:
        blobs = []
        for layer in source.find().layers:
            content = b""
            with source.open_layer(layer) as stream:
                while piece := stream.read(50_000):
                    content += piece
            blobs.append(content)
        return blobs


def failure(server: Server, policy: FetchPolicy = SECURE, **changes: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        found(server, policy, **changes)
    return caught.value


def reason(server: Server, policy: FetchPolicy = SECURE, **changes: Any) -> str:
    return ": ".join(failure(server, policy, **changes).causes())


def layer_path(image: DockerImage, number: int = 0) -> str:
    return f"/v2/app/blobs/{image.manifest['layers'][number]['digest']}"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def guarded(server: Server, allowed: str, challenge: str) -> None:
    """Everything published so far is answered only to requests with this Authorization."""

    def guard(inner: Answer) -> Callable[[Request], Answer]:
        denied = Answer(b"{}", 401, {"WWW-Authenticate": challenge})
        return lambda request: inner if request.headers["Authorization"] == allowed else denied

    for path, answer in list(server.answers.items()):
        assert isinstance(answer, Answer)
        server.answers[path] = guard(answer)


def with_tokens(
    server: Server, image: DockerImage, *, token: dict[str, Any] | None = None, **challenge: str
) -> None:
    """A registry that wants tokens of the same server."""
    publish(server, image)
    realm = challenge.pop("realm", server.url("/token"))
    words = {"realm": realm, "service": "the registry", **challenge}
    header = "Bearer " + ",".join(f'{name}="{value}"' for name, value in words.items())
    guarded(server, "Bearer abc", header)
    body = json.dumps(token or {"token": "abc", "expires_in": 300}).encode()
    server.answers["/token"] = Answer(body)


@pytest.mark.parametrize("docker", [True, False])
def test_an_image_is_found_by_its_tag(server: Server, docker: bool) -> None:
    image = docker_image(docker=docker)
    publish(server, image)
    made = found(server)
    assert [layer.digest for layer in made.layers] == [
        layer["digest"] for layer in image.manifest["layers"]
    ]
    assert made.config.config is not None
    assert made.config.config.env == ["PATH=/bin"]
    assert made.origin.registry == f"127.0.0.1:{server.port}"
    assert (made.origin.repository, made.origin.tag) == ("app", "v1")
    assert made.origin.manifest_digest == image.digest
    assert made.origin.original_name == f"127.0.0.1:{server.port}/app:v1"
    assert OCI_MANIFEST in server.asked[1].headers["Accept"]


def test_an_image_is_found_by_its_digest(server: Server) -> None:
    image = docker_image()
    publish(server, image)
    made = found(server, tag=None, digest=image.digest)
    assert (made.origin.tag, made.origin.manifest_digest) == ("", image.digest)


def test_with_tag_and_digest_the_digest_decides(server: Server) -> None:
    image = docker_image()
    publish(server, image)
    server.answers["/v2/app/manifests/v1"] = Answer(b"something else")
    assert found(server, digest=image.digest).origin.tag == "v1"


def test_a_manifest_that_is_not_what_its_digest_says_is_refused(server: Server) -> None:
    image = docker_image()
    publish(server, image)
    server.answers[f"/v2/app/manifests/{image.digest}"] = Answer(
        docker_image(author="Mallory").manifest_bytes,
        headers={"Docker-Content-Digest": image.digest},
    )
    assert "its manifest is not what it should be" in reason(server, digest=image.digest)


def test_a_configuration_that_is_not_what_its_digest_says_is_refused(server: Server) -> None:
    image = docker_image()
    publish(server, image)
    config = image.manifest["config"]["digest"]
    server.answers[f"/v2/app/blobs/{config}"] = Answer(b"{}")
    assert "its configuration is not what it should be" in reason(server)


def test_a_manifest_list_leads_to_this_hosts_image(server: Server) -> None:
    image = docker_image(docker=True)
    publish(server, image)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    manifests = [
        {
            "mediaType": OCI_MANIFEST,
            "digest": digest_of(data),
            "size": len(data),
            "platform": {"os": "linux", "architecture": arch},
        }
        for data, arch in ((b"other", "mips"), (image.manifest_bytes, machine))
    ]
    document = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    server.answers["/v2/app/manifests/v1"] = Answer(document, headers={"Content-Type": DOCKER_LIST})
    assert found(server).origin.manifest_digest == image.digest


def test_layers_are_read_whole(server: Server) -> None:
    image = docker_image([BIG, b"small"], compression="none")
    publish(server, image)
    assert pulled(server) == [BIG, b"small"]


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_layer_is_resumed_where_the_connection_broke(
    server: Server, ranges: bool, reset: bool
) -> None:
    image = docker_image([BIG], compression="none")
    publish(server, image)
    path = layer_path(image)
    server.answers[path] = [
        Answer(BIG, cut_after=100_000, reset=reset),
        Answer(BIG, ranges=ranges),
    ]
    assert pulled(server) == [BIG]
    assert server.paths().count(path) == 2
    second = server.asked[-1].headers["Range"]
    if not reset:  # a reset may throw away what was sent
        assert second == "bytes=100000-"


def test_a_connection_that_breaks_at_once_again_and_again_is_given_up(server: Server) -> None:
    image = docker_image([BIG], compression="none")
    publish(server, image)
    server.answers[layer_path(image)] = Answer(BIG, cut_after=0)
    with pytest.raises(ImageError, match="cannot download layer sha256:.*connection"):
        pulled(server)
    assert server.paths().count(layer_path(image)) == 4


def test_a_connection_that_breaks_on_and_on_is_given_up(server: Server) -> None:
    image = docker_image([BIG], compression="none")
    publish(server, image)
    server.answers[layer_path(image)] = [
        Answer(BIG, cut_after=end, ranges=False) for end in range(10, 400, 10)
    ]
    with pytest.raises(ImageError, match="cannot download layer"):
        pulled(server)
    assert server.paths().count(layer_path(image)) == 21


def test_a_part_that_was_not_asked_for_is_refused(server: Server) -> None:
    image = docker_image([BIG], compression="none")
    publish(server, image)
    other = {"Content-Range": f"bytes 7-{len(BIG) - 1}/{len(BIG)}"}
    server.answers[layer_path(image)] = [
        Answer(BIG, cut_after=1000),
        Answer(BIG[7:], 206, headers=other),
    ]
    with pytest.raises(ImageError, match="sends another part"):
        pulled(server)


def test_a_layer_that_lacks_an_end_is_given_up(server: Server) -> None:
    image = docker_image([BIG], compression="none")
    publish(server, image)
    server.answers[layer_path(image)] = Answer(BIG[:1000])
    with pytest.raises(ImageError, match="cannot download layer"):
        pulled(server)


def test_a_layer_that_vanished_is_not_found(server: Server) -> None:
    image = docker_image()
    publish(server, image)
    del server.answers[layer_path(image)]
    with pytest.raises(ImageNotFoundError, match="the registry does not have it"):
        pulled(server)


def test_anybody_gets_a_token_for_pulling_this_repository(server: Server) -> None:
    with_tokens(server, docker_image())
    assert len(pulled(server)) == 2
    tokens = [request for request in server.asked if request.path.startswith("/token")]
    assert [request.path for request in tokens] == [
        "/token?scope=repository%3Aapp%3Apull&service=the+registry"
    ]
    assert tokens[0].headers["Authorization"] is None


def test_a_login_is_for_the_token_server_and_the_token_for_the_registry(server: Server) -> None:
    with_tokens(server, docker_image())
    assert len(pulled(server, login(server))) == 2
    for request in server.asked[1:]:
        expected = basic("me", "secret") if request.path.startswith("/token") else "Bearer abc"
        assert request.headers["Authorization"] == expected
    assert server.asked[0].headers["Authorization"] is None


def test_the_token_may_be_called_access_token(server: Server) -> None:
    with_tokens(server, docker_image(), token={"access_token": "abc"})
    assert len(pulled(server)) == 2


def test_an_expired_token_is_replaced(server: Server) -> None:
    with_tokens(server, docker_image(), token={"token": "abc", "expires_in": 0})
    assert len(pulled(server)) == 2
    assert len([path for path in server.paths() if path.startswith("/token")]) == 4


def test_a_token_that_is_refused_early_is_replaced_once(server: Server) -> None:
    image = docker_image()
    with_tokens(server, image)
    tokens = [Answer(json.dumps({"token": text}).encode()) for text in ("old", "abc")]
    server.answers["/token"] = list(tokens)
    assert len(pulled(server)) == 2
    server.answers["/token"] = tokens[0]
    error = failure(server)
    assert "the registry denies access (status 401" in error.message


def test_a_wrong_login_is_told_with_advice(server: Server) -> None:
    with_tokens(server, docker_image())
    server.answers["/token"] = Answer(b"{}", 401)
    error = failure(server, login(server))
    assert "cannot log in to registry" in error.message
    assert "auth.d" in (error.hint or "")
    assert "secret" not in repr(error.causes())


@pytest.mark.parametrize(
    "token",
    [b"", b"[]", b'{"token": 1}', b"{}", b'{"token": "a\\nb: c"}', b" " * 100_000],
)
def test_a_token_server_that_answers_nonsense_is_told(server: Server, token: bytes) -> None:
    with_tokens(server, docker_image())
    server.answers["/token"] = Answer(token)
    assert "cannot log in to registry" in reason(server)


def test_a_token_server_without_tls_is_not_asked(server: Server) -> None:
    with_tokens(server, docker_image(), realm="http://127.0.0.1:1/token")
    assert "plain http is not safe" in reason(server, login(server))


def test_a_registry_may_want_user_and_password_itself(server: Server) -> None:
    publish(server, docker_image())
    guarded(server, basic("me", "secret"), 'Basic realm="x"')
    assert len(pulled(server, login(server))) == 2
    assert server.asked[0].headers["Authorization"] is None


def test_without_a_login_a_closed_registry_gives_advice(server: Server) -> None:
    publish(server, docker_image())
    guarded(server, basic("me", "secret"), 'Basic realm="x"')
    error = failure(server)
    assert "the registry denies access (status 401)" in error.message
    assert f"login for 127.0.0.1:{server.port} in auth.d" in (error.hint or "")


def test_no_credentials_follow_a_redirect_to_another_host(server: Server) -> None:
    image = docker_image([BIG], compression="none")
    with serving() as storage:
        with_tokens(server, image)
        storage.answers["/blob"] = Answer(BIG)
        server.answers[layer_path(image)] = redirect(storage.url("/blob", "localhost"), 307)
        assert pulled(server, login(server)) == [BIG]
        assert storage.asked[0].headers["Authorization"] is None


def test_a_resumed_layer_asks_the_registry_again_and_keeps_its_place(server: Server) -> None:
    image = docker_image([BIG], compression="none")
    with serving() as storage:
        publish(server, image)
        storage.answers["/one"] = Answer(BIG, cut_after=200_000)
        storage.answers["/two"] = Answer(BIG)
        server.answers[layer_path(image)] = [
            redirect(storage.url("/one")),
            redirect(storage.url("/two")),
        ]
        assert pulled(server) == [BIG]
        assert storage.asked[1].headers["Range"] == "bytes=200000-"


def test_a_storage_host_cannot_ask_for_the_login(server: Server) -> None:
    image = docker_image([BIG], compression="none")
    with serving() as storage:
        publish(server, image)
        wish = {"WWW-Authenticate": f'Bearer realm="{storage.url("/token")}"'}
        storage.answers["/blob"] = Answer(b"", 401, wish)
        server.answers[layer_path(image)] = redirect(storage.url("/blob"))
        with pytest.raises(ImageError, match="denies access"):
            pulled(server, login(server))
        assert storage.paths() == ["/blob"]


def test_an_unknown_image_is_not_found_in_the_registrys_words(server: Server) -> None:
    publish(server, docker_image())
    server.answers["/v2/app/manifests/v1"] = Answer(json.dumps(ERROR).encode(), 404)
    error = failure(server)
    assert isinstance(error, ImageNotFoundError)
    assert error.message == (
        f'cannot fetch image "docker://127.0.0.1:{server.port}/app:v1": the registry does not have'
        " it (status 404; MANIFEST_UNKNOWN manifest unknown)"
    )


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"<html>", "(status 500)"),
        (b'{"errors": 1}', "(status 500)"),
        (b'{"errors": [{"code": "A\\u001b[31m", "message": "b"}]}', "(status 500; A?[31m b)"),
        (b"x" * 100_000, "(status 500)"),
        (b'{"errors": [' + b"{}," * 9 + b'{"code": "A"}]}', "(status 500; A)"),
        (b"\xff\xfe", "(status 500)"),
    ],
)
def test_errors_of_any_form_are_shown_safely(server: Server, body: bytes, shown: str) -> None:
    publish(server, docker_image())
    server.answers["/v2/app/manifests/v1"] = Answer(body, 500)
    assert f"the registry failed {shown}" in reason(server)


def test_a_rate_limit_says_when_to_come_back(server: Server) -> None:
    publish(server, docker_image())
    server.answers["/v2/app/manifests/v1"] = Answer(b"{}", 429, {"Retry-After": "60"})
    error = failure(server)
    assert "limits how often it may be asked (status 429)" in error.message
    assert "try again in 60 seconds" in (error.hint or "")


def test_a_manifest_of_schema_1_is_refused_by_name(server: Server) -> None:
    publish(server, docker_image())
    server.answers["/v2/app/manifests/v1"] = Answer(
        b'{"schemaVersion": 1, "fsLayers": []}',
        headers={"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"},
    )
    assert "schema 1" in reason(server)


def test_a_huge_manifest_is_not_read(server: Server) -> None:
    publish(server, docker_image())
    server.answers["/v2/app/manifests/v1"] = Answer(b" " * (2 << 20))
    assert "the answer is larger than 1048576 bytes" in reason(server)


def test_a_server_that_is_no_registry_is_told(server: Server) -> None:
    assert "it does not speak the registry API v2" in reason(server)


def test_a_registry_without_tls_needs_the_insecure_option(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trust(monkeypatch, tmp_path)
    with serving(tls=False) as server:
        publish(server, docker_image())
        error = failure(server)
        assert "TLS failed" in error.message
        assert "--insecure-options=http" in (error.hint or "")
        assert server.asked == []
        assert len(pulled(server, PLAIN_HTTP)) == 2


def test_with_the_insecure_option_https_comes_first(server: Server) -> None:
    publish(server, docker_image())
    assert len(pulled(server, PLAIN_HTTP)) == 2


def test_an_answer_over_https_is_not_asked_for_again_in_plain_http(server: Server) -> None:
    server.answers["/v2/"] = Answer(b"{}", 503)
    assert "the registry failed (status 503)" in reason(server, PLAIN_HTTP)
    assert server.paths() == ["/v2/"]


def test_a_certificate_nobody_vouches_for_is_refused() -> None:
    with serving() as server:
        publish(server, docker_image())
        error = failure(server)
        assert "certificate is not trusted" in error.message
        assert "--insecure-options=tls" in (error.hint or "")
        lax = FetchPolicy(insecure=InsecureOptions(image=True, tls=True))
        assert len(pulled(server, lax)) == 2


def test_a_registry_that_is_not_there_is_told() -> None:
    with closed_port() as port:
        wanted = DockerReference(f"127.0.0.1:{port}", "app", "v1")
        for policy in (SECURE, PLAIN_HTTP):
            with (
                pytest.raises(ImageError, match=f"cannot reach registry 127.0.0.1:{port}: .*"),
                open_registry(wanted, policy),
            ):
                pass


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ('Bearer realm="https://a",service="s"',
         [("bearer", {"realm": "https://a", "service": "s"})]),
        ('Bearer realm="a", scope="x:y:pull,push" , error=invalid_token',
         [("bearer", {"realm": "a", "scope": "x:y:pull,push", "error": "invalid_token"})]),
        ('Basic realm="a \\"b\\"", Bearer realm=c',
         [("basic", {"realm": 'a "b"'}), ("bearer", {"realm": "c"})]),
        ("Negotiate, BASIC realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        ("", []),
        ("=,=", []),
        ('Bearer realm="open', [("bearer", {})]),
    ],
)  # fmt: skip
def test_challenges_are_parsed(header: str, challenges: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == [Challenge(*challenge) for challenge in challenges]


@given(st.text(st.sampled_from('Bearer realm="x",\\ =\t'), max_size=60))
def test_any_header_is_parsed_to_its_end(header: str) -> None:
    parse_challenges(header)
