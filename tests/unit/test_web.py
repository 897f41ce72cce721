"""The door to the web: what it lets through, whom it tells secrets, what it says of failures."""

from __future__ import annotations

import socket
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from web_server import Answer, Gate, Server, closed_port, direct, redirect, serving, trust

from kvmrkt.config import InsecureOptions
from kvmrkt.errors import ImageError, ImageNotFoundError
from kvmrkt.images.web import http as web
from kvmrkt.images.web.credentials import BearerToken, Credentials, Login
from kvmrkt.images.web.http import SmallFile, asking, fetch_small, session, shown_url

SECURE = InsecureOptions()
HTTP = InsecureOptions(http=True)
TLS = InsecureOptions(tls=True)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    trust(monkeypatch, tmp_path)
    with serving() as made:
        yield made


@pytest.fixture
def other() -> Any:
    with serving() as made:
        yield made


@pytest.fixture
def plain() -> Any:
    with serving(tls=False) as made:
        yield made


def fetch(
    url: str,
    insecure: InsecureOptions = SECURE,
    credentials: Credentials | None = None,
    limit_bytes: int = 1000,
) -> SmallFile:
    return fetch_small(url, insecure=insecure, credentials=credentials, limit_bytes=limit_bytes)


def login_for(*hosts: str) -> Credentials:
    return Credentials({host: Login("user", host) for host in hosts})


def secret(host: str) -> str:
    return "Basic " + b64encode(f"user:{host}".encode()).decode()


def test_a_file_is_read_with_the_headers_of_kvmrkt(server: Server) -> None:
    server.answers["/a"] = Answer(b"content")
    assert fetch(server.url("/a")) == SmallFile(b"content", server.url("/a"), 200)
    headers = server.asked[0].headers
    assert headers["User-Agent"].startswith("kvmrkt/")
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Authorization"] is None


def test_a_body_in_chunks_or_without_a_length_is_read(server: Server) -> None:
    server.answers["/chunked"] = Answer(b"x" * 5000, chunked=True)
    server.answers["/endless"] = Answer(b"x" * 5000, length=-1)
    assert len(fetch(server.url("/chunked"), limit_bytes=5000).body) == 5000
    assert len(fetch(server.url("/endless"), limit_bytes=5000).body) == 5000


def test_a_status_202_is_the_caller_s_business(server: Server) -> None:
    server.answers["/a"] = Answer(b"later", 202)
    assert fetch(server.url("/a")).status == 202


def test_an_untrusted_certificate_is_refused_unless_tls_is_insecure(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/a"] = Answer(b"content")
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ImageError, match="the server's certificate is not trusted") as caught:
        fetch(server.url("/a"))
    assert "--insecure-options=tls" in (caught.value.hint or "")
    assert fetch(server.url("/a"), TLS).body == b"content"


def test_a_bundle_in_the_environment_does_not_bring_back_verification(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.answers["/a"] = Answer(b"content")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    monkeypatch.delenv("SSL_CERT_FILE")
    assert fetch(server.url("/a")).body == b"content"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs")
    assert fetch(server.url("/a"), TLS).body == b"content"


def test_a_certificate_for_another_host_is_refused(server: Server) -> None:
    text = "IP address mismatch, certificate is not valid"
    with serving(hosts=("example.com",)) as wrong, pytest.raises(ImageError, match=text):
        fetch(wrong.url("/a"))


def test_plain_http_needs_the_option(plain: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    direct(monkeypatch)
    plain.answers["/a"] = Answer(b"content")
    with pytest.raises(ImageError, match="plain http is not safe") as caught:
        fetch(plain.url("/a"))
    assert "--insecure-options=http" in (caught.value.hint or "")
    assert plain.asked == []
    assert fetch(plain.url("/a"), HTTP).body == b"content"


def test_no_redirect_leads_to_plain_http_without_the_option(server: Server, plain: Server) -> None:
    server.answers["/a"] = redirect(plain.url("/a"))
    plain.answers["/a"] = Answer(b"content")
    with pytest.raises(ImageError, match="plain http is not safe"):
        fetch(server.url("/a"))
    assert plain.asked == []
    assert fetch(server.url("/a"), HTTP) == SmallFile(b"content", plain.url("/a"), 200)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server: Server, status: int) -> None:
    server.answers["/a"] = redirect("/b?c=1", status)
    server.answers["/b"] = Answer(b"content")
    assert fetch(server.url("/a")).url == server.url("/b?c=1")


def test_redirects_end_at_the_tenth(server: Server) -> None:
    for number in range(11):
        server.answers[f"/{number}"] = redirect(f"/{number + 1}")
    server.answers["/11"] = Answer(b"content")
    assert fetch(server.url("/1")).body == b"content"
    with pytest.raises(ImageError, match="more than 10 redirects"):
        fetch(server.url("/0"))


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://a/", "https://[", "https://a:99999/", "https://", "http:",
     "https://\xff\xfe/", "\xff", "https://a\x7f/", "//[/", "https://a:b@:1/", "gopher:x"],
)  # fmt: skip
def test_redirects_to_odd_places_fail_in_words(server: Server, target: str) -> None:
    server.answers["/a"] = redirect(target)
    with pytest.raises(ImageError, match=r"^cannot download"):
        fetch(server.url("/a"))


