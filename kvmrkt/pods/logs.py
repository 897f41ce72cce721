"""The records of the apps' output: what one is, and how it looks to a person.

Each app has a file `logs/APP.jsonl` in the pod's directory, one JSON record a line, and a full
one before it (`kvmrkt.rotation`).
"""

from __future__ import annotations

import base64
import re
import time
from typing import Annotated, Literal

import msgspec

LOGS_FOLDER = "logs"
FILE_SUFFIX = ".jsonl"
FILE_LIMIT_BYTES = 32 << 20
"""An app has two such files: at most 64 MiB of the host's disk, of which the last half is sure."""

_Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f]")
"""Nothing that ends a line or a string; ESC stays, colours are what people expect."""


class LogRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of one app, or the end of the log; `base64` where the line is not UTF-8."""

    time_ns: _Nanoseconds = 0
    uptime_ns: _Nanoseconds = 0
    app: str = ""
    pid: int = 0
    stream: Literal["stdout", "stderr"] = "stdout"
    text: str | None = None
    base64: str | None = None
    partial: bool = False
    end: bool = False

    def content(self) -> str:
        """The line as text; ValueError if it is not what base64 looks like."""
        if self.base64 is None:
            return self.text or ""
        return base64.b64decode(self.base64, validate=True).decode(errors="replace")


_DECODER = msgspec.json.Decoder(LogRecord)


def parse_record(line: bytes) -> LogRecord:
    """The record of a line; ValueError for anything else."""
    try:
        record = _DECODER.decode(line)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if record.base64 is not None:
        record.content()
    return record


def format_line(record: LogRecord) -> str:
    """As rkt shows a line: seconds since boot, the app, its process ID."""
    return _line(record, f"[{record.uptime_ns / 1e9:12.6f}]")


def format_with_time(record: LogRecord) -> str:
    """The same with the time of day, in UTC (RFC 3339), in place of the time since boot."""
    seconds, rest_ns = divmod(record.time_ns, 1_000_000_000)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return _line(record, f"{moment}.{rest_ns // 1000:06d}Z")


def format_json(record: LogRecord) -> str:
    """One JSON object: all that is known of the line, but `base64` and `partial` where they are."""
    document = msgspec.to_builtins(record) | {"stream": record.stream}
    return msgspec.json.encode(document).decode()


def _line(record: LogRecord, moment: str) -> str:
    return f"{moment} {record.app}[{record.pid}]: {_CONTROL.sub('?', record.content())}"
