"""References, and from a reference to an image."""

from __future__ import annotations

import http.server
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from aci_files import archive, entry, write_aci
from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.config import InsecureOptions
from kvmrkt.errors import (
    ArchiveError,
    ImageError,
    ImageNotFoundError,
    SignatureError,
    UsageError,
)
from kvmrkt.images.find import find_image, find_in_store
from kvmrkt.images.references import (
    FileReference,
    HashReference,
    NameReference,
    UrlReference,
    parse_reference,
)
from kvmrkt.images.store import Store
from kvmrkt.paths import DataDir

SECURE = InsecureOptions()
NO_SIGNATURE = InsecureOptions(image=True)
PLAIN_HTTP = InsecureOptions(image=True, http=True)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(DataDir(tmp_path / "data")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("sha512-ab", HashReference("sha512-ab")),
        ("sha512-" + "a" * 128, HashReference("sha512-" + "a" * 128)),
        ("sha512-a", NameReference("sha512-a")),
        ("https://example.com/a.aci", UrlReference("https://example.com/a.aci")),
        ("http://example.com/a.aci?x=1", UrlReference("http://example.com/a.aci?x=1")),
        ("file:///a/b.aci", FileReference(Path("/a/b.aci"))),
        ("/a/b", FileReference(Path("/a/b"))),
        ("./a", FileReference(Path("./a"))),
        ("a.aci", FileReference(Path("a.aci"))),
        ("here", FileReference(Path("here"))),
        ("example.com/app", NameReference("example.com/app")),
        ("example.com/app:v1", NameReference("example.com/app", (("version", "v1"),))),
        (
            "example.com/app:v1,os=linux,x=a=b",
            NameReference("example.com/app", (("version", "v1"), ("os", "linux"), ("x", "a=b"))),
        ),
        ("my-app:v1", NameReference("my-app", (("version", "v1"),))),
    ],
)
def test_references(text: str, reference: Any) -> None:
    assert parse_reference(text, is_file=lambda path: path == "here") == reference


@pytest.mark.parametrize(
    "text",
    ["", "https://example.com/a", "file:///a", "docker://redis", "oci:a", "ftp://a/b.aci", "A",
     "a:", "a,b", "a,name=b", "a,x=1,x=2", "a b"],
)  # fmt: skip
def test_bad_references(text: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(text, is_file=lambda _: False)


@given(st.text(max_size=30))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text, is_file=lambda _: False)
    except UsageError:
        return
    if isinstance(reference, NameReference):
        again = parse_reference(str(reference), is_file=lambda _: False)
        assert isinstance(again, NameReference)
        assert dict(again.labels) == dict(reference.labels)


def test_an_unsigned_file_is_refused_before_it_is_read(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "garbage.aci"
    path.write_bytes(b"garbage")
    with pytest.raises(SignatureError, match=r"open .*/garbage\.aci\.asc: no such file") as caught:
        find_image(store, str(path), insecure=SECURE)
    assert "--insecure-options=image" in (caught.value.hint or "")
    (tmp_path / "garbage.aci.asc").write_bytes(b"")
    with pytest.raises(SignatureError, match="no key is trusted"):
        find_image(store, str(path), insecure=SECURE)
    with pytest.raises(ArchiveError):
        find_image(store, str(path), insecure=NO_SIGNATURE)


def test_a_file_that_the_store_has_is_refused_all_the_same(store: Store, tmp_path: Path) -> None:
    path = write_aci(tmp_path / "a.aci")
    image = find_image(store, str(path), insecure=NO_SIGNATURE)
    with pytest.raises(SignatureError):
        find_image(store, str(path), insecure=SECURE)
    assert find_image(store, image.id[:20], insecure=SECURE).id == image.id


def test_a_missing_file(store: Store, tmp_path: Path) -> None:
    for insecure in (SECURE, NO_SIGNATURE):
        with pytest.raises(ImageNotFoundError, match=r"^open /nowhere\.aci: no such file"):
            find_image(store, "/nowhere.aci", insecure=insecure)
    with pytest.raises(ImageNotFoundError, match="is a directory"):
        find_image(store, str(tmp_path), insecure=NO_SIGNATURE)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ArchiveError, match="it is no file"):
        find_image(store, str(tmp_path / "fifo"), insecure=NO_SIGNATURE)


