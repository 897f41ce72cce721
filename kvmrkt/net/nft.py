"""The host's rules: what they are made of is written down for each pod, and put in place at once.

Called with the network lock held.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.errors import HostError
from kvmrkt.net.rules import PodLink, PodRules, transaction
from kvmrkt.net.state import replace_file, state_folder
from kvmrkt.process import ProcessError, find_program, run

if TYPE_CHECKING:
    from pathlib import Path

_ATTEMPTS = 5
_TIMEOUT_SECONDS = 60
_DECODER = msgspec.json.Decoder(PodRules)


def find_nft() -> Path:
    """The program; HostError that names its package."""
    return find_program("nft", package="nftables", also=("/usr/sbin/nft",))


def put_rules(rules: PodRules) -> None:
    """Add a pod's rules; record them first. Raises HostError."""
    replace_file(_path(rules.uuid), msgspec.json.encode(rules))
    _apply(guarded=rules.links)


def drop_rules(uuid: str) -> None:
    """Take a pod's rules away; none is fine. Raises HostError."""
    path = _path(uuid)
    if path.exists():
        rules = _read(path)
        # struck out last: a kill in between must not leave rules that nobody knows of
        _apply(unguarded=rules.links, without=uuid)
        path.unlink()


def all_rules(without: str = "") -> list[PodRules]:
    """What is written down of the pods whose links are here: a dead pod's taps are gone."""
    names = {name for _, name in socket.if_nameindex()}
    found = []
    for path in sorted(state_folder("rules").glob("*.json")):
        rules = _read(path)
        is_here = bool(rules.links) and all(link.device in names for link in rules.links)
        if is_here and rules.uuid != without:
            found.append(rules)
    return found


def _apply(
    *, guarded: tuple[PodLink, ...] = (), unguarded: tuple[PodLink, ...] = (), without: str = ""
) -> None:
    """Put everything in place; the taps of a pod that dies meanwhile go, so look again then."""
    for attempt in range(_ATTEMPTS):
        pods = all_rules(without)
        script = state_folder("rules") / "rules.nft"
        text = transaction(pods, guarded=guarded, unguarded=unguarded)
        replace_file(script, text.encode())
        try:
            run([str(find_nft()), "-f", str(script)], timeout_seconds=_TIMEOUT_SECONDS)
        except ProcessError as error:
            now = all_rules(without)
            if attempt + 1 < _ATTEMPTS and [pod.uuid for pod in now] != [pod.uuid for pod in pods]:
                continue
            raise HostError(
                f"cannot change the host's nftables rules: {error.message}",
                details=error.stderr.strip()[-2000:],
                hint="the kernel needs nf_tables with NAT, fib and netdev support",
            ) from None
        return


def _read(path: Path) -> PodRules:
    try:
        return _DECODER.decode(path.read_bytes())
    except msgspec.MsgspecError as error:
        raise HostError(
            f"{path} is damaged: {error}", hint="delete it; the next change leaves its pod out"
        ) from None


def _path(uuid: str) -> Path:
    return state_folder("rules") / f"{uuid}.json"
