"""Finding pods: all of them, or the one that a person means."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from kvmrkt.errors import PodError, PodNotFoundError, describe
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.states import Section

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kvmrkt.paths import DataDir

SEARCHED = (Section.PREPARE, Section.PREPARED, Section.RUN, Section.EXITED_GARBAGE)
"""Where `list` and UUID prefixes look: from early to late, so that a racing move hides no pod."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LISTED = (Section.RUN, Section.EXITED_GARBAGE, Section.PREPARE, Section.PREPARED)


def walk(data: DataDir, sections: Iterable[Section] = SEARCHED) -> Iterator[PodDirectory]:
    """The pods of the given sections, each section sorted by UUID; a moved pod may come twice."""
    for section in sections:
        try:
            with os.scandir(data.pods / section) as entries:
                names = sorted([entry.name for entry in entries])
        except FileNotFoundError:
            continue
        except OSError as error:
            raise PodError(
                f"cannot read the pods in {data.pods / section}: {describe(error)}"
            ) from error
        for name in names:
            if is_uuid(name):
                yield PodDirectory(data, section, name)


def listed_pods(data: DataDir) -> list[PodDirectory]:
    """Every pod that `list` shows, once, in the order rkt shows them."""
    latest = {pod.uuid: pod for pod in walk(data)}
    return sorted(latest.values(), key=lambda pod: (_LISTED.index(pod.section), pod.uuid))


def is_uuid(text: str) -> bool:
    """Whether the text is a UUID as pods are named: 8-4-4-4-12 lower-case hex digits."""
    return _UUID.fullmatch(text) is not None


def find_pod(data: DataDir, prefix: str) -> PodDirectory:
    """The one pod whose UUID starts with `prefix`, case aside; PodNotFoundError in rkt's words."""
    wanted = prefix.strip().lower()
    if not wanted:
        raise PodNotFoundError("UUID cannot be empty")
    found = {pod.uuid: pod for pod in walk(data) if pod.uuid.startswith(wanted)}
    if not found:
        raise PodNotFoundError(f'no matches found for "{prefix}"')
    if len(found) > 1:
        raise PodNotFoundError(
            f"ambiguous uuid, {len(found)} matches",
            hint="they are " + ", ".join(sorted(found)),
        )
    return next(iter(found.values()))
