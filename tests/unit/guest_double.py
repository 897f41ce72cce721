"""A guest's side of the wires, played by the test: QEMU's monitor and the agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from kvmrkt.stage1.kvm.podspec import AppSpec, Disk, PodSpec
from kvmrkt.stage1.kvm.ports import CONTROL_PORT, LOG_PORT
from kvmrkt.stage1.kvm.supervisor import Supervision, Supervisor
from kvmrkt.stage1.kvm.vmm import CONSOLE, MONITOR, Vmm, Wires, make_wires
from kvmrkt.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from kvmrkt.stage1.kvm.agent import AppExited, AppStarted

GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}
HELLO = {"protocol": 1, "agent": "0", "kernel": "6", "uptime_ns": 1}


def an_app(name: str = "web", **changes: Any) -> AppSpec:
    """An app that logs."""
    plain: dict[str, Any] = {
        "name": name, "disk": "image0", "argv": ("/bin/true",), "environment": (),
        "user": "0", "group": "0",
    }  # fmt: skip
    return AppSpec(**{**plain, **changes})


def a_pod(*apps: AppSpec) -> PodSpec:
    """A pod of these apps."""
    return PodSpec(
        uuid="7b6a4c1e-0000-4000-8000-000000000000",
        hostname="pod",
        realtime_ns=0,
        entropy="",
        apps=apps or (an_app(),),
        disks=(Disk("image0", "squashfs", read_only=True),),
    )


class Line:
    """One wire's far end, as JSON documents: QMP does not end them with a newline."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setblocking(False)
        self._rest = ""

    async def send(self, message: dict[str, Any] | bytes) -> None:
        """Send a message, or raw bytes."""
        raw = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        await asyncio.get_running_loop().sock_sendall(self._end, raw)

    async def receive(self) -> dict[str, Any]:
        """The next message."""
        while True:
            try:
                message, end = json.JSONDecoder().raw_decode(self._rest)
            except json.JSONDecodeError:
                data = await asyncio.get_running_loop().sock_recv(self._end, 1 << 16)
                if not data:
                    raise EOFError from None
                self._rest += data.decode()
            else:
                self._rest = self._rest[end:].lstrip()
                assert isinstance(message, dict)
                return message

    def finish(self) -> None:
        """Nothing more will be sent."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Hang up."""
        self._end.close()


class GuestDouble:
    """What a script plays: `control`, `log`, `console`, `monitor`, and QEMU's process."""

    def __init__(self, wires: Wires) -> None:
        self.process = subprocess.Popen(["sleep", "1000"])
        ends, wires.theirs = wires.theirs, {}
        self.lines = {name: Line(end) for name, end in ends.items()}
        self.control, self.log = self.lines[CONTROL_PORT], self.lines[LOG_PORT]
        self.console, self.monitor = self.lines[CONSOLE], self.lines[MONITOR]

    async def notify(self, method: str, **params: Any) -> None:
        """A notification of the agent's."""
        await self.control.send({"jsonrpc": "2.0", "method": method, "params": params})

    async def answer(self, expected: str, **error: Any) -> dict[str, Any]:
        """Take a request, answer it with success or the error, and return its params."""
        request = await self.control.receive()
        assert request["method"] == expected
        reply = {"error": error} if error else {"result": {}}
        await self.control.send({"jsonrpc": "2.0", "id": request["id"], **reply})
        params: dict[str, Any] = request["params"]
        return params

    async def serve_monitor(self) -> None:
        """QMP's greeting and negotiation, then `running` for ever."""
        await self.monitor.send(GREETING)
        while True:
            await self.answer_monitor({})

    async def answer_monitor(self, result: dict[str, Any]) -> str:
        """Take a QMP command, answer it, and return its name."""
        request = await self.monitor.receive()
        # the first command, qmp_capabilities, comes without an id
        identity = {"id": request["id"]} if "id" in request else {}
        await self.monitor.send({"return": result, **identity})
        command: str = request["execute"]
        return command

    def close(self) -> None:
        """Hang up every wire."""
        for line in self.lines.values():
            line.close()

    def hang_up_outputs(self) -> None:
        """What the supervisor hears once it has killed QEMU: the end of all that apps write."""
        for name, line in self.lines.items():
            if name not in (CONTROL_PORT, MONITOR):
                line.finish()

    def die(self, number: int = signal.SIGKILL) -> None:
        """QEMU ends, and with it every wire."""
        self.process.send_signal(number)
        self.process.wait()
        self.close()


class _Vmm(Vmm):
    """QEMU's process, whose wires end with it."""

    def __init__(self, guest: GuestDouble, said: Path) -> None:
        super().__init__(guest.process, said)
        self._guest = guest

    def kill(self) -> None:
        super().kill()
        self._guest.hang_up_outputs()


class Notes:
    """Collects what the supervisor records."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.exits: dict[str, int] = {}

    def app_started(self, event: AppStarted) -> None:
        """An app runs."""
        self.started.append(event.name)

    def app_exited(self, event: AppExited) -> None:
        """An app is gone."""
        self.exits[event.name] = event.status


def supervise(
    folder: Path,
    spec: PodSpec,
    script: Callable[[GuestDouble], Awaitable[None]],
    *,
    hello_seconds: float = 60,
    notes: Notes | None = None,
) -> int:
    """Run the supervisor against a scripted guest and return the pod's status."""

    async def play() -> int:
        with ExitStack() as stack:
            ports = tuple(port for app in spec.apps for port in app.ports)
            wires = make_wires(stack, ports)
            guest = GuestDouble(wires)
            stack.callback(guest.close)
            stack.callback(guest.process.wait)
            stack.callback(guest.process.kill)
            (folder / "qemu").write_bytes(b"")
            vmm = _Vmm(guest, folder / "qemu")
            plan = Supervision(spec=spec, logs=folder, hello_seconds=hello_seconds)
            supervisor = Supervisor(vmm, wires, plan, notes or Notes(), Trace(0))
            played = asyncio.ensure_future(script(guest))  # type: ignore[arg-type]
            running = asyncio.ensure_future(supervisor.run())
            await asyncio.wait((running, played), return_when=asyncio.FIRST_EXCEPTION)
            if not running.done():
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                played.result()  # the script is wrong: say where
            played.cancel()
            await asyncio.gather(played, return_exceptions=True)
            return running.result()

    return asyncio.run(play())
