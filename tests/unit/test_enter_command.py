"""The words of `enter` and `app exec`, up to the point where a guest is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvmrkt.cli.enter import chosen_app
from kvmrkt.errors import PodError, UsageError
from kvmrkt.paths import DataDir
from kvmrkt.pods.directory import PodDirectory
from kvmrkt.pods.keys import pod_keys

if TYPE_CHECKING:
    from pathlib import Path

    from simulated_host import SimulatedHost

IMAGE = '{"id": "sha512-' + 64 * "0" + '"}'


@pytest.fixture
def pod(tmp_path: Path) -> PodDirectory:
    """A pod's directory."""
    return PodDirectory.create(DataDir(tmp_path))


def write_apps(pod: PodDirectory, *names: str) -> None:
    """A manifest with apps of these names."""
    apps = ",".join(f'{{"name": "{name}", "image": {IMAGE}}}' for name in names)
    manifest = f'{{"acKind": "PodManifest", "acVersion": "0.8.11", "apps": [{apps}]}}'
    pod.write_pod_manifest(manifest.encode())


def test_the_only_app_needs_no_name(pod: PodDirectory) -> None:
    write_apps(pod, "web")
    assert chosen_app(pod, "") == chosen_app(pod, "web") == "web"


def test_an_app_among_several_must_be_named(pod: PodDirectory) -> None:
    write_apps(pod, "web", "db")
    assert chosen_app(pod, "db") == "db"
    with pytest.raises(UsageError, match="pod contains multiple apps: web, db") as caught:
        chosen_app(pod, "")
    assert caught.value.hint == 'specify app using "kvmrkt enter --app= ..."'


def test_an_app_that_is_not_there_is_named(pod: PodDirectory) -> None:
    write_apps(pod, "web")
    with pytest.raises(PodError, match="no app found with name 'cache'"):
        chosen_app(pod, "cache")


def test_keys_are_made_once_and_only_the_owner_may_read_them(pod: PodDirectory) -> None:
    folder = pod_keys(pod)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"client_key", "client_key.pub", "host_key", "host_key.pub"}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert {path.name: path.read_bytes() for path in pod_keys(pod).iterdir()} == before
    assert [path.name for path in pod.path.iterdir() if "ssh" in path.name] == ["ssh"]


def test_two_pods_have_different_keys(tmp_path: Path) -> None:
    keys = [pod_keys(PodDirectory.create(DataDir(tmp_path))) for _ in range(2)]
    assert len({(folder / name).read_bytes() for folder in keys for name in
                ("client_key", "host_key")}) == 4  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("enter",), "give the UUID of a pod"),
        (("enter", "abcdef"), 'no matches found for "abcdef"'),
        (("app", "exec", "abcdef"), "give the command to run"),
        (("app", "exec", "-e", "x", "abcdef", "true"), 'invalid argument "x" for --env=x'),
        (("app", "exec", "--tty", "abcdef", "true"), "--tty needs a terminal"),
    ],
)
def test_faulty_words_are_refused(host: SimulatedHost, words: tuple[str, ...], said: str) -> None:
    done = host(*words)
    assert done.status == 254
    assert said in done.errors