def test_a_name(store: Store, tmp_path: Path) -> None:
    image = store.import_aci(write_aci(tmp_path / "a.aci"))
    assert find_image(store, "example.com/app:1.0", insecure=SECURE).id == image.id
    with pytest.raises(ImageNotFoundError, match="either image was not found in the store or"):
        find_image(store, "example.com/app:2", insecure=SECURE)


def test_arguments_of_image_commands(store: Store, tmp_path: Path) -> None:
    image = store.import_aci(write_aci(tmp_path / "a.aci"))
    assert find_in_store(store, "example.com/app").id == image.id
    assert find_in_store(store, image.id[:19]).id == image.id
    with pytest.raises(ImageNotFoundError, match="no image IDs found"):
        find_in_store(store, "example.com/other")
    with pytest.raises(UsageError):
        find_in_store(store, "/a/b.aci")


class Server(http.server.ThreadingHTTPServer):
    """Serves what `answers` says: path -> (status, headers, body); counts requests."""

    answers: dict[str, tuple[int, dict[str, str], bytes]]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = {}
        self.asked: list[tuple[str, str | None]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        status, headers, body = self.server.answers.get(self.path, (404, {}, b""))
        validator = self.headers.get("If-None-Match")
        self.server.asked.append((self.path, validator))
        if validator is not None and validator == headers.get("ETag"):
            status, body = 304, b""
        self.send_response(status)
        for name, text in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def server() -> Any:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_a_url(store: Store, server: Server) -> None:
    server.answers["/a.aci"] = (200, {"ETag": '"1"'}, archive(entry("rootfs/a", b"x")))
    url = server.url("/a.aci")
    image = find_image(store, url, insecure=PLAIN_HTTP)
    assert find_image(store, url, insecure=PLAIN_HTTP).id == image.id
    assert len(server.asked) == 1
    assert find_image(store, url, insecure=PLAIN_HTTP, pull_policy="update").id == image.id
    assert server.asked[1] == ("/a.aci", '"1"')
    server.answers["/a.aci"] = (200, {"ETag": '"2"'}, archive(entry("rootfs/a", b"y")))
    assert find_image(store, url, insecure=PLAIN_HTTP, pull_policy="never").id == image.id
    assert find_image(store, url, insecure=PLAIN_HTTP, pull_policy="update").id != image.id


@pytest.mark.parametrize(
    ("path", "insecure", "text"),
    [
        ("/a.aci", NO_SIGNATURE, "plain http is not safe"),
        ("/a.aci", InsecureOptions(http=True), "no key is trusted"),
        ("/missing.aci", PLAIN_HTTP, "the server has no such file"),
        ("/error.aci", PLAIN_HTTP, "bad HTTP status code: 500"),
        ("/short.aci", PLAIN_HTTP, "cannot download"),
        ("/loop.aci", PLAIN_HTTP, "redirect"),
        ("/garbage.aci", PLAIN_HTTP, "not a usable App Container image"),
    ],
)
def test_bad_downloads(
    store: Store, server: Server, path: str, insecure: InsecureOptions, text: str
) -> None:
    server.answers |= {
        "/a.aci": (200, {}, archive()),
        "/error.aci": (500, {}, b""),
        "/short.aci": (200, {"Content-Length": "100000", "Connection": "close"}, archive()),
        "/loop.aci": (302, {"Location": "/loop.aci"}, b""),
        "/garbage.aci": (200, {}, b"garbage" * 100),
    }
    with pytest.raises(ImageError) as caught:
        find_image(store, server.url(path), insecure=insecure)
    assert text in ": ".join(caught.value.causes())
    assert store.images() == []
    assert not (store.data.cas / "tmp").exists() or list((store.data.cas / "tmp").iterdir()) == []


def test_an_unreachable_server(store: Store) -> None:
    with pytest.raises(ImageError, match="refused"):
        find_image(store, "http://127.0.0.1:1/a.aci", insecure=PLAIN_HTTP)


def test_never_means_never(store: Store) -> None:
    with pytest.raises(ImageNotFoundError, match="store was disabled"):
        find_image(store, "https://example.com/a.aci", insecure=NO_SIGNATURE, pull_policy="never")
