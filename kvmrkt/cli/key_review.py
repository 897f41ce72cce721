"""Asking a person on the terminal whether to trust a key."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from kvmrkt.errors import SignatureError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmrkt.images.signatures.trust import Review

_ANSWER_LIMIT = 200


def terminal_review(*, err: bool = False) -> Callable[[Review], bool] | None:
    """Asks in rkt's words, on standard output or error; None if nobody is there to answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(review: Review) -> bool:
        """Whether the person types "yes"; the keys have been shown before."""
        while True:
            click.echo("Are you sure you want to trust this key (yes/no)?", err=err)
            answer = sys.stdin.readline(_ANSWER_LIMIT)
            if not answer:
                raise SignatureError("error reviewing key: error reading input: EOF")
            if answer.strip() in ("yes", "no"):
                return answer.strip() == "yes"
            click.echo("Please enter 'yes' or 'no'", err=err)

    return ask
