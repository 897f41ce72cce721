"""The conversation with a guest that sends an app's file system, against a scripted guest."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from guest_double import HELLO, GuestDouble

from kvmrkt.errors import AgentSilentError, EngineError, GuestError, KvmrktError, VmmError
from kvmrkt.stage1.kvm.export import _Session
from kvmrkt.stage1.kvm.ports import EXPORT_PORT
from kvmrkt.stage1.kvm.vmm import Vmm, make_wires

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ARCHIVE = bytes(range(256)) * 4000


def export(
    folder: Path, script: Callable[[GuestDouble], Awaitable[None]], patience_seconds: float = 60
) -> bytes:
    """What the session gives while the guest plays the script."""

    async def play() -> bytes:
        with ExitStack() as stack:
            wires = make_wires(stack, (EXPORT_PORT,))
            guest = GuestDouble(wires)
            stack.callback(guest.close)
            stack.callback(guest.process.wait)
            stack.callback(guest.process.kill)
            (folder / "qemu").write_bytes(b"")
            session = _Session(Vmm(guest.process, folder / "qemu"), wires, "web", patience_seconds)
            tasks = [asyncio.ensure_future(guest.serve_monitor())]
            tasks.append(asyncio.ensure_future(script(guest)))
            try:
                await session.open()
                received = b""
                while chunk := await session.receive():
                    received += chunk
                return received
            finally:
                await session.close()
                for task in tasks:
                    task.cancel()
                    with suppress(asyncio.CancelledError, ConnectionError, EOFError):
                        await task

    return asyncio.run(play())


async def ask(guest: GuestDouble) -> dict[str, Any]:
    """The guest boots and hears what is wanted."""
    await guest.notify("hello", **HELLO)
    request = await guest.control.receive()
    assert request["method"] == "app.export"
    return request


async def answer(guest: GuestDouble, request: dict[str, Any], **content: Any) -> None:
    await guest.control.send({"jsonrpc": "2.0", "id": request["id"], **content})


def test_the_archive_is_given_as_it_was_sent(tmp_path: Path) -> None:
    asked = []

    async def script(guest: GuestDouble) -> None:
        request = await ask(guest)
        asked.append(request["params"])
        await guest.lines[EXPORT_PORT].send(ARCHIVE)
        await answer(guest, request, result={"bytes": len(ARCHIVE)})

    assert export(tmp_path, script) == ARCHIVE
    (spec,) = asked
    assert (spec["name"], spec["disk"], spec["root"]) == ("web", "image0", "rootfs")
    assert all(disk["read_only"] for disk in spec["disks"])


def test_an_answer_may_come_before_the_archive_has(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        request = await ask(guest)
        await answer(guest, request, result={"bytes": len(ARCHIVE)})
        await guest.lines[EXPORT_PORT].send(ARCHIVE)

    assert export(tmp_path, script) == ARCHIVE


def test_more_than_the_guest_says_is_an_error(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        request = await ask(guest)
        await guest.lines[EXPORT_PORT].send(ARCHIVE)
        await answer(guest, request, result={"bytes": 10})

    with pytest.raises(GuestError, match="more than it says"):
        export(tmp_path, script)


def test_what_the_agent_cannot_read_is_told(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        request = await ask(guest)
        await guest.lines[EXPORT_PORT].send(ARCHIVE)
        error = {"code": -32000, "message": "cannot read a/b: Input/output error"}
        await answer(guest, request, error=error)

    with pytest.raises(EngineError) as caught:
        export(tmp_path, script)
    assert caught.value.causes() == [
        'cannot read the file system of app "web"',
        "the agent refused: cannot read a/b: Input/output error",
    ]
    assert caught.value.hint is None


def test_a_stage1_image_without_exports_is_told_from_other_refusals(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        request = await ask(guest)
        await answer(guest, request, error={"code": -32601, "message": "there is no method x"})

    with pytest.raises(EngineError) as caught:
        export(tmp_path, script)
    assert caught.value.hint == "the pod's stage1 image is older than this command"


@pytest.mark.parametrize("bytes_sent", [b"", ARCHIVE])
def test_a_guest_that_falls_silent_is_not_waited_for(tmp_path: Path, bytes_sent: bytes) -> None:
    async def script(guest: GuestDouble) -> None:
        await ask(guest)
        await guest.lines[EXPORT_PORT].send(bytes_sent)

    with pytest.raises(AgentSilentError, match="said nothing within 0.2 seconds"):
        export(tmp_path, script, patience_seconds=0.2)


def test_a_qemu_that_dies_is_named(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        await ask(guest)
        await guest.lines[EXPORT_PORT].send(ARCHIVE)
        guest.die()

    with pytest.raises(VmmError, match="QEMU was ended by SIGKILL"):
        export(tmp_path, script)


def test_a_guest_that_breaks_the_protocol_is_not_believed(tmp_path: Path) -> None:
    async def script(guest: GuestDouble) -> None:
        request = await ask(guest)
        await answer(guest, request, result={"bytes": "all"})

    with pytest.raises(KvmrktError) as caught:
        export(tmp_path, script)
    assert "the answer to app.export" in str(caught.value)
