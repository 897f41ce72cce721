"""One call of one CNI plug-in: a program that nobody here vouches for, so bounded in every way."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from kvmrkt.errors import HostError, describe
from kvmrkt.process import spawn

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CALL_SECONDS = 60.0
_MAX_OUTPUT_BYTES = 1 << 20
_MAX_WORDS = 2000
_SYSTEM_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/lib/rkt/plugins/net")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Attachment(NamedTuple):
    """What every call for one pod in one network says in its environment."""

    container: str
    namespace: str
    """The path of the network namespace; empty when it is gone, for DEL only."""
    interface: str
    arguments: str
    path: tuple[str, ...]
    """The folders where plug-ins look for each other."""


def search_path(config_folders: Iterable[Path]) -> tuple[str, ...]:
    """Where plug-ins are looked for: the configuration's folders, then the system's."""
    return (*(str(folder / "net.d") for folder in config_folders), *_SYSTEM_FOLDERS)


def find_plugin(kind: str, path: tuple[str, ...]) -> str:
    """The plug-in's program; HostError where there is none."""
    for folder in path:
        candidate = os.path.join(folder, kind)  # noqa: PTH118 - most folders do not exist
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):  # noqa: PTH113
            return candidate
    raise HostError(
        f'cannot find the CNI plug-in "{kind}"',
        hint=f"apt-get install containernetworking-plugins, or put it into one of {' '.join(path)}",
    )


def call_plugin(
    program: str, command: str, attachment: Attachment, config: bytes
) -> dict[str, Any] | None:
    """Run the plug-in with ADD, CHECK or DEL; returns its result, None for no output.

    Raises HostError with the plug-in's own words, or what it broke.
    """
    what = f"CNI plug-in {program}: {command}"
    environment = {
        "PATH": _PATH,
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": attachment.container,
        "CNI_NETNS": attachment.namespace,
        "CNI_IFNAME": attachment.interface,
        "CNI_ARGS": attachment.arguments,
        "CNI_PATH": ":".join(attachment.path),
    }
    with tempfile.TemporaryFile() as words, tempfile.TemporaryFile() as said:
        words.write(config)
        words.seek(0)
        try:
            process = spawn(
                [program], stdin=words, stdout=subprocess.PIPE, stderr=said, env=environment
            )
        except OSError as error:
            raise HostError(f"{what} could not be started: {describe(error)}") from None
        with process:
            output = _read(process, what)
            status = process.wait()
        said.seek(0)
        errors = said.read(_MAX_WORDS).decode(errors="replace").strip()
    if status:
        raise HostError(f"{what} failed: {_reason(output, status)}", details=errors or None)
    return _decoded(output, what)


def _read(process: subprocess.Popen[bytes], what: str) -> bytes:
    """All output, within its limits of time and size; past them the whole group is killed."""
    assert process.stdout is not None
    deadline = time.monotonic() + CALL_SECONDS
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    output = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            _kill(process)
            raise HostError(f"{what} did not end within {CALL_SECONDS:g} seconds: killed")
        chunk = os.read(process.stdout.fileno(), 1 << 16)
        if not chunk:
            break
        output += chunk
        if len(output) > _MAX_OUTPUT_BYTES:
            _kill(process)
            raise HostError(f"{what} printed more than {_MAX_OUTPUT_BYTES} bytes: killed")
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _kill(process)
        raise HostError(f"{what} did not end within {CALL_SECONDS:g} seconds: killed") from None
    return output


def _kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Failure(msgspec.Struct):
    msg: str = ""
    details: str = ""


def _reason(output: bytes, status: int) -> str:
    try:
        failure = msgspec.json.decode(output, type=_Failure)
    except msgspec.MsgspecError:
        failure = _Failure()
    words = "; ".join(part for part in (failure.msg, failure.details) if part)[:_MAX_WORDS]
    return words or (f"exit status {status}" if status > 0 else f"signal {-status}")


def _decoded(output: bytes, what: str) -> dict[str, Any] | None:
    if not output.strip():
        return None
    try:
        result = msgspec.json.decode(output)
    except (msgspec.MsgspecError, RecursionError):
        result = None
    if not isinstance(result, dict):
        raise HostError(f"{what} printed something that is no result: {output[:200]!r}")
    return result
