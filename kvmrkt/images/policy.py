"""How images may be had: what is asked of their sources, and who is told about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from kvmrkt.config import InsecureOptions

if TYPE_CHECKING:
    from kvmrkt.images.signatures.trust import Review
    from kvmrkt.images.signatures.trustedkeys import TrustedKeys
    from kvmrkt.images.web.credentials import Credentials

PullPolicy = Literal["never", "new", "update"]
"""`new`: the store, then the source; `update`: the source, if it changed; `never`: the store."""


class Progress(Protocol):
    """Shows how a transfer goes on; may be used from several threads at once."""

    def __call__(
        self, label: str, total_bytes: int | None
    ) -> AbstractContextManager[Callable[[int], None]]:
        """A transfer of so many bytes, if that is known; call the result with each advance."""


@contextmanager
def no_progress(label: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Progress that nobody sees."""
    yield lambda _: None


def _no_report(line: str) -> None:
    return


class FetchPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides whether and how an image is fetched.

    `keys` are the keys trusted to sign images; None trusts nobody. `confirm` asks a person whether
    to trust a key found by discovery; None answers no.
    """

    insecure: InsecureOptions = InsecureOptions()
    pull: PullPolicy = "new"
    credentials: Credentials | None = None
    keys: TrustedKeys | None = None
    trust_keys_from_https: bool = False
    confirm: Callable[[Review], bool] | None = None
    max_download_bytes: int = 16 << 30
    report: Callable[[str], None] = _no_report
    progress: Any = no_progress
    """A `Progress`."""
