"""The way into a pod: frames, credit, and guests that keep to neither."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.errors import AppStartError, GuestError
from kvmrkt.stage1.kvm import reach
from kvmrkt.stage1.kvm.frames import CREDIT_BYTES, DATA_BYTES, Frame, FrameReader, Kind, credit
from kvmrkt.stage1.kvm.reach import CLIENTS, Reach, Way

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

PROGRAM = b"the SSH server"


def raw(kind: int, stream: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """A frame as a guest may send it."""
    size = len(payload) if length is None else length
    return struct.pack(">BII", kind, stream, size) + payload


@given(
    frames=st.lists(
        st.tuples(st.sampled_from([2, 3, 4]), st.integers(0, 2**32 - 1), st.binary(max_size=50))
    ),
    cuts=st.lists(st.integers(1, 20), min_size=1),
)
def test_frames_are_read_however_they_arrive(
    frames: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(raw(*frame) for frame in frames)
    reader, seen, step = FrameReader(), [], 0
    while data:
        size = cuts[step % len(cuts)]
        seen += list(reader.feed(data[:size]))
        data, step = data[size:], step + 1
    assert seen == [Frame(Kind(kind), stream, payload) for kind, stream, payload in frames]


@pytest.mark.parametrize(
    "sent", [raw(0, 1), raw(1, 1), raw(5, 1), raw(255, 1), raw(2, 1, length=CREDIT_BYTES + 1)]
)
def test_what_is_no_frame_of_a_guests_is_refused(sent: bytes) -> None:
    with pytest.raises(GuestError, match="broke the protocol"):
        list(FrameReader().feed(sent))


def test_a_credit_is_four_bytes() -> None:
    assert credit(1, 77).amount == 77
    with pytest.raises(GuestError):
        _ = Frame(Kind.CREDIT, 1, b"xyz").amount


class _Agent:
    """Takes the order to start the SSH server, or refuses it."""

    def __init__(self, refusal: str | None = None) -> None:
        self.refusal = refusal
        self.orders: list[tuple[int, str, str]] = []

    async def start_ssh(self, program_bytes: int, *, host_key: str, client_key: str) -> None:
        self.orders.append((program_bytes, host_key, client_key))
        if self.refusal:
            raise AppStartError(self.refusal)


class World:
    """A way in, with the test at the guest's end."""

    def __init__(self, reach: Reach, guest: socket.socket, way: Way, agent: _Agent) -> None:
        self.reach, self.way, self.agent = reach, way, agent
        self._guest = guest
        self._frames = bytearray()
        self._writers: list[asyncio.StreamWriter] = []

    async def hang_up(self) -> None:
        """All clients go."""
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        """Connect; gives the stream and the supervisor's word."""
        reader, writer = await asyncio.open_unix_connection(self.way.socket)
        self._writers.append(writer)
        return reader, writer, (await reader.readline()).decode().strip()

    async def from_host(self, size: int) -> bytes:
        """Exactly so many bytes that the host sent to the guest."""
        loop = asyncio.get_running_loop()
        while len(self._frames) < size:
            self._frames += await loop.sock_recv(self._guest, 1 << 16)
        data = bytes(self._frames[:size])
        del self._frames[:size]
        return data

    async def frame(self) -> tuple[int, int, bytes]:
        """The next frame from the host."""
        kind, stream, length = struct.unpack(">BII", await self.from_host(9))
        return kind, stream, await self.from_host(length)

    async def send(self, data: bytes) -> None:
        """Send as the guest."""
        await asyncio.get_running_loop().sock_sendall(self._guest, data)


def in_world(
    tmp_path: Path,
    script: Callable[[World], Awaitable[None]],
    *,
    refusal: str | None = None,
    is_open: bool = True,
) -> None:
    """Run a script against a way in; raises what the way raises."""

    async def play() -> None:
        keys = tmp_path / "keys"
        keys.mkdir(exist_ok=True)
        (keys / "host_key").write_text("host")
        (keys / "client_key.pub").write_text("client")
        (tmp_path / "program").write_bytes(PROGRAM)
        way = Way(tmp_path / "s", keys, tmp_path / "program")
        host, guest = socket.socketpair()
        guest.setblocking(False)
        agent: Any = _Agent(refusal)
        way_in = Reach(way, host, agent)
        if is_open:
            way_in.open()
        serving = asyncio.ensure_future(way_in.serve())
        while not way.socket.exists():
            await asyncio.sleep(0)
        world = World(way_in, guest, way, agent)
        playing = asyncio.ensure_future(_played(script, world))
        await asyncio.wait((serving, playing), return_when=asyncio.FIRST_COMPLETED)
        with guest:
            failed = serving.exception() if serving.done() else None
            for task in (playing, serving):
                if failed is not None or task is serving:
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError, GuestError):
                    await task
            await world.hang_up()
        if failed is not None:
            raise failed

    asyncio.run(asyncio.wait_for(play(), 60))


async def _played(script: Callable[[World], Awaitable[None]], world: World) -> None:
    await script(world)


