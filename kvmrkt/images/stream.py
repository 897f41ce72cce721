"""From an image file's bytes to its tar stream: decompressed, hashed, counted, in one pass."""

from __future__ import annotations

import io
from collections.abc import Generator
from typing import IO, TYPE_CHECKING, Any

from kvmrkt.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CHUNK_BYTES = 1 << 20
MAGIC_BYTES = 6
_XZ_MEMORY_BYTES = 256 << 20
_ZSTD_WINDOW_BYTES = 128 << 20
_ZSTD_MARK = b"\xa5" * 64
_ZSTD_MARK_FRAME = b"\x28\xb5\x2f\xfd\x20\x40\x03\x02\x00\xa5"
"""The mark as one frame of one segment: 64 bytes, in a last block that repeats one byte."""
_AHEAD = 4

_MAGIC = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0", "zstd": b"\x28\xb5\x2f\xfd"}


def compression_of(beginning: bytes) -> str | None:
    """The name of the compression the first bytes of a file stand for, or None."""
    return next((name for name, magic in _MAGIC.items() if beginning.startswith(magic)), None)


def tar_chunks(file: IO[bytes], compression: str | None) -> Iterator[bytes]:
    """The file's content, decompressed, in pieces of bounded size."""
    if compression is None:
        return iter(lambda: file.read(CHUNK_BYTES), b"")
    if compression == "zstd":
        return _ahead(_zstd(file))
    return _ahead(_decompressed(file, compression))


class ChunkSource:
    """A `tar.Source` over pieces; `limit_bytes` bounds them all together."""

    def __init__(self, chunks: Iterator[bytes], limit_bytes: int) -> None:
        """`chunks` gives no empty piece."""
        self._chunks = chunks
        self._limit_bytes = limit_bytes
        self._chunk = b""
        self._at = 0
        self._received = 0

    @property
    def position(self) -> int:
        """How many bytes of the stream are behind us."""
        return self._received - len(self._chunk) + self._at

    def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        data = self._chunk[self._at : self._at + size]
        self._at += len(data)
        while len(data) < size:
            self._advance()
            more = self._chunk[: size - len(data)]
            self._at = len(more)
            data += more
        return data

    def skip(self, size: int) -> None:
        """Go over so many bytes."""
        while size > len(self._chunk) - self._at:
            size -= len(self._chunk) - self._at
            self._advance()
        self._at += size

    def _advance(self) -> None:
        self._chunk, self._at = self._receive(), 0
        if not self._chunk:
            raise ArchiveError("the archive is truncated")

    def _receive(self) -> bytes:
        chunk = next(self._chunks, b"")
        self._received += len(chunk)
        if self._received > self._limit_bytes:
            raise ArchiveError(f"the archive is larger than {self._limit_bytes} bytes, unpacked")
        return chunk


class TarStream(ChunkSource):
    """A source that hashes each piece and hands it on as it passes."""

    def __init__(
        self, chunks: Iterator[bytes], limit_bytes: int, sink: Callable[[bytes], object]
    ) -> None:
        """`sink` gets every piece, in order."""
        import hashlib

        super().__init__(chunks, limit_bytes)
        self._sink = sink
        self._hash = hashlib.sha512()

    def finish(self) -> str:
        """Take the zeros after the end of the archive; returns the whole stream's SHA-512."""
        rest = self._chunk[self._at :]
        while rest:
            if rest.strip(b"\0"):
                raise ArchiveError("there is data after the end of the archive")
            rest = self._receive()
        return self._hash.hexdigest()

    def _receive(self) -> bytes:
        chunk = super()._receive()
        self._hash.update(chunk)
        self._sink(chunk)
        return chunk


class TarFile(io.RawIOBase):
    """The uncompressed archive in a file that may be compressed, readable once from its start."""

    def __init__(self, path: Path) -> None:
        """Open the file. OSError if it cannot be."""
        self._file = path.open("rb", buffering=0)
        self._chunks = open_chunks(self._file)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the next piece reaches; ArchiveError for damaged data."""
        if not self._left:
            self._left = memoryview(next(self._chunks, b""))
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            close_chunks(self._chunks)
            self._file.close()
        super().close()


def open_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """The decompressed content of a file that can seek, whatever its compression."""
    file.seek(0)
    beginning = file.read(MAGIC_BYTES)
    file.seek(0)
    return tar_chunks(file, compression_of(beginning))


def close_chunks(chunks: Iterator[bytes]) -> None:
    """Stop decompressing ahead."""
    if isinstance(chunks, Generator):
        chunks.close()


def _decompressed(file: IO[bytes], compression: str) -> Iterator[bytes]:
    data = file.read(CHUNK_BYTES)
    while data:
        decompressor = _decompressor(compression)
        out = b""
        while not decompressor.eof:
            if not data and len(out) < CHUNK_BYTES and not (data := file.read(CHUNK_BYTES)):
                raise ArchiveError(f"the {compression} data is truncated")
            try:
                out = decompressor.decompress(data, CHUNK_BYTES)
            except Exception as error:  # each of the three libraries has an error of its own
                raise ArchiveError(f"the {compression} data is damaged: {error}") from None
            # zlib hands back what it did not take; the others keep it
            data = getattr(decompressor, "unconsumed_tail", b"")
            if out:
                yield out
        data = decompressor.unused_data.lstrip(b"\0")
        while len(data) < MAGIC_BYTES and (more := file.read(CHUNK_BYTES)):
            data = (data + more).lstrip(b"\0")
        if data and compression_of(data) != compression:
            raise ArchiveError(f"the {compression} data is damaged: noise follows it")


def _decompressor(compression: str) -> Any:
    if compression == "gzip":
        from isal import isal_zlib  # zlib's interface, at twice its speed or better

        return isal_zlib.decompressobj(wbits=isal_zlib.MAX_WBITS | 16)
    if compression == "bzip2":
        import bz2

        return bz2.BZ2Decompressor()
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)


def _zstd(file: IO[bytes]) -> Iterator[bytes]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    marked: Any = _Marked(file)
    reader = decompressor.stream_reader(
        marked, read_size=CHUNK_BYTES, read_across_frames=True, closefd=False
    )
    held = b""
    try:
        while out := held + reader.read(CHUNK_BYTES):
            if out == held:
                break
            out, held = out[: -len(_ZSTD_MARK)], out[-len(_ZSTD_MARK) :]
            if out:
                yield out
    except zstandard.ZstdError as error:
        raise ArchiveError(f"the zstd data is damaged: {error}") from None
    if held != _ZSTD_MARK:
        raise ArchiveError("the zstd data is truncated")


class _Marked:
    """A file with a zstd frame of our own at its end.

    The library does not tell whether a file ends inside a frame. If it does, that frame swallows
    ours, and the mark does not come out.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._ended = False

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if data or self._ended:
            return data
        self._ended = True
        return _ZSTD_MARK_FRAME


def _ahead(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces, made by a thread a few pieces ahead: decompressing beside hashing."""
    import queue
    import threading

    pieces: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def produce() -> None:
        try:
            for chunk in chunks:
                pieces.put(chunk)
                if stopped.is_set():
                    return
            pieces.put(b"")
        except BaseException as error:  # raised again where the pieces are taken
            pieces.put(error)

    thread = threading.Thread(target=produce, name="decompress", daemon=True)
    thread.start()
    try:
        while piece := pieces.get():
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        stopped.set()
        while thread.is_alive():
            try:
                pieces.get(timeout=0.01)
            except queue.Empty:
                continue
