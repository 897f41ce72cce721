"""Which networks a pod is to join, as the user named them."""

from __future__ import annotations

from typing import NamedTuple

from kvmrkt.errors import UsageError

SPECIAL = ("all", "host", "none")
DEFAULT = "default"
RESTRICTED = "default-restricted"


class NetworkChoice(NamedTuple):
    """One network by name, and what its plug-in is to be told (`A=B;C=D`)."""

    name: str
    arguments: str = ""

    def pairs(self) -> dict[str, str]:
        """The arguments by name; raises UsageError for one without a value."""
        pairs: dict[str, str] = {}
        for part in filter(None, self.arguments.split(";")):
            name, equals, value = part.partition("=")
            if not equals or not name:
                raise UsageError(
                    f'network "{self.name}": the argument "{part}" is not in NAME=VALUE form'
                )
            pairs[name] = value
        return pairs


NO_NETWORK = (NetworkChoice("none"),)


def needs_links(choices: tuple[NetworkChoice, ...]) -> bool:
    """Whether the pod gets anything beside its loopback: `none` wins over all others, as in rkt."""
    return bool(choices) and all(choice.name != "none" for choice in choices)
