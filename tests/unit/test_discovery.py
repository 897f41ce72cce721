"""From an image's name to its URL: the rules, hostile pages, and what is asked of servers."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from web_server import Answer, Server, closed_port, redirect, serving, trust

from kvmrkt.config import InsecureOptions
from kvmrkt.errors import ImageError, ImageNotFoundError
from kvmrkt.images.web.credentials import Credentials, Login
from kvmrkt.images.web.discovery import (
    Endpoint,
    discover,
    discover_keys,
    host_labels,
    render_template,
)
from kvmrkt.images.web.meta_tags import MAX_PAGE_BYTES, Meta, parse_meta

SECURE = InsecureOptions()
HTTP = InsecureOptions(http=True)
NAME = "localhost/team/app"
LABELS = {"version": "1", "os": "linux", "arch": "amd64"}
PLAIN = "https://a.org/{name}-{version}.{ext}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    trust(monkeypatch, tmp_path)
    with serving() as made:
        yield made


@pytest.fixture
def plain(server: Server) -> Any:
    """A server without TLS; discovery over https fails there."""
    with serving(tls=False) as made:
        yield made


def aci(template: str, prefix: str = "localhost") -> str:
    return f'<meta name="ac-discovery" content="{prefix} {template}">'


def key(url: str, prefix: str = "localhost") -> str:
    return f'<meta name="ac-discovery-pubkeys" content="{prefix} {url}">'


def page(*tags: str) -> Answer:
    text = f"<!DOCTYPE html><html><head><title>x</title>{''.join(tags)}</head><body>x</body></html>"
    return Answer(text.encode(), headers={"Content-Type": "text/html"})


def find(
    server: Server,
    labels: Mapping[str, str] = LABELS,
    insecure: InsecureOptions = SECURE,
    credentials: Credentials | None = None,
    name: str = NAME,
) -> Endpoint:
    return discover(name, labels, insecure=insecure, credentials=credentials, port=server.port)


def keys(server: Server, insecure: InsecureOptions = SECURE, name: str = NAME) -> list[str]:
    return discover_keys(name, insecure=insecure, credentials=None, port=server.port)


@pytest.mark.parametrize(
    ("text", "templates"),
    [
        (aci("t"), ["t"]),
        ("<META NAME=ac-discovery CONTENT='localhost  t'/>", ["t"]),
        ("<meta\nname = 'ac-discovery'\ncontent=\"\tlocalhost\tt \" >", ["t"]),
        ("<meta name=ac-discovery content=localhost&#32;t&amp;u>", ["t&u"]),
        ('<meta content="localhost t" x name="ac-discovery">', ["t"]),
        ('<meta name="ac-discovery" name="x" content="localhost t" content="y z">', ["t"]),
        (aci("t") + aci("u"), ["t", "u"]),
        (aci("t").replace("ac-discovery", "AC-Discovery"), []),
        ('<meta name="ac-discovery" content="localhost">', []),
        ('<meta name="ac-discovery" content="">', []),
        ('<meta name="ac-discovery">', []),
        ('<meta content="localhost t">', []),
        ('<metal name="ac-discovery" content="localhost t">', []),
        (f"<!-- {aci('t')} -->", []),
        (f"<!-- {aci('t')} -->{aci('u')}", ["u"]),
        (f"<!-- {aci('t')}", []),
        (f"<!DOCTYPE x>{aci('t')}", ["t"]),
        (f"<?xml x?>{aci('t')}", ["t"]),
        (f"<script>{aci('t')}</script>{aci('u')}", ["u"]),
        (f"<SCRIPT>{aci('t')}</Script >{aci('u')}", ["u"]),
        (f"<title>{aci('t')}</titles>{aci('u')}", []),
        (f"<textarea>{aci('t')}", []),
        (f"<a title='{aci('t')}'>{aci('u')}", ["u"]),
        (f'</a title="<meta x>">{aci("u")}', ["u"]),
        (f"<a title='{aci('t')}", []),
        ('<meta name="ac-discovery" content="localhost t"', []),
        (f"1 < 2 <3 << {aci('t')}", ["t"]),
        (aci("t" * 5000), []),
        ("", []),
        ("<", []),
        ("<!", []),
        ("<!--", []),
        ("<a =", []),
        ("<a ==>" + aci("t"), ["t"]),
        ("<meta name=>" + aci("t"), ["t"]),
    ],
)
def test_tags_are_found_as_a_browser_finds_them(text: str, templates: list[str]) -> None:
    assert parse_meta(text.encode()).acis == tuple(("localhost", item) for item in templates)


def test_both_kinds_of_tags_are_told_apart() -> None:
    found = parse_meta((aci("t", "a") + key("k", "b")).encode())
    assert found == Meta((("a", "t"),), (("b", "k"),))


def test_a_page_has_a_largest_number_of_tags_and_bytes() -> None:
    assert len(parse_meta((aci("t") * 200).encode()).acis) == 100
    assert parse_meta(b" " * MAX_PAGE_BYTES + aci("t").encode()) == Meta()


@pytest.mark.parametrize(
    "piece",
    ["<", "<!", "<!--", "</", "<a ", "<meta ", '<meta name="', "<a=", "<script>", "</script", "&",
     "<a b=c", "<![CDATA[", "<title></titl", "\0", "<meta name=ac-discovery content=&"],
)  # fmt: skip
def test_a_page_made_to_be_slow_is_read_in_linear_time(piece: str) -> None:
    parse_meta((piece * (MAX_PAGE_BYTES // len(piece))).encode())


pieces = st.sampled_from(
    ["<meta", " name", "=", '"', "'", "ac-discovery", " content", "a b", ">", "<", "/", "<!--",
     "-->", "<script>", "</script>", "&amp;", " ", "x"],
)  # fmt: skip


@given(st.binary(max_size=100) | st.lists(pieces, max_size=30).map(lambda p: "".join(p).encode()))
def test_no_page_makes_the_scanner_fail(data: bytes) -> None:
    assert all(prefix and url for prefix, url in (*parse_meta(data).acis, *parse_meta(data).keys))


def test_templates() -> None:
    values = {"name": "a/b", "version": "1+2 ?#%", "ext": "aci.asc"}
    assert render_template("https://x/{name}-{version}.{ext}", values) == (
        "https://x/a/b-1+2%20%3F%23%25.aci.asc",
        1,
    )
    assert render_template("{os}", values) is None
    assert render_template("{}", values) is None
    assert render_template("x", values) == ("x", 0)
    assert render_template("{a}", {"a": "{b}", "b": "c"}) == ("%7Bb%7D", 1)


def test_the_page_of_the_name_says_where_the_image_is(server: Server) -> None:
    template = "https://a.org/{os}/{arch}/{name}-{version}.{ext}?x={channel}"
    server.answers["/team/app"] = page(aci(template))
    assert find(server, LABELS | {"channel": "beta"}) == Endpoint(
        "https://a.org/linux/amd64/localhost/team/app-1.aci?x=beta",
        "https://a.org/linux/amd64/localhost/team/app-1.aci.asc?x=beta",
    )
    assert server.paths() == ["/team/app?ac-discovery=1"]


def test_the_name_is_cut_from_the_right_until_a_page_knows_it(server: Server) -> None:
    server.answers["/team"] = page(key("https://a.org/key"))
    server.answers[""] = server.answers["/"] = page(aci(PLAIN))
    assert find(server).aci_url == f"https://a.org/{NAME}-1.aci"
    assert [path.partition("?")[0] for path in server.paths()] == ["/team/app", "/team", "/"]


def test_a_page_for_another_prefix_does_not_count(server: Server) -> None:
    server.answers["/team/app"] = page(aci(PLAIN, "localhost/team/ap"), aci(PLAIN, "other"))
    assert find(server).aci_url == f"https://a.org/{NAME}-1.aci"
    server.answers["/team/app"] = page(aci(PLAIN, "localhost/team/apps"))
    with pytest.raises(ImageNotFoundError):
        find(server)


def test_labels_that_are_not_given_are_the_host_s_and_the_latest(server: Server) -> None:
    server.answers["/team/app"] = page(aci("https://a.org/{os}-{arch}-{version}.{ext}"))
    host = host_labels()
    assert find(server, {}).aci_url == f"https://a.org/linux-{host['arch']}-latest.aci"
    assert find(server, {"arch": "s390x"}).aci_url == "https://a.org/linux-s390x-latest.aci"


def test_the_template_that_uses_the_most_labels_is_taken_then_the_first(server: Server) -> None:
    server.answers["/team/app"] = page(
        aci("https://a.org/any.{ext}"),
        aci("https://a.org/{os}-{name}-latest.{ext}"),
        aci("https://a.org/{os}-{version}.{ext}"),
        aci("https://b.org/{os}-{version}.{ext}"),
    )
    assert find(server).aci_url == "https://a.org/linux-1.aci"
    assert find(server, {}).aci_url == f"https://a.org/linux-{NAME}-latest.aci"


@pytest.mark.parametrize(
    "template",
    ["https://a.org/{channel}.{ext}", "https://a.org/x.aci", "hdfs://a.org/{name}.{ext}", "{ext}"],
)
def test_templates_that_are_of_no_use_are_passed_over(server: Server, template: str) -> None:
    server.answers["/team/app"] = page(aci(template), aci(PLAIN))
    assert find(server).aci_url == f"https://a.org/{NAME}-1.aci"
    server.answers["/team/app"] = page(aci(template))
    with pytest.raises(ImageNotFoundError):
        find(server)


def test_a_name_nobody_knows_is_not_found_with_all_that_was_tried(server: Server) -> None:
    server.answers["/team"] = Answer(b"no", 500)
    server.answers["/"] = page()
    with pytest.raises(ImageNotFoundError, match=f'discovery failed for "{NAME}"') as caught:
        find(server)
    lines = (caught.value.details or "").splitlines()
    assert len(lines) == 4
    assert lines[0].endswith("/team/app?ac-discovery=1: status 404")
    assert lines[1].endswith("/team?ac-discovery=1: status 500")
    assert lines[2] == "localhost: the page says nothing about it"
    assert lines[3].endswith("/team/app-1-linux-amd64.aci: status 404")


def test_a_server_that_cannot_be_reached_is_asked_once(server: Server) -> None:
    with closed_port() as port, pytest.raises(ImageError, match="Connection refused") as caught:
        discover(NAME, LABELS, insecure=SECURE, credentials=None, port=port)
    assert not isinstance(caught.value, ImageNotFoundError)


def test_without_tags_the_image_may_lie_beside_its_name(server: Server) -> None:
    server.answers["/team/app-1-linux-amd64.aci"] = Answer(b"x" * 100)
    endpoint = Endpoint(
        server.url("/team/app-1-linux-amd64.aci", "localhost"),
        server.url("/team/app-1-linux-amd64.aci.asc", "localhost"),
    )
    assert find(server) == endpoint
    assert server.asked[-1].method == "HEAD"


def test_a_page_in_place_of_an_image_is_none(server: Server) -> None:
    server.answers["/team/app-1-linux-amd64.aci"] = page()
    with pytest.raises(ImageNotFoundError) as caught:
        find(server)
    assert "status 200, a page" in (caught.value.details or "")


def test_plain_http_is_asked_only_with_the_option_and_only_after_https(plain: Server) -> None:
    plain.answers["/team/app"] = page(aci(PLAIN))
    with pytest.raises(ImageError, match="TLS failed"):
        find(plain)
    assert plain.asked == []
    assert find(plain, insecure=HTTP).aci_url == f"https://a.org/{NAME}-1.aci"


def test_a_server_without_plain_http_is_no_dead_server(server: Server) -> None:
    server.answers["/"] = page(aci(PLAIN))
    assert find(server, insecure=HTTP).aci_url == f"https://a.org/{NAME}-1.aci"
    assert len(server.asked) == 3


def test_simple_discovery_goes_over_plain_http_with_the_option(plain: Server) -> None:
    plain.answers["/team/app-1-linux-amd64.aci"] = Answer(b"x")
    found = find(plain, insecure=HTTP)
    assert found.aci_url == plain.url("/team/app-1-linux-amd64.aci", "localhost")


def test_credentials_go_to_the_discovery_page_but_not_over_plain_http(
    server: Server, plain: Server
) -> None:
    login = Login("user", "password")
    credentials = Credentials({f"localhost:{p.port}": login for p in (server, plain)})
    for asked in (server, plain):
        asked.answers["/team/app"] = page(aci(PLAIN))
        find(asked, insecure=HTTP, credentials=credentials)
    expected = "Basic " + b64encode(b"user:password").decode()
    assert server.asked[0].headers["Authorization"] == expected
    assert plain.asked[0].headers["Authorization"] is None


def test_redirects_of_the_page_are_followed(server: Server) -> None:
    with serving() as other:
        server.answers["/team/app"] = redirect(other.url("/page"))
        other.answers["/page"] = page(aci(PLAIN))
        assert find(server).aci_url == f"https://a.org/{NAME}-1.aci"


def test_only_the_beginning_of_a_long_page_is_read(server: Server) -> None:
    text = aci(PLAIN).encode() + b" " * (2 * MAX_PAGE_BYTES)
    server.answers["/team/app"] = Answer(text, length=1 << 40)
    assert find(server).aci_url == f"https://a.org/{NAME}-1.aci"


def test_a_very_long_name_does_not_ask_for_ever(server: Server) -> None:
    with pytest.raises(ImageNotFoundError):
        find(server, name="localhost" + "/a" * 100)
    assert len(server.asked) == 17


def test_keys_are_those_of_the_first_page_that_names_any(server: Server) -> None:
    server.answers["/team/app"] = page(aci(PLAIN), key("https://a.org/x", "other"))
    server.answers["/team"] = page(key("https://a.org/1"), key("http://b.org/2", "localhost/team"))
    server.answers["/"] = page(key("https://a.org/3"))
    assert keys(server) == ["https://a.org/1", "http://b.org/2"]


def test_a_name_without_keys_has_none(server: Server) -> None:
    server.answers["/"] = page(aci(PLAIN))
    assert keys(server) == []


def test_keys_are_asked_for_over_plain_http_only_with_the_option(plain: Server) -> None:
    plain.answers["/"] = page(key("https://a.org/1"))
    with pytest.raises(ImageError):
        keys(plain)
    assert keys(plain, HTTP) == ["https://a.org/1"]