def test_the_body_of_a_redirect_is_not_read(server: Server) -> None:
    answer = Answer(b"x", 302, {"Location": "/b"}, length=1 << 40)
    server.answers |= {"/a": answer, "/b": Answer(b"content")}
    assert fetch(server.url("/a")).body == b"content"


def test_credentials_go_to_their_host(server: Server) -> None:
    server.answers["/a"] = Answer(b"content")
    host = f"127.0.0.1:{server.port}"
    fetch(server.url("/a"), credentials=login_for(host, "127.0.0.1", "localhost"))
    assert server.asked[0].headers["Authorization"] == secret(host)
    fetch(server.url("/a"), credentials=login_for("127.0.0.1", f"localhost:{server.port}"))
    assert server.asked[1].headers["Authorization"] is None


def test_credentials_do_not_follow_a_redirect_to_another_host(server: Server) -> None:
    server.answers["/a"] = redirect(server.url("/b", "localhost"))
    server.answers["/b"] = Answer(b"content")
    fetch(server.url("/a"), credentials=login_for(f"127.0.0.1:{server.port}"))
    assert server.asked[0].headers["Authorization"] is not None
    assert server.asked[1].headers["Authorization"] is None


def test_credentials_do_not_follow_a_redirect_to_another_port(
    server: Server, other: Server
) -> None:
    server.answers["/a"] = redirect(other.url("/a"))
    other.answers["/a"] = Answer(b"content")
    fetch(server.url("/a"), credentials=login_for(f"127.0.0.1:{server.port}"))
    assert other.asked[0].headers["Authorization"] is None


def test_after_a_redirect_the_new_host_gets_its_own_credentials(
    server: Server, other: Server
) -> None:
    server.answers["/a"] = redirect(other.url("/a"))
    other.answers["/a"] = Answer(b"content")
    hosts = f"127.0.0.1:{server.port}", f"127.0.0.1:{other.port}"
    fetch(server.url("/a"), credentials=login_for(*hosts))
    assert server.asked[0].headers["Authorization"] == secret(hosts[0])
    assert other.asked[0].headers["Authorization"] == secret(hosts[1])


def test_a_redirect_to_plain_http_gets_no_credentials_on_any_further_hop(
    server: Server, plain: Server
) -> None:
    server.answers["/a"] = redirect(plain.url("/a"))
    plain.answers |= {"/a": redirect("/b"), "/b": Answer(b"content")}
    credentials = login_for(f"127.0.0.1:{plain.port}")
    fetch(server.url("/a"), HTTP, credentials)
    assert [asked.headers["Authorization"] for asked in plain.asked] == [None, None]
    assert not any("Kvmrkt" in key for asked in plain.asked for key in asked.headers)
    fetch(plain.url("/b"), HTTP, credentials)
    assert plain.asked[2].headers["Authorization"] is not None


def test_a_request_s_own_authorization_stays_with_its_server(server: Server, other: Server) -> None:
    server.answers |= {"/a": redirect("/b"), "/b": redirect(other.url("/a"))}
    other.answers["/a"] = Answer(b"content")
    credentials = Credentials({f"127.0.0.1:{server.port}": BearerToken("configured")})
    headers = {"Authorization": "Bearer own"}
    with session(SECURE, credentials) as client, client.get(server.url("/a"), headers=headers) as a:
        assert a.status_code == 200
    assert [asked.headers["Authorization"] for asked in server.asked] == ["Bearer own"] * 2
    assert other.asked[0].headers["Authorization"] is None


def test_a_password_in_a_url_is_used_and_never_shown(server: Server) -> None:
    server.answers["/a"] = [Answer(b"content"), Answer(status=500)]
    url = server.url("/a").replace("://", "://user:pw@")
    fetch(url)
    assert server.asked[0].headers["Authorization"] == "Basic " + b64encode(b"user:pw").decode()
    with pytest.raises(ImageError) as caught:
        fetch(url)
    assert "pw" not in str(caught.value)
    assert shown_url("https://u@h/a@b:c") == "https://u@h/a@b:c"
    assert shown_url("https://u:p@h/a") == "https://u:...@h/a"


