"""Files whose compression tries something, each named by what it tries."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from typing import TYPE_CHECKING

import zstandard
from hostile_archives import FILE
from raw_tar import image, raw

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = image(FILE)
LIMIT_BYTES = 4 << 20
"""What the bombs are measured against."""


def _xz_with_dictionary(bits: int) -> bytes:
    """An xz stream whose block header asks for a dictionary of 2**(bits/2 + 12) bytes."""
    packed = bytearray(lzma.compress(GOOD))
    at = 12  # after the stream's header: the block's, whose first byte is its length in words
    size = (packed[at] + 1) * 4
    assert packed[at + 2] == 0x21  # LZMA2
    packed[at + 4] = bits
    packed[at + size - 4 : at + size] = zlib.crc32(packed[at : at + size - 4]).to_bytes(4, "little")
    return bytes(packed)


def _zstd_with_window(descriptor: int) -> bytes:
    """A zstd frame that asks for a window of 2**(descriptor/8 + 10) bytes, with a raw block."""
    header = (len(GOOD) << 3 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd" + bytes((0x00, descriptor)) + header + GOOD


def _zstd_with_dictionary_id() -> bytes:
    header = (len(GOOD) << 3 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd" + bytes((0x03, 0x50)) + b"\x07\0\0\0" + header + GOOD


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def _changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 0x55,)) + data[at + 1 or len(data) :]


def _bomb(compress: Callable[[bytes], bytes]) -> bytes:
    return compress(image(raw(b"rootfs/a", bytes(4 * LIMIT_BYTES))))


NO_IMAGES = {
    "an empty file": (b"", "the file is empty"),
    "one byte": (b"x", "no tar archive"),
    "a script": (b"#!/bin/sh\nexit 0\n", "no tar archive"),
    "noise": (bytes(range(256)) * 16, "no tar archive"),
    "nothing but zeros": (bytes(10240), "no image manifest"),
    "compressed text": (gzip.compress(b"hello" * 1000), "no tar archive"),
    "gzip in gzip": (gzip.compress(gzip.compress(GOOD)), "no tar archive"),
    "a zip file": (b"PK\x03\x04" + GOOD, "no tar archive"),
    "an lzma file of the old kind": (lzma.compress(GOOD, lzma.FORMAT_ALONE), "no tar archive"),
    "a zstd frame to be skipped": (
        b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + _zstd(GOOD),
        "no tar archive",
    ),
}

DAMAGED = {
    "nothing but gzip's magic": (b"\x1f\x8b", "gzip data is truncated"),
    "nothing but bzip2's magic": (b"BZh9" + b"x" * 600, "bzip2 data is damaged"),
    "nothing but xz's magic": (b"\xfd7zXZ\0" + b"x" * 600, "xz data is damaged"),
    "nothing but zstd's magic": (b"\x28\xb5\x2f\xfd" + b"\xff" * 600, "zstd data is damaged"),
    "gzip cut short": (gzip.compress(GOOD)[:-6], "gzip data is truncated"),
    "bzip2 cut short": (bz2.compress(GOOD)[:-6], "bzip2 data is truncated"),
    "xz cut short": (lzma.compress(GOOD)[:-6], "xz data is truncated"),
    "zstd cut short": (_zstd(GOOD)[:-3], "zstd data is"),
    "gzip with a wrong checksum": (_changed(gzip.compress(GOOD), -6), "gzip data is damaged"),
    "gzip with a wrong length": (_changed(gzip.compress(GOOD), -2), "gzip data is damaged"),
    "bzip2 with a wrong checksum": (_changed(bz2.compress(GOOD), 12), "bzip2 data is damaged"),
    "xz with a wrong checksum": (_changed(lzma.compress(GOOD), -20), "xz data is damaged"),
    "zstd with a wrong checksum": (_changed(_zstd(GOOD), -1), "zstd data is damaged"),
    "noise after gzip": (gzip.compress(GOOD) + b"trailing", "gzip data is damaged"),
    "noise after xz": (lzma.compress(GOOD) + b"trailing", "xz data is damaged"),
    "noise after bzip2": (bz2.compress(GOOD) + b"trailing", "bzip2 data is damaged"),
    "noise after zstd": (_zstd(GOOD) + b"trailing", "zstd data is damaged"),
    "a second archive in a second gzip stream": (gzip.compress(GOOD) * 2, "data after the end"),
    "a second archive in a second xz stream": (lzma.compress(GOOD) * 2, "data after the end"),
    "xz that wants 4 GiB of memory": (_xz_with_dictionary(40), "xz data is damaged"),
    "xz that wants 512 MiB of memory": (_xz_with_dictionary(34), "xz data is damaged"),
    "zstd that wants a window of 2 TiB": (_zstd_with_window(0xF8), "zstd data is damaged"),
    "zstd that wants a window of 256 MiB": (_zstd_with_window(0x90), "zstd data is damaged"),
    "zstd with a dictionary nobody has": (_zstd_with_dictionary_id(), "zstd data is damaged"),
}

BOMBS = {
    "a bomb of gzip": (_bomb(gzip.compress), f"larger than {LIMIT_BYTES} bytes"),
    "a bomb of bzip2": (_bomb(bz2.compress), f"larger than {LIMIT_BYTES} bytes"),
    "a bomb of xz": (_bomb(lzma.compress), f"larger than {LIMIT_BYTES} bytes"),
    "a bomb of zstd": (_bomb(_zstd), f"larger than {LIMIT_BYTES} bytes"),
    "a bomb of zeros after the end": (
        gzip.compress(GOOD + bytes(2 * LIMIT_BYTES)),
        f"larger than {LIMIT_BYTES} bytes",
    ),
    "a bomb of entries": (
        gzip.compress(image(*[raw(b"rootfs/%d" % number) for number in range(3000)])),
        "more than 2000 entries",
    ),
}

HARMLESS = {
    "an archive in two gzip streams": gzip.compress(GOOD[:700]) + gzip.compress(GOOD[700:]),
    "an archive in two bzip2 streams": bz2.compress(GOOD[:700]) + bz2.compress(GOOD[700:]),
    "an archive in two xz streams": lzma.compress(GOOD[:700]) + lzma.compress(GOOD[700:]),
    "an archive in two zstd frames": _zstd(GOOD[:700]) + _zstd(GOOD[700:]),
    "an empty gzip stream before it": gzip.compress(b"") + gzip.compress(GOOD),
    "zeros after gzip": gzip.compress(GOOD) + bytes(1000),
}
