"""ace_validator_sidekick.aci: the validator's smaller half."""

from __future__ import annotations

from pathlib import Path

import ace_validator

NAME = "ace_validator_sidekick"


def inputs() -> list[str]:
    """What the image depends on beside this code."""
    return ace_validator.inputs()


def build(output: Path) -> None:
    """Write the image; needs the packages of `ace_validator.PACKAGES`. Takes half a minute."""
    ace_validator.pack(output, ace_validator.manifest("sidekick"))
