"""Reading lines from a guest: bounded, whatever it sends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

from kvmrkt.errors import GuestError


async def open_stream(
    end: socket.socket, *, limit_bytes: int = 1 << 16
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Wrap our end of a socket pair; `limit_bytes` bounds a line."""
    return await asyncio.open_connection(sock=end, limit=limit_bytes)


async def read_lines(reader: asyncio.StreamReader, *, port: str) -> AsyncIterator[bytes]:
    """Yield lines without their newline until the port closes; an unfinished last line is dropped.

    Raises GuestError when a line is longer than the reader's limit.
    """
    while True:
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return
        except (ConnectionResetError, BrokenPipeError):
            return
        except asyncio.LimitOverrunError as error:
            raise GuestError(
                f"the guest sent a line without end on the port {port}",
                hint="the pod was ended: its agent, or its kernel, is not to be trusted",
            ) from error
        yield line[:-1]
