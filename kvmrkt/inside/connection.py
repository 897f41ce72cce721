"""An SSH connection to a running pod's guest, which needs no network.

It goes through the pod's supervisor to a port of the virtual machine. Both ends prove who they are
with the pod's own keys.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

import paramiko

from kvmrkt.errors import GuestError, PodError, describe
from kvmrkt.paths import runtime_pod_dir
from kvmrkt.pods.keys import CLIENT, HOST, pod_keys
from kvmrkt.pods.states import PodState

if TYPE_CHECKING:
    from pathlib import Path

    from kvmrkt.pods.directory import PodDirectory

CREDIT_BYTES = 256 << 10
"""What may be sent of a channel's input before the guest says that some of it was taken."""
_PIECE_BYTES = 32 << 10
_LOGIN_SECONDS = 120.0
"""For a guest under full load, on a slow host."""
_LINE_BYTES = 4096
_PAIR = struct.Struct(">II")
_CIPHERS = ("aes256-gcm@openssh.com", "aes256-ctr")
_KEY_EXCHANGES = ("curve25519-sha256@libssh.org",)

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what fails is raised and said


class ConnectionLostError(PodError):
    """The pod ended, or its supervisor, while something was under way."""


class Connection:
    """A connection; a context manager. Its methods may be called from any thread."""

    def __init__(self, transport: paramiko.Transport) -> None:
        """Use `connect`."""
        self.transport = transport
        self._control = self._open_control()
        self._credit: dict[int, int] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        """The connection itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.transport.close()

    def send(self, channel: paramiko.Channel, data: bytes) -> None:
        """Send a channel's input, waiting for credit; raises ConnectionLostError or OSError.

        OSError means that the channel is closed: nobody wants the input.
        """
        view = memoryview(data)
        while view:
            count = self._take_credit(channel, min(len(view), _PIECE_BYTES))
            channel.sendall(bytes(view[:count]))
            view = view[count:]

    def signal(self, channel: paramiko.Channel, number: int) -> None:
        """Send a signal to a channel's program; raises OSError when the connection is closed."""
        self._control.sendall(_PAIR.pack(channel.remote_chanid, number))

    def _open_control(self) -> paramiko.Channel:
        try:
            channel = self.transport.open_session()
            channel.invoke_subsystem("kvmrkt")
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise ConnectionLostError(f"the pod's SSH server hung up: {error}") from error
        return channel

    def _take_credit(self, channel: paramiko.Channel, wanted: int) -> int:
        number = channel.remote_chanid
        with self._changed:
            while True:
                if channel.closed or not self.transport.is_active():
                    raise OSError("the channel is closed")
                if left := self._credit.setdefault(number, CREDIT_BYTES):
                    count = min(left, wanted)
                    self._credit[number] = left - count
                    return count
                self._changed.wait(timeout=1)  # a channel that closes tells nobody

    def _listen(self) -> None:
        rest = b""
        while data := self._receive():
            rest += data
            whole = len(rest) - len(rest) % _PAIR.size
            with self._changed:
                for number, amount in _PAIR.iter_unpack(rest[:whole]):
                    # a guest that gives more than it took harms only itself
                    self._credit[number] = self._credit.get(number, CREDIT_BYTES) + amount
                self._changed.notify_all()
            rest = rest[whole:]
        with self._changed:
            self._changed.notify_all()

    def _receive(self) -> bytes:
        try:
            data: bytes = self._control.recv(_PIECE_BYTES)
        except (OSError, EOFError):
            return b""
        return data


def connect(pod: PodDirectory) -> Connection:
    """Connect to a running pod; raises PodError, or GuestError for a guest that is another."""
    if pod.state() is not PodState.RUNNING:
        raise PodError(f'pod "{pod.uuid}" isn\'t currently running')
    keys = pod_keys(pod)
    end = _reach(pod)
    try:
        return Connection(_log_in(end, keys))
    except BaseException:
        end.close()
        raise


def _reach(pod: PodDirectory) -> socket.socket:
    """The stream to the guest's SSH server."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = runtime_pod_dir(pod.uuid) / "ssh"
    try:
        end.settimeout(2 * _LOGIN_SECONDS)  # the supervisor's own limit is shorter
        end.connect(str(path))
        answer = _read_line(end)
        end.settimeout(None)
    except OSError as error:
        end.close()
        raise PodError(
            f'cannot reach into pod "{pod.uuid}": {path}: {describe(error)}',
            hint="its apps may not have started yet, or it has just ended",
        ) from error
    if answer != "ok":
        end.close()
        raise PodError(f'cannot reach into pod "{pod.uuid}": {answer or "it has just ended"}')
    return end


def _read_line(end: socket.socket) -> str:
    """The supervisor's word before SSH begins; nothing of SSH may be read with it."""
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < _LINE_BYTES:
        if not (byte := end.recv(1)):
            break
        line += byte
    return line.decode(errors="replace").strip()


def _log_in(end: socket.socket, keys: Path) -> paramiko.Transport:
    expected = (keys / f"{HOST}.pub").read_text().split()[1]
    transport = paramiko.Transport(end)
    transport.banner_timeout = transport.auth_timeout = _LOGIN_SECONDS
    options = transport.get_security_options()
    options.ciphers, options.kex = _CIPHERS, _KEY_EXCHANGES
    options.key_types = ("ssh-ed25519",)
    try:
        transport.start_client(timeout=_LOGIN_SECONDS)
        if transport.get_remote_server_key().get_base64() != expected:
            raise GuestError(
                "the guest shows another host key than the pod's",
                hint="do not trust this pod: something in it answers in its SSH server's place",
            )
        key = paramiko.Ed25519Key.from_private_key_file(str(keys / CLIENT))
        transport.auth_publickey("root", key)
    except paramiko.AuthenticationException as error:
        transport.close()
        raise PodError("the pod's SSH server refuses the key of the pod") from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        transport.close()
        raise ConnectionLostError(f"the pod's SSH server hung up: {error}") from error
    except GuestError:
        transport.close()
        raise
    return transport