def test_a_password_in_a_url_may_hold_any_letter(server: Server) -> None:
    server.answers["/a"] = Answer(b"content")
    for login in ("ü:€", "%C3%BC:%E2%82%AC"):
        fetch(server.url("/a").replace("://", f"://{login}@"))
    fetch(server.url("/a").replace("://", "://ü:\udcff@"))
    expected = "Basic " + b64encode("ü:€".encode()).decode()
    assert [asked.headers["Authorization"] for asked in server.asked[:2]] == [expected] * 2


def test_netrc_is_not_read(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.answers |= {"/a": redirect("/b"), "/b": Answer(b"content")}
    fetch(server.url("/a"))
    assert [asked.headers["Authorization"] for asked in server.asked] == [None, None]


def test_cookies_are_not_kept(server: Server) -> None:
    server.answers["/a"] = Answer(b"moved", 302, {"Location": "/b", "Set-Cookie": "a=b; Path=/"})
    server.answers["/b"] = Answer(b"content")
    fetch(server.url("/a"))
    assert server.asked[1].headers["Cookie"] is None


def test_a_proxy_of_the_environment_is_used(plain: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    direct(monkeypatch)
    monkeypatch.setenv("http_proxy", plain.url(""))
    plain.answers["http://images.invalid/a"] = Answer(b"content")
    assert fetch("http://images.invalid/a", HTTP).body == b"content"
    with closed_port() as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        with pytest.raises(ImageError, match="the proxy of the environment failed"):
            fetch("http://images.invalid/a", HTTP)


@pytest.mark.parametrize("status", [404, 410])
def test_what_the_server_has_not_is_not_found(server: Server, status: int) -> None:
    server.answers["/a"] = Answer(b"no", status)
    with pytest.raises(ImageNotFoundError, match="the server has no such file"):
        fetch(server.url("/a"))


@pytest.mark.parametrize("status", [401, 403])
def test_a_demand_for_credentials_names_the_place_for_them(server: Server, status: int) -> None:
    server.answers["/a"] = Answer(b"no", status)
    with pytest.raises(ImageError, match="demands other credentials") as caught:
        fetch(server.url("/a"))
    assert f"127.0.0.1:{server.port} in auth.d" in (caught.value.hint or "")
    assert not isinstance(caught.value, ImageNotFoundError)


@pytest.mark.parametrize("status", [304, 400, 429, 500, 503])
def test_other_statuses_are_told(server: Server, status: int) -> None:
    server.answers["/a"] = Answer(b"no", status)
    with pytest.raises(ImageError, match=f"bad HTTP status code: {status}"):
        fetch(server.url("/a"))


def test_a_file_that_is_too_large_is_given_up(server: Server) -> None:
    server.answers["/a"] = Answer(b"x" * 1001)
    with pytest.raises(ImageError, match="larger than 1000 bytes"):
        fetch(server.url("/a"))


def test_a_file_that_drips_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_SMALL_SECONDS", -1.0)
    server.answers["/a"] = Answer(b"x")
    with pytest.raises(ImageError, match="did not end within"):
        fetch(server.url("/a"))


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_cut_connection_is_told(server: Server, reset: bool, chunked: bool) -> None:
    server.answers["/a"] = Answer(b"x" * 1000, cut_after=100, reset=reset, chunked=chunked)
    with pytest.raises(ImageError, match=r"^cannot download .*(broke|reset|onnection)"):
        fetch(server.url("/a"))


def test_an_unreachable_server_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    direct(monkeypatch)
    with closed_port() as port, pytest.raises(ImageError, match=r": Connection refused$"):
        fetch(f"https://127.0.0.1:{port}/")


def test_a_name_that_does_not_exist_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    direct(monkeypatch)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ImageError, match="Name or service not known"):
        fetch("https://nowhere.invalid./")


def test_a_server_that_says_nothing_is_given_up(server: Server) -> None:
    gate = Gate(0)
    server.answers["/a"] = Answer(b"x", gate=gate)
    with (
        pytest.raises(ImageError, match="timed out"),
        asking("look"),
        session(SECURE) as client,
        client.get(server.url("/a"), timeout=(5, 0.05)) as answer,
    ):
        list(web.body(answer))
    gate.open.set()


def test_what_speaks_no_tls_is_told(plain: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    direct(monkeypatch)
    with pytest.raises(ImageError, match="TLS failed"):
        fetch(f"https://127.0.0.1:{plain.port}/")


@pytest.mark.parametrize("url", ["https://", "https://[", "https://a..b/", "https://a:b/", "x"])
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(ImageError, match=r"^cannot download"):
        fetch(url)
