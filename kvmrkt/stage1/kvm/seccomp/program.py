"""The filter of an app as the agent gets it. Compiling takes ctypes and some milliseconds, so the
default one, which nearly every app has, is kept until the host boots again."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import msgspec

from kvmrkt import paths
from kvmrkt.appc import isolators
from kvmrkt.stage1.kvm import runcache
from kvmrkt.stage1.kvm.seccomp.policy import policy_for

if TYPE_CHECKING:
    from kvmrkt.appc.image_manifest import App
    from kvmrkt.stage1.kvm.seccomp.policy import Policy


class _Kept(msgspec.Struct, frozen=True):
    policy: str
    """What it was compiled from, as JSON."""
    program: str


def filter_for(app: App) -> str | None:
    """The app's filter in base64, None for none; raises ManifestError and HostError."""
    asked = isolators.seccomp(app)
    policy = policy_for(asked)
    if policy is None:
        return None
    return _compiled(policy) if asked is not None else compiled_once(policy, "default")


def compiled_once(policy: Policy, name: str) -> str:
    """A filter that many processes have, in base64: kept, under its name, until the next boot."""
    path = paths.RUNTIME / f"seccomp-{name}.json"
    key = msgspec.json.encode(policy).decode()
    kept = runcache.read(path, _Kept)
    if kept is None or kept.policy != key:
        kept = _Kept(key, _compiled(policy))
        runcache.write(path, kept)
    return kept.program


def _compiled(policy: Policy) -> str:
    from kvmrkt.stage1.kvm.seccomp.libseccomp import compile_policy

    return base64.b64encode(compile_policy(policy)).decode()
