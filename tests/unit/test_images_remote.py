"""Images from URLs and from names: what is asked of servers, and what of them is believed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aci_files import archive, entry, manifest
from web_server import Answer, Gate, Server, redirect, serving, trust

from kvmrkt.config import InsecureOptions
from kvmrkt.errors import ImageError, ImageNotFoundError
from kvmrkt.images.find import find_image
from kvmrkt.images.policy import FetchPolicy
from kvmrkt.images.store import Image, Store
from kvmrkt.images.web import discovery
from kvmrkt.images.web.discovery import Endpoint
from kvmrkt.paths import DataDir

UNSIGNED = InsecureOptions(image=True)
NEW = FetchPolicy(insecure=UNSIGNED)
UPDATE = FetchPolicy(insecure=UNSIGNED, pull="update")
CONTENT = archive(entry("rootfs/a", b"x" * 200_000))
OTHER = archive(entry("rootfs/a", b"y"))


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(DataDir(tmp_path / "data")) as opened:
        yield opened


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    trust(monkeypatch, tmp_path)
    with serving() as made:
        yield made


def leftovers(store: Store) -> list[Path]:
    """What lies in the store besides images."""
    folders = (store.data.cas / "tmp", store.data.cas / "partial")
    return [path for folder in folders if folder.exists() for path in folder.iterdir()]


def test_what_the_store_has_is_asked_for_only_to_update_it(store: Store, server: Server) -> None:
    server.answers["/a.aci"] = Answer(CONTENT, etag='"1"')
    url = server.url("/a.aci")
    image = find_image(store, url, NEW)
    assert find_image(store, url, NEW).id == image.id
    assert len(server.asked) == 1
    assert find_image(store, url, UPDATE).id == image.id
    assert server.asked[1].headers["If-None-Match"] == '"1"'
    server.answers["/a.aci"] = Answer(OTHER, etag='"2"')
    assert find_image(store, url, UPDATE).id != image.id
    assert leftovers(store) == []


def test_a_server_may_say_how_long_it_need_not_be_asked(store: Store, server: Server) -> None:
    server.answers["/a.aci"] = Answer(CONTENT, headers={"Cache-Control": "max-age=600"})
    server.answers["/b.aci"] = Answer(OTHER, headers={"Cache-Control": "max-age=600, no-cache"})
    for _ in range(2):
        find_image(store, server.url("/a.aci"), UPDATE)
        find_image(store, server.url("/b.aci"), UPDATE)
    assert server.paths() == ["/a.aci", "/b.aci", "/b.aci"]


def test_two_fetches_at_once_are_one_download(store: Store, server: Server) -> None:
    gate = Gate(after=1000)
    server.answers["/a.aci"] = Answer(CONTENT, gate=gate)
    found: list[Image] = []

    def work() -> None:
        with Store(store.data) as own:
            found.append(find_image(own, server.url("/a.aci"), UPDATE))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert gate.reached.wait(60)
    gate.open.set()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    # whoever came while it went on waited for it; only a late starter may have asked again
    assert len({image.id for image in found}) == 1
    assert sum(request.headers["Range"] is None for request in server.asked) <= 2


def test_a_download_that_broke_off_is_gone_on_with(store: Store, server: Server) -> None:
    cut = Answer(CONTENT, etag='"1"', cut_after=50_000)
    server.answers["/a.aci"] = [cut, Answer(b"", 503)]
    with pytest.raises(ImageError):
        find_image(store, server.url("/a.aci"), NEW)
    assert store.images() == []
    assert leftovers(store) != []
    server.answers["/a.aci"] = Answer(CONTENT, etag='"1"')
    server.asked.clear()
    find_image(store, server.url("/a.aci"), NEW)
    assert [request.headers["Range"] for request in server.asked] == ["bytes=50000-"]
    assert leftovers(store) == []


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer(b"", 404), "the server has no such file"),
        (Answer(b"", 500), "bad HTTP status code: 500"),
        (Answer(b"garbage" * 100), "not a usable App Container image"),
        (Answer(archive(document=b"{}")), "its manifest is wrong"),
        (redirect("/a.aci"), "redirects"),
        (redirect("http://127.0.0.1:1/a.aci"), "plain http"),
    ],
)
def test_bad_downloads_leave_nothing(
    store: Store, server: Server, answer: Answer, text: str
) -> None:
    server.answers["/a.aci"] = answer
    with pytest.raises(ImageError) as caught:
        find_image(store, server.url("/a.aci"), NEW)
    assert text in ": ".join(caught.value.causes())
    assert store.images() == []
    assert leftovers(store) == []


class TestNames:
    """Discovery itself is tested elsewhere: here a name leads to the server at once."""

    @pytest.fixture(autouse=True)
    def found(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        def discover(name: str, labels: dict[str, str], **_: Any) -> Endpoint:
            version = labels.get("version", "latest")
            url = server.url(f"/{name.rpartition('/')[2]}-{version}.aci")
            return Endpoint(url, f"{url}.asc")

        monkeypatch.setattr(discovery, "discover", discover)

    def test_a_name_is_fetched_once(self, store: Store, server: Server) -> None:
        server.answers["/app-latest.aci"] = Answer(CONTENT)
        image = find_image(store, "example.com/app", NEW)
        assert find_image(store, "example.com/app", NEW).id == image.id
        assert len(server.asked) == 1

    def test_an_image_fetched_as_the_latest_is_preferred(
        self, store: Store, server: Server
    ) -> None:
        server.answers["/app-latest.aci"] = Answer(CONTENT)
        server.answers["/app-1.0.aci"] = Answer(OTHER)
        latest = find_image(store, "example.com/app", NEW)
        assert find_image(store, "example.com/app:1.0", UPDATE).id != latest.id
        assert find_image(store, "example.com/app", NEW).id == latest.id

    @pytest.mark.parametrize(
        ("asked", "text"),
        [
            ("example.com/other", 'gave the image "example.com/app"'),
            ("example.com/app:2.0", 'whose label version is "1.0", not "2.0"'),
        ],
    )
    def test_another_image_than_was_asked_for_is_refused(
        self, store: Store, server: Server, asked: str, text: str
    ) -> None:
        for path in ("/other-latest.aci", "/app-2.0.aci"):
            server.answers[path] = Answer(CONTENT)
        with pytest.raises(ImageError, match=text):
            find_image(store, asked, NEW)
        assert store.images() == []

    def test_dependencies_are_fetched_too(self, store: Store, server: Server) -> None:
        base = archive(document=manifest(name="example.com/base"))
        middle = manifest(
            name="example.com/middle", dependencies=[{"imageName": "example.com/base"}]
        )
        top = manifest(
            name="example.com/top",
            dependencies=[{"imageName": "example.com/middle"}, {"imageName": "example.com/base"}],
        )
        server.answers["/base-latest.aci"] = Answer(base)
        server.answers["/middle-latest.aci"] = Answer(archive(document=middle))
        server.answers["/top-latest.aci"] = Answer(archive(document=top))
        find_image(store, "example.com/top", NEW)
        assert len(store.images()) == 3
        assert len(server.asked) == 3

    def test_a_dependency_must_be_the_very_image(self, store: Store, server: Server) -> None:
        dependency = {"imageName": "example.com/app", "imageID": "sha512-" + "0" * 128}
        top = manifest(name="example.com/top", dependencies=[dependency])
        server.answers["/app-latest.aci"] = Answer(CONTENT)
        server.answers["/top-latest.aci"] = Answer(archive(document=top))
        with pytest.raises(ImageError, match='which "example.com/top" depends on'):
            find_image(store, "example.com/top", NEW)

    def test_stage1_images_bring_no_dependencies(self, store: Store, server: Server) -> None:
        top = manifest(name="example.com/top", dependencies=[{"imageName": "example.com/nowhere"}])
        server.answers["/top-latest.aci"] = Answer(archive(document=top))
        find_image(store, "example.com/top", NEW, dependencies=False)
        with pytest.raises(ImageNotFoundError):
            find_image(store, "example.com/top", NEW)
