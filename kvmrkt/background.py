"""A prepared pod run by a process of its own, for callers that go on meanwhile.

The caller starts this module as a program, which gets its order on standard input and answers
on a pipe, a line of JSON each time: that the pod has been taken over or why not, and how it ended.
A caller that has gone away is no reason to end: the pod runs on.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import msgspec

from kvmrkt import errors
from kvmrkt.config import GlobalOptions  # noqa: TC001 - msgspec reads the types
from kvmrkt.errors import EngineError, KvmrktError, PodError
from kvmrkt.faults import reach
from kvmrkt.lean_imports import own_process
from kvmrkt.pods.states import PodState
from kvmrkt.process import spawn
from kvmrkt.stage1.engine import RunOptions  # noqa: TC001 - msgspec reads the types

if TYPE_CHECKING:
    import subprocess

    from kvmrkt.pods.directory import PodDirectory

PROGRAM = (sys.executable, "-m", "kvmrkt.background")

_LOG = "supervisor.log"


class _Order(msgspec.Struct, frozen=True):
    uuid: str
    host: GlobalOptions
    options: RunOptions
    answers_fd: int


class _Failure(msgspec.Struct, frozen=True):
    kind: str
    message: str
    hint: str | None = None
    details: str | None = None


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    entered: bool = False
    status: int | None = None
    failure: _Failure | None = None


class Supervisor:
    """The caller's end: a process that runs one pod."""

    def __init__(self, uuid: str, process: subprocess.Popen[bytes], answers: IO[bytes]) -> None:
        """`start` makes one."""
        self._uuid = uuid
        self._process = process
        self._answers = answers
        self._end: _Answer | None = None

    @classmethod
    def start(
        cls,
        pod: PodDirectory,
        options: RunOptions,
        host: GlobalOptions,
        output: IO[bytes] | int,
    ) -> Supervisor:
        """Run a prepared pod; `output` gets what its apps say.

        Returns once the pod is in `run`. Raises what speaks against that; the pod is prepared
        still.
        """
        with _open_log(pod) as log, tempfile.TemporaryFile() as words:
            reader, writer = os.pipe()
            answers = os.fdopen(reader, "rb")
            with os.fdopen(writer, "wb"):
                order = _Order(pod.uuid, host, options, writer)
                words.write(msgspec.json.encode(order, enc_hook=os.fspath))
                words.seek(0)
                process = spawn(PROGRAM, stdin=words, stdout=output, stderr=log, pass_fds=(writer,))
        reach("supervisor-spawned")
        supervisor = cls(pod.uuid, process, answers)
        try:
            _outcome(supervisor._read())
        except KvmrktError:
            supervisor._let_go()
            raise
        return supervisor

    def wait(self) -> int:
        """The pod's exit status, once it has ended. Raises what ended it."""
        self.finish()
        assert self._end is not None
        status = _outcome(self._end).status
        assert status is not None, "the second answer is the pod's end"
        return status

    def finish(self) -> None:
        """Wait until the pod has ended, and with it the process."""
        if self._end is None:
            self._end = self._read()
            self._let_go()

    def _let_go(self) -> None:
        self._process.wait()
        self._answers.close()

    def _read(self) -> _Answer:
        line = self._answers.readline()
        if not line:
            lost = _Failure(
                EngineError.__name__,
                f'the supervisor of pod "{self._uuid}" was killed',
                hint=f"what it said last may be in {_LOG} of the pod's directory",
            )
            return _Answer(failure=lost)
        return msgspec.json.decode(line, type=_Answer)


def _open_log(pod: PodDirectory) -> IO[bytes]:
    try:
        if pod.state() is PodState.PREPARED:
            return (pod.path / _LOG).open("ab")
    except FileNotFoundError:
        pass  # it has just been taken over by someone else
    raise PodError(f'pod "{pod.uuid}" is not prepared')


def _outcome(answer: _Answer) -> _Answer:
    if answer.failure is None:
        return answer
    failure = answer.failure
    kind = getattr(errors, failure.kind, KvmrktError)
    raise kind(failure.message, hint=failure.hint, details=failure.details)


# -- the supervisor's own end ----------------------------------------------------------------------


def main() -> NoReturn:
    """Run the pod that standard input names, and end with its status."""
    own_process()
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=_Order, dec_hook=_decode)
    os.set_inheritable(order.answers_fd, False)
    status = _run(order)
    sys.stdout.flush()
    os._exit(status)


def _run(order: _Order) -> int:
    from kvmrkt.host import Setting, run_prepared_pod
    from kvmrkt.pods.lookup import find_pod
    from kvmrkt.trace import Trace

    def entered() -> None:
        _tell(order, _Answer(entered=True))

    try:
        pod = find_pod(order.host.data, order.uuid)
        setting = Setting(order.host, Trace.since_process_start(), _warn)
        status = run_prepared_pod(pod, order.options, setting, entered=entered)
    except KvmrktError as error:
        message = ": ".join(error.causes())
        kind = _public_name(type(error))
        _tell(order, _Answer(failure=_Failure(kind, message, error.hint, error.details)))
        return error.exit_status
    _tell(order, _Answer(status=status))
    return status


def _public_name(kind: type[KvmrktError]) -> str:
    """The error's class, or the nearest of its bases that errors.py has."""
    return next(base.__name__ for base in kind.__mro__ if base.__module__ == errors.__name__)


def _tell(order: _Order, answer: _Answer) -> None:
    try:
        os.write(order.answers_fd, msgspec.json.encode(answer) + b"\n")
    except BrokenPipeError:
        return  # nobody listens any more


def _warn(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _decode(kind: type[Any], value: Any) -> Any:
    return Path(value) if kind is Path else value


if __name__ == "__main__":
    main()
