"""Downloads: whole, from where they broke, or not at all."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from web_server import Answer, Gate, Server, redirect, serving, trust

from kvmrkt.config import InsecureOptions
from kvmrkt.errors import (
    ArchiveError,
    ImageError,
    ImageNotFoundError,
    SignatureError,
    StoreError,
)
from kvmrkt.images.policy import no_progress
from kvmrkt.images.web import download as module
from kvmrkt.images.web.credentials import Credentials, Login
from kvmrkt.images.web.download import Download, download

CONTENT = bytes(range(256)) * 400
OTHER = CONTENT[::-1]
TAG = '"one"'
DATE = {"Date": "Wed, 21 Oct 2015 07:28:00 GMT"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    trust(monkeypatch, tmp_path)
    with serving() as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cas/partial"


def downloading(
    server: Server, folder: Path, path: str = "/a.aci", **options: Any
) -> AbstractContextManager[Download | None]:
    url = server.url(path)
    options = {"limit_bytes": 1 << 20, "progress": no_progress, "credentials": None} | options
    return download(options.pop("url", url), folder, insecure=InsecureOptions(), **options)


def fetch(
    server: Server, folder: Path, path: str = "/a.aci", **options: Any
) -> tuple[bytes, Download] | None:
    """The content and what is told of it; None for 304."""
    with downloading(server, folder, path, **options) as found:
        return None if found is None else (found.path.read_bytes(), found)


def content(server: Server, folder: Path, **options: Any) -> bytes:
    found = fetch(server, folder, **options)
    assert found is not None
    return found[0]


def left(folder: Path) -> list[int]:
    """The sizes of the partial files."""
    return [path.stat().st_size for path in folder.iterdir() if path.suffix != ".json"]


def ranges(server: Server) -> list[str | None]:
    return [request.headers["Range"] for request in server.asked]


def cut(after: int, body: bytes = CONTENT, etag: str | None = TAG, **more: Any) -> Answer:
    return Answer(body, etag=etag, cut_after=after, **more)


def interrupted(server: Server, folder: Path, answer: Answer) -> None:
    """A download that broke for good; what had arrived is in the folder."""
    server.answers["/a.aci"] = [answer, Answer(status=503)]
    with pytest.raises(ImageError):
        fetch(server, folder)
    server.asked.clear()


def test_a_file_is_there_while_the_body_runs_and_gone_after(server: Server, folder: Path) -> None:
    server.answers["/a.aci"] = Answer(CONTENT, etag=TAG, headers={"Cache-Control": "max-age=60"})
    found = fetch(server, folder)
    assert found is not None
    assert found == (CONTENT, Download(found[1].path, TAG, 60))
    assert found[1].path.parent == folder
    assert list(folder.iterdir()) == []


def test_what_the_server_says_is_unchanged_is_not_downloaded(server: Server, folder: Path) -> None:
    server.answers["/a.aci"] = Answer(CONTENT, etag=TAG)
    assert fetch(server, folder, known_etag=TAG) is None
    assert server.asked[0].headers["If-None-Match"] == TAG
    assert content(server, folder, known_etag='"two"') == CONTENT


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("max-age=0", 0),
        ("public, Max-Age = 3600, must-revalidate", 3600),
        ('max-age="5"', 5),
        ("s-maxage=5", 0),
        ("max-age=5, no-store", 0),
        ("no-cache, max-age=5", 0),
        ("max-age=-1", 0),
        ("max-age=99999999999999999999", 0),
        ("", 0),
    ],
)
def test_how_long_a_file_stays_fresh(
    server: Server, folder: Path, header: str, seconds: int
) -> None:
    server.answers["/a.aci"] = Answer(b"x", headers={"Cache-Control": header})
    found = fetch(server, folder)
    assert found is not None
    assert found[1].max_age_seconds == seconds


def test_a_cut_connection_is_taken_up_again_in_the_same_call(server: Server, folder: Path) -> None:
    server.answers["/a.aci"] = [cut(1000), cut(20_000), Answer(CONTENT, etag=TAG)]
    assert content(server, folder) == CONTENT
    first, second, third = server.asked
    assert first.headers["Range"] is None
    assert second.headers["Range"] == "bytes=1000-"
    assert second.headers["If-Range"] == third.headers["If-Range"] == TAG
    assert list(folder.iterdir()) == []


def test_a_connection_that_brings_nothing_is_given_up(server: Server, folder: Path) -> None:
    server.answers["/a.aci"] = [cut(1000), cut(0)]
    with pytest.raises(ImageError, match="the connection broke"):
        fetch(server, folder)
    assert ranges(server) == [None, "bytes=1000-"]
    assert left(folder) == [1000]


def test_a_connection_that_always_breaks_is_given_up_with_all_that_came(
    server: Server, folder: Path
) -> None:
    server.answers["/a.aci"] = cut(1000)
    with pytest.raises(ImageError, match="the connection broke"):
        fetch(server, folder)
    assert ranges(server) == [None, *(f"bytes={number}000-" for number in range(1, 6))]
    assert left(folder) == [6000]


def test_the_next_call_goes_on_where_the_last_one_ended(server: Server, folder: Path) -> None:
    interrupted(server, folder, cut(30_000))
    assert left(folder) == [30_000]
    server.answers["/a.aci"] = Answer(CONTENT, etag=TAG)
    found = fetch(server, folder)
    assert found is not None
    assert (found[0], found[1].etag) == (CONTENT, TAG)
    assert ranges(server) == ["bytes=30000-"]
    assert list(folder.iterdir()) == []


def test_a_file_that_changed_meanwhile_is_downloaded_anew(server: Server, folder: Path) -> None:
    interrupted(server, folder, cut(30_000))
    server.answers["/a.aci"] = Answer(OTHER, etag='"two"')
    assert content(server, folder) == OTHER
    assert len(server.asked) == 1


def test_a_server_that_answers_a_range_of_another_state_is_not_believed(
    server: Server, folder: Path
) -> None:
    interrupted(server, folder, cut(30_000))
    size = len(CONTENT)
    for header in (
        {"ETag": '"two"', "Content-Range": f"bytes 30000-{size - 1}/{size}"},
        {"Content-Range": f"bytes 29999-{size - 1}/{size}"},
        {"Content-Range": f"bytes 30000-{size - 2}/{size}"},
        {"Content-Range": f"bytes 30000-{size}/{size + 1}"},
        {"Content-Range": "bytes 30000-40000/*"},
        {},
    ):
        lie = Answer(OTHER[30_000:], 206, header)
        server.answers["/a.aci"] = [lie, cut(30_000)]
        with pytest.raises(ImageError, match="broke"):
            fetch(server, folder)
        assert left(folder) == [30_000]
    server.answers["/a.aci"] = [lie, Answer(OTHER, etag='"two"')]
    assert content(server, folder) == OTHER


@pytest.mark.parametrize("status", [412, 416])
def test_a_refused_range_means_a_new_download(server: Server, folder: Path, status: int) -> None:
    interrupted(server, folder, cut(30_000))
    server.answers["/a.aci"] = [Answer(b"", status), Answer(CONTENT, etag=TAG)]
    assert content(server, folder) == CONTENT
    assert ranges(server) == ["bytes=30000-", None]


def test_a_server_without_ranges_sends_everything_again(server: Server, folder: Path) -> None:
    interrupted(server, folder, cut(30_000, ranges=False))
    server.answers["/a.aci"] = Answer(CONTENT, etag=TAG, ranges=False)
    assert content(server, folder) == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        cut(30_000, etag=None),
        cut(30_000, etag='W/"weak"'),
        cut(30_000, etag='"not\tone"'),
        cut(30_000, etag=None, modified="Wed, 21 Oct 2015 07:27:30 GMT", headers=DATE),
        cut(30_000, etag=None, modified="yesterday", headers=DATE),
    ],
)
def test_without_a_strong_validator_nothing_is_kept(
    server: Server, folder: Path, answer: Answer
) -> None:
    interrupted(server, folder, answer)
    assert list(folder.iterdir()) == []


def test_an_old_enough_time_of_change_is_a_strong_validator(server: Server, folder: Path) -> None:
    modified = "Wed, 21 Oct 2015 07:27:00 GMT"
    interrupted(server, folder, cut(30_000, etag=None, modified=modified))
    server.answers["/a.aci"] = Answer(CONTENT, modified=modified)
    assert content(server, folder) == CONTENT
    assert server.asked[0].headers["If-Range"] == modified
    assert ranges(server) == ["bytes=30000-"]


def test_nothing_is_continued_after_a_restart_of_the_host(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(server, folder, cut(30_000))
    monkeypatch.setattr(module, "_boot", lambda: "another")
    server.answers["/a.aci"] = Answer(CONTENT, etag=TAG)
    assert content(server, folder) == CONTENT
    assert ranges(server) == [None]


@pytest.mark.parametrize("state", [b"", b"{", b"[" * 9999, b'{"url": 1}', b"\xff"])
def test_a_damaged_state_file_means_a_new_download(
    server: Server, folder: Path, state: bytes
) -> None:
    interrupted(server, folder, cut(30_000))
    (path,) = folder.glob("*.json")
    path.write_bytes(state)
    server.answers["/a.aci"] = Answer(CONTENT, etag=TAG)
    assert content(server, folder) == CONTENT
    assert ranges(server) == [None]


def test_a_file_that_lies_there_whole_is_hardly_asked_for_again(
    server: Server, folder: Path
) -> None:
    server.answers["/a.aci"] = Answer(CONTENT, etag=TAG)
    with pytest.raises(KeyboardInterrupt), downloading(server, folder):
        raise KeyboardInterrupt
    assert left(folder) == [len(CONTENT)]
    assert content(server, folder) == CONTENT
    assert ranges(server) == [None, f"bytes={len(CONTENT) - 1}-"]


def test_an_empty_file_and_one_of_unknown_length_arrive(server: Server, folder: Path) -> None:
    server.answers["/a.aci"] = Answer(b"", etag=TAG)
    assert content(server, folder) == b""
    server.answers["/a.aci"] = Answer(CONTENT, etag=TAG, length=-1)
    assert content(server, folder) == CONTENT
    server.answers["/a.aci"] = Answer(CONTENT, etag=TAG, chunked=True)
    assert content(server, folder) == CONTENT


def test_a_download_of_unknown_length_is_continued_too(server: Server, folder: Path) -> None:
    server.answers["/a.aci"] = [cut(30_000, chunked=True), Answer(CONTENT, etag=TAG)]
    assert content(server, folder) == CONTENT
    assert ranges(server)[1] == "bytes=30000-"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_over_the_limit_is_given_up_and_removed(
    server: Server, folder: Path, chunked: bool
) -> None:
    server.answers["/a.aci"] = Answer(CONTENT, etag=TAG, chunked=chunked)
    with pytest.raises(ImageError, match="larger than 1000 bytes") as caught:
        fetch(server, folder, limit_bytes=1000)
    assert "maxDownloadBytes" in (caught.value.hint or "")
    assert list(folder.iterdir()) == []
    assert len(server.asked) == 1


def test_a_file_that_is_gone_takes_its_beginning_along(server: Server, folder: Path) -> None:
    interrupted(server, folder, cut(30_000))
    server.answers["/a.aci"] = Answer(status=404)
    with pytest.raises(ImageNotFoundError):
        fetch(server, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("error", [ArchiveError, SignatureError, StoreError])
def test_content_that_turns_out_unusable_is_removed(
    server: Server, folder: Path, error: type[Exception]
) -> None:
    server.answers["/a.aci"] = Answer(CONTENT, etag=TAG)
    with pytest.raises(error), downloading(server, folder):
        raise error("unusable")
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/a.aci"] = Answer(CONTENT, etag=TAG)
    fdopen = module.os.fdopen

    def full(descriptor: int, *_: Any, **__: Any) -> Any:
        module.os.close(descriptor)
        return fdopen(module.os.open("/dev/full", module.os.O_WRONLY), "ab", buffering=1000)

    monkeypatch.setattr(module.os, "fdopen", full)
    with pytest.raises(StoreError, match="cannot download") as caught:
        fetch(server, folder)
    assert "free some space" in (caught.value.hint or "")
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        fetch(server, tmp_path / "file/partial")


def test_two_urls_do_not_get_into_each_other_s_way(server: Server, folder: Path) -> None:
    interrupted(server, folder, cut(30_000))
    server.answers["/b.aci"] = Answer(OTHER, etag=TAG)
    assert fetch(server, folder, "/b.aci") is not None
    assert left(folder) == [30_000]


def test_the_url_s_password_is_not_written_down(server: Server, folder: Path) -> None:
    server.answers["/a.aci"] = [cut(30_000), Answer(status=503)]
    url = server.url("/a.aci").replace("://", "://user:secret@")
    with pytest.raises(ImageError):
        fetch(server, folder, url=url)
    (path,) = folder.glob("*.json")
    assert b"secret" not in path.read_bytes()
    assert msgspec.json.decode(path.read_bytes())["validator"] == TAG


def test_credentials_do_not_follow_a_download_to_another_host(server: Server, folder: Path) -> None:
    with serving() as other:
        server.answers["/a.aci"] = redirect(other.url("/b"))
        other.answers["/b"] = [cut(30_000), Answer(CONTENT, etag=TAG)]
        credentials = Credentials({f"127.0.0.1:{server.port}": Login("a", "b")})
        assert content(server, folder, credentials=credentials) == CONTENT
        assert [request.headers["Authorization"] for request in other.asked] == [None, None]
        assert ranges(other) == [None, "bytes=30000-"]
    assert all(request.headers["Authorization"] for request in server.asked)


def test_progress_is_told_as_it_comes(server: Server, folder: Path) -> None:
    told: list[Any] = []

    @contextmanager
    def progress(label: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
        told.append((label, total_bytes))
        yield told.append

    server.answers["/a.aci"] = [cut(30_000), Answer(CONTENT, etag=TAG)]
    assert content(server, folder, progress=progress) == CONTENT
    second = told.index(("a.aci", len(CONTENT)), 1)
    assert told[0] == ("a.aci", len(CONTENT))
    assert sum(told[1:second]) == 30_000
    assert told[second + 1] == 30_000
    assert sum(told[second + 1 :]) == len(CONTENT)


def wait_for(find: Callable[[], list[Path]]) -> list[Path]:
    """What is found as soon as anything is; the client may be slower than the server."""
    deadline = time.monotonic() + 60
    while not (found := find()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_what_arrives_is_on_disk_before_the_rest_is_sent(server: Server, folder: Path) -> None:
    """A process that is killed in the midst of a download loses at most a buffer."""
    body = CONTENT * 10
    gate = Gate(len(body) - 1)
    server.answers["/a.aci"] = Answer(body, etag=TAG, gate=gate)
    thread = threading.Thread(target=fetch, args=(server, folder))
    thread.start()
    assert gate.reached.wait(60)
    (state,) = wait_for(lambda: list(folder.glob("*.json")))
    assert msgspec.json.decode(state.read_bytes())["total_bytes"] == len(body)
    gate.open.set()
    thread.join(60)
    assert list(folder.iterdir()) == []


_PROGRAM = """
import sys
from pathlib import Path
from kvmrkt.config import InsecureOptions
from kvmrkt.images.web.download import download
from kvmrkt.images.policy import no_progress

with download(sys.argv[1], Path(sys.argv[2]), insecure=InsecureOptions(), credentials=None,
              limit_bytes=1 << 30, progress=no_progress):
    pass
"""


def test_a_download_whose_process_was_killed_is_continued(server: Server, folder: Path) -> None:
    body = CONTENT * 40
    gate = Gate(len(body) // 2)
    server.answers["/a.aci"] = [Answer(body, etag=TAG, gate=gate), Answer(body, etag=TAG)]
    command = [sys.executable, "-c", _PROGRAM, server.url("/a.aci"), str(folder)]
    with subprocess.Popen(command) as process:
        assert gate.reached.wait(60)
        process.kill()
    gate.open.set()
    sizes = left(folder)  # what had come through by then is up to the scheduler
    assert content(server, folder, limit_bytes=1 << 30) == body
    assert ranges(server)[1] == (f"bytes={sizes[0]}-" if sizes and sizes[0] else None)
    assert list(folder.iterdir()) == []
