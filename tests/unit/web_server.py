"""A web server for tests: TLS with a throw-away authority, answers as scripted, all noted down.

    trust(monkeypatch, tmp_path)
    with serving() as server:
        server.answers["/a"] = Answer(b"content", etag='"1"')
        ... server.url("/a") ...
        assert server.asked[0].headers["Range"] == ...

An answer may also be a list of answers (one for each request, the last one for all that follow) or
a function from the request to an answer.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import trustme

HOSTS = ("127.0.0.1", "localhost")
_CHUNK = 1000


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    headers: Message
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """One answer. `path` in `Server.answers` is without the query."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    etag: str | None = None
    modified: str | None = None
    ranges: bool = True
    """Whether Range is honoured."""
    cut_after: int | None = None
    """Break the connection after so many bytes of the body."""
    reset: bool = False
    """Break it with a reset, not with an end."""
    length: int | None = None
    """A Content-Length that is a lie; -1: none at all."""
    chunked: bool = False
    gate: Gate | None = None


class Gate:
    """Where an answer waits, so that a test can act in the midst of it."""

    def __init__(self, after: int) -> None:
        """The answer stops after so many bytes."""
        self.after = after
        self.reached = threading.Event()
        self.open = threading.Event()


Scripted = Answer | list[Answer] | Callable[[Request], Answer]


def redirect(target: str, status: int = 302) -> Answer:
    """An answer that sends the client elsewhere."""
    return Answer(b"moved", status, {"Location": target})


@functools.cache
def authority() -> trustme.CA:
    """The throw-away certificate authority of this test process."""
    return trustme.CA()


@functools.cache
def _server_context(hosts: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(*hosts).configure_cert(context)
    return context


def trust(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let this process trust the authority for as long as the test runs."""
    path = folder / "authority.pem"
    authority().cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    direct(monkeypatch)


def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, whatever this host's environment says."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Server(http.server.ThreadingHTTPServer):
    """Serves `answers`; `asked` holds the requests in order."""

    daemon_threads = False

    def __init__(self, *, tls: bool = True, hosts: tuple[str, ...] = HOSTS, port: int = 0) -> None:
        """Listen on 127.0.0.1, by default on a free port; the certificate is for `hosts`."""
        super().__init__(("127.0.0.1", port), _Handler)
        self.tls = tls
        self.hosts = hosts
        self.answers: dict[str, Scripted] = {}
        self.asked: list[Request] = []
        self.lock = threading.Lock()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """The URL of a path, by one of the HOSTS."""
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{path}"

    def paths(self) -> list[str]:
        """The paths asked for, with their queries, in order."""
        return [request.path for request in self.asked]

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; the handshake is the handler's thread's."""
        connection, address = super().get_request()
        if self.tls:
            connection = _server_context(self.hosts).wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""

    def answer(self, request: Request) -> Answer:
        """The next answer to such a request."""
        with self.lock:
            self.asked.append(request)
            scripted = self.answers.get(request.path.partition("?")[0], Answer(b"no", 404))
            if isinstance(scripted, list):
                return scripted.pop(0) if len(scripted) > 1 else scripted[0]
        return scripted if isinstance(scripted, Answer) else scripted(request)


@contextlib.contextmanager
def serving(*, tls: bool = True, hosts: tuple[str, ...] = HOSTS, port: int = 0) -> Iterator[Server]:
    """A server that runs while the body does."""
    with Server(tls=tls, hosts=hosts, port=port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    timeout = 60
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length)
        answer = self.server.answer(Request(self.command, self.path, self.headers, body))
        self.close_connection = True
        status, headers, body = _apply_conditions(answer, self.headers)
        self.send_response_only(status)
        length = len(body) if answer.length is None else answer.length
        framing = {"Transfer-Encoding": "chunked"} if answer.chunked else {}
        if length >= 0 and not framing and status != 304:
            framing = {"Content-Length": str(length)}
        ours = {"Connection": "close", "Date": self.date_time_string()}
        for name, text in (ours | framing | headers | answer.headers).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self._send(answer, body)

    do_HEAD = do_POST = do_PUT = do_GET

    def _send(self, answer: Answer, body: bytes) -> None:
        end = len(body) if answer.cut_after is None else answer.cut_after
        start = 0
        if answer.gate is not None:
            start = answer.gate.after
            self._write(answer, body[:start])
            answer.gate.reached.set()
            answer.gate.open.wait(60)
        self._write(answer, body[start:end])
        if answer.cut_after is not None:
            if answer.reset:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
        elif answer.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _write(self, answer: Answer, data: bytes) -> None:
        if not answer.chunked:
            self.wfile.write(data)
            return
        for start in range(0, len(data), _CHUNK):
            piece = data[start : start + _CHUNK]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def log_message(self, *_: Any) -> None:
        return


def _apply_conditions(answer: Answer, asked: Message) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body after If-None-Match, If-Range and Range."""
    headers = {}
    if answer.etag is not None:
        headers["ETag"] = answer.etag
    if answer.modified is not None:
        headers["Last-Modified"] = answer.modified
    if answer.status != 200:
        return answer.status, headers, answer.body
    if answer.etag is not None and asked["If-None-Match"] == answer.etag:
        return 304, headers, b""
    match = re.fullmatch(r"bytes=(\d+)-", asked["Range"] or "")
    fits = asked["If-Range"] in (None, answer.etag, answer.modified)
    if match is None or not answer.ranges or not fits:
        return 200, headers, answer.body
    start, total = int(match[1]), len(answer.body)
    if start >= total:
        return 416, headers | {"Content-Range": f"bytes */{total}"}, b""
    headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
    return 206, headers, answer.body[start:]


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])
