"""Real pods: every test has a data directory of its own, over one shared store of images."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest
from agent_guest import Boot, Guest, booted, prepare_boot
from real_pods import BUSYBOX, INSIDE, REDIS, Kvmrkt, processes_naming

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


if int(platform.freedesktop_os_release().get("VERSION_ID", "13")) > 12:
    # Debian 12 is the last to have the source of the specification's validator
    collect_ignore = ["test_ace_validator.py"]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the stage1 image and the test images."""
    folder = tmp_path_factory.mktemp("store")
    kvmrkt = Kvmrkt(folder)
    for image in (BUSYBOX, INSIDE, REDIS):
        assert image.exists(), f"{image} is missing: make images"
        done = kvmrkt("fetch", image)
        assert done.returncode == 0, done.stderr
    return folder / "cas"


@pytest.fixture
def kvmrkt(tmp_path: Path, store: Path) -> Iterator[Kvmrkt]:
    """The command line; afterwards no process of any of the test's pods may be left."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "cas").symlink_to(store)
    command = Kvmrkt(folder)
    yield command
    for pod in command.started:  # of a test that failed
        pod.kill()
        pod.communicate()
    assert processes_naming(str(tmp_path)) == []


@pytest.fixture(scope="session")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Boot:
    """What a guest boots from, for tests that speak to the agent themselves."""
    return prepare_boot(tmp_path_factory.mktemp("boot"))


@pytest.fixture(scope="module")
def guest(boot: Boot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest whose pod runs on without apps: each test adds its own, and removes them."""
    with booted(boot, tmp_path_factory.mktemp("guest")) as guest:
        guest.start_pod()
        yield guest