async def met(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    """A client whose stream the guest knows."""
    reader, writer, word = await world.client()
    assert word == "ok"
    kind, number, _ = await world.frame()
    assert kind == Kind.OPEN
    return reader, writer, number


def test_the_first_client_has_the_server_handed_over_and_the_second_does_not(
    tmp_path: Path,
) -> None:
    async def script(world: World) -> None:
        _, first, word = await world.client()
        assert word == "ok"
        assert await world.from_host(len(PROGRAM)) == PROGRAM
        assert await world.frame() == (Kind.OPEN, 1, b"")
        _, second, number = await met(world)
        assert number == 2
        assert world.agent.orders == [(len(PROGRAM), "host", "client")]
        first.close()
        assert await world.frame() == (Kind.CLOSE, 1, b"")
        second.close()

    in_world(tmp_path, script)


def test_bytes_go_both_ways_and_credit_comes_back(tmp_path: Path) -> None:
    async def script(world: World) -> None:
        reader, writer, _ = await world.client()
        await world.from_host(len(PROGRAM))
        await world.frame()
        writer.write(b"up")
        assert await world.frame() == (Kind.DATA, 1, b"up")
        await world.send(raw(2, 1, b"down"))
        assert await reader.readexactly(4) == b"down"
        assert await world.frame() == (Kind.CREDIT, 1, struct.pack(">I", 4))
        await world.send(raw(2, 1, b"last") + raw(4, 1))
        assert await reader.read() == b"last"
        writer.close()

    in_world(tmp_path, script)


def test_a_guest_that_takes_nothing_holds_up_its_own_client_only(tmp_path: Path) -> None:
    async def script(world: World) -> None:
        _, stuck, _ = await world.client()
        await world.from_host(len(PROGRAM))
        await world.frame()
        stuck.write(bytes(4 * CREDIT_BYTES))
        taken = 0
        while taken < CREDIT_BYTES:
            kind, number, payload = await world.frame()
            assert (kind, number) == (Kind.DATA, 1)
            assert len(payload) <= DATA_BYTES
            taken += len(payload)
        assert taken == CREDIT_BYTES
        _, other, number = await met(world)  # the next frame is the other's, not more of the first
        other.write(b"through")
        assert await world.frame() == (Kind.DATA, number, b"through")
        await world.send(raw(3, 1, struct.pack(">I", 10)))
        assert await world.frame() == (Kind.DATA, 1, bytes(10))

    in_world(tmp_path, script)


def test_a_client_that_reads_nothing_holds_up_no_other(tmp_path: Path) -> None:
    async def script(world: World) -> None:
        await world.client()
        await world.from_host(len(PROGRAM))
        await world.frame()
        await world.send(b"".join(raw(2, 1, bytes(1 << 15)) for _ in range(8)))
        reader, _, word = await world.client()
        assert word == "ok"
        await world.send(b"")
        while (await world.frame())[0] != Kind.OPEN:
            pass
        await world.send(raw(2, 2, b"through"))
        assert await reader.readexactly(7) == b"through"

    in_world(tmp_path, script)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (raw(2, 1, bytes(CREDIT_BYTES)) + raw(2, 1, b"x"), "more of a stream than it had credit"),
        (raw(3, 1, struct.pack(">I", 1)), "credit for what was never sent"),
        (raw(2, 2, b"x"), "a stream that nobody opened"),
        (raw(4, 0), "a stream that nobody opened"),
        (raw(9, 1), "a frame of kind 9"),
    ],
)
def test_a_guest_that_breaks_the_protocol_ends_the_pod(
    tmp_path: Path, sent: bytes, said: str
) -> None:
    async def script(world: World) -> None:
        await world.client()
        await world.from_host(len(PROGRAM))
        await world.frame()
        await world.send(sent)
        await asyncio.sleep(60)

    with pytest.raises(GuestError, match=said):
        in_world(tmp_path, script)


def test_frames_of_a_stream_that_was_just_closed_are_dropped(tmp_path: Path) -> None:
    async def script(world: World) -> None:
        _, writer, _ = await world.client()
        await world.from_host(len(PROGRAM))
        await world.frame()
        writer.close()
        assert await world.frame() == (Kind.CLOSE, 1, b"")
        await world.send(raw(2, 1, b"late") + raw(3, 1, struct.pack(">I", 5)) + raw(4, 1))
        await met(world)

    in_world(tmp_path, script)


def test_clients_before_the_apps_start_are_sent_away(tmp_path: Path) -> None:
    async def script(world: World) -> None:
        assert (await world.client())[2] == "its apps have not started yet"
        world.reach.open()
        assert (await world.client())[2] == "ok"

    in_world(tmp_path, script, is_open=False)


def test_a_server_that_cannot_be_started_is_explained_to_every_client(tmp_path: Path) -> None:
    async def script(world: World) -> None:
        for _ in range(2):
            assert (await world.client())[2] == "no room"

    in_world(tmp_path, script, refusal="no room")


def test_a_guest_that_never_starts_the_server_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "BEGIN_SECONDS", 0.05)

    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    async def script(world: World) -> None:
        monkeypatch.setattr(world.agent, "start_ssh", never)
        assert "did not start its SSH server within 0.05" in (await world.client())[2]

    in_world(tmp_path, script)


def test_when_the_server_ends_its_clients_do_and_the_next_ones_learn_it(tmp_path: Path) -> None:
    async def script(world: World) -> None:
        reader, _, _ = await world.client()
        await world.from_host(len(PROGRAM))
        await world.frame()
        world.reach.server_ended()
        assert await reader.read() == b""
        assert (await world.client())[2] == "the SSH server of the pod has ended"

    in_world(tmp_path, script)


def test_there_are_so_many_clients_and_no_more(tmp_path: Path) -> None:
    async def script(world: World) -> None:
        clients = [await world.client() for _ in range(CLIENTS)]
        assert {word for _, _, word in clients} == {"ok"}
        assert "takes no more" in (await world.client())[2]

    in_world(tmp_path, script)


def test_only_the_owner_may_connect(tmp_path: Path) -> None:
    async def script(world: World) -> None:
        while world.way.socket.stat().st_mode & 0o777 != 0o600:
            await asyncio.sleep(0)

    in_world(tmp_path, script)
