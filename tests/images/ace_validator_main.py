"""ace_validator_main.aci: the validator's larger half, with event handlers before and after it."""

from __future__ import annotations

from pathlib import Path

import ace_validator
from ace_validator import PROGRAM

NAME = "ace_validator_main"
_DIRECTORY = "/opt/acvalidator"


def inputs() -> list[str]:
    """What the image depends on beside this code."""
    return ace_validator.inputs()


def build(output: Path) -> None:
    """Write the image; needs the packages of `ace_validator.PACKAGES`. Takes half a minute."""
    image = ace_validator.manifest(
        "main",
        workingDirectory=_DIRECTORY,
        environment=[{"name": "IN_ACE_VALIDATOR", "value": "correct"}],
        eventHandlers=[
            {"name": "pre-start", "exec": [PROGRAM, "prestart"]},
            {"name": "post-stop", "exec": [PROGRAM, "poststop"]},
        ],
    )
    ace_validator.pack(output, image, (_DIRECTORY.removeprefix("/"),))
