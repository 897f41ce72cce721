"""The states of a pod, in rkt's words, and the folders that hold them."""

from __future__ import annotations

from enum import StrEnum


class Section(StrEnum):
    """The folders below `pods/`, in the order look-ups go through them.

    A pod only ever moves to a later folder, so a look-up that races with a rename still finds it.
    """

    EMBRYO = "embryo"
    PREPARE = "prepare"
    PREPARED = "prepared"
    RUN = "run"
    EXITED_GARBAGE = "exited-garbage"
    GARBAGE = "garbage"


class PodState(StrEnum):
    """What `list` and `status` call the state of a pod."""

    EMBRYO = "embryo"
    PREPARING = "preparing"
    ABORTED_PREPARE = "aborted prepare"
    PREPARED = "prepared"
    RUNNING = "running"
    EXITED = "exited"
    EXITED_DELETING = "exited deleting"
    EXITED_GARBAGE = "exited garbage"
    DELETING = "deleting"
    GARBAGE = "garbage"


_LOCKED = {
    Section.EMBRYO: PodState.EMBRYO,
    Section.PREPARE: PodState.PREPARING,
    Section.PREPARED: PodState.PREPARED,
    Section.RUN: PodState.RUNNING,
    Section.EXITED_GARBAGE: PodState.EXITED_DELETING,
    Section.GARBAGE: PodState.DELETING,
}
_UNLOCKED = {
    Section.EMBRYO: PodState.EMBRYO,
    Section.PREPARE: PodState.ABORTED_PREPARE,
    Section.PREPARED: PodState.PREPARED,
    Section.RUN: PodState.EXITED,
    Section.EXITED_GARBAGE: PodState.EXITED_GARBAGE,
    Section.GARBAGE: PodState.GARBAGE,
}


def state_of(section: Section, *, locked: bool) -> PodState:
    """The state that a folder and an exclusive lock mean together (rkt, pod lifecycle)."""
    return (_LOCKED if locked else _UNLOCKED)[section]


ENDED = frozenset(
    {
        PodState.EXITED,
        PodState.EXITED_DELETING,
        PodState.EXITED_GARBAGE,
    }
)
"""States of a pod that ran and runs no more."""
