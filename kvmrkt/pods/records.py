"""What a pod's supervisor writes down about each app, and how it is read back."""

from __future__ import annotations

import msgspec


class AppRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`status/APP` of a pod: replaced as a whole when the app starts and when it ends.

    Times are CLOCK_REALTIME in nanoseconds. `code` is the exit status (128+N for signal N) and
    `finished_ns` is set with it; `error` says why an app could not be started.
    `oom_kills` counts its processes that the guest's kernel killed for want of memory.
    """

    code: int | None = None
    started_ns: int | None = None
    finished_ns: int | None = None
    error: str | None = None
    oom_kills: int = 0


def encode_app_record(record: AppRecord) -> bytes:
    """The record as the file's bytes."""
    return msgspec.json.encode(record) + b"\n"


_DECODER = msgspec.json.Decoder(AppRecord)


def decode_app_record(text: bytes) -> AppRecord | None:
    """The record, or None when the file is damaged: a list of pods must not fail on one of them."""
    try:
        return _DECODER.decode(text)
    except msgspec.MsgspecError:
        return None
