"""The App Container specification's own validator, main and sidekick in one pod."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from real_pods import IMAGES, lines_of

if TYPE_CHECKING:
    from real_pods import Kvmrkt

pytestmark = pytest.mark.functional

MAIN, SIDEKICK = IMAGES / "ace_validator_main.aci", IMAGES / "ace_validator_sidekick.aci"
WITHOUT_METADATA_SERVICE = ["==> AC_METADATA_URL is not set"]
"""What is left of the validator's complaints; the service is the one part that is not there yet."""


def test_the_pod_is_as_the_specification_wants_it(kvmrkt: Kvmrkt) -> None:
    done = kvmrkt.run("--volume=database,kind=empty", MAIN, SIDEKICK)
    main = lines_of(done, "ace-validator-main")
    assert [line for line in main if line.startswith("==>")] == WITHOUT_METADATA_SERVICE, (
        done.stderr
    )
    assert "prestart OK" in main
    assert "poststop OK" in main
    assert lines_of(done, "ace-validator-sidekick") == ["sidekick OK"]
