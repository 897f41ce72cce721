"""From a name to a verified image, by the commands a person types, in a network of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from real_pods import ROOT

sys.path.insert(0, str(ROOT / "tests" / "unit"))

from aci_files import entry, write_aci
from gpg_keys import gpg_home
from signing import SIGNER, STRANGER, Signing

pytestmark = pytest.mark.functional

PAGE = """<html><head>
<meta name="ac-discovery" content="example.com https://example.com/{name}-{version}.{ext}">
<meta name="ac-discovery-pubkeys" content="example.com https://example.com/key.asc">
</head></html>"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it asked of the server."""

    status: int
    stdout: str
    stderr: str
    asked: list[str]


class World:
    """Runs commands where example.com is the test's own server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = Path(__file__).with_name("name_world.py")
        self._process = subprocess.Popen(
            ["unshare", "--net", "--mount", sys.executable, program, folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kvmrkt(self, *words: object) -> Outcome:
        """Run one command line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        argv = [
            str(ROOT / ".venv" / "bin" / "kvmrkt"), f"--dir={self.folder / 'data'}",
            f"--local-config={self.folder / 'etc'}", *map(str, words),
        ]  # fmt: skip
        self._process.stdin.write(json.dumps(argv) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the server."""
        self._process.communicate()


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signing]:
    with gpg_home(tmp_path_factory.mktemp("g")) as gpg:
        yield Signing.make(gpg)


@pytest.fixture
def world(signing: Signing, tmp_path: Path) -> Iterator[World]:
    """example.com with a signed image example.com/app:1.0, its page and its key."""
    (tmp_path / "page.html").write_text(PAGE)
    (tmp_path / "key.asc").write_bytes(signing.gpg.export(SIGNER))
    (tmp_path / "example.com").mkdir()
    signing.sign(write_aci(tmp_path / "example.com" / "app-1.0.aci", entry("rootfs/a", b"x")))
    made = World(tmp_path)
    yield made
    made.close()


def test_trust_then_fetch_then_verify(world: World) -> None:
    refused = world.kvmrkt("fetch", "example.com/app:1.0")
    assert refused.status == 254
    assert "key is trusted" in refused.stderr
    assert "/example.com/app-1.0.aci" not in refused.asked

    trusted = world.kvmrkt("trust", "--prefix=example.com/app", "--skip-fingerprint-review")
    assert trusted.status == 0, trusted.stderr
    assert "gpg key fingerprint is: " in trusted.stdout
    assert 'Added key for prefix "example.com/app" at ' in trusted.stdout

    fetched = world.kvmrkt("fetch", "example.com/app:1.0")
    assert fetched.status == 0, fetched.stderr
    assert fetched.stdout.startswith("sha512-")
    assert "image: signature verified:\n  Signer <signer@example.com>" in fetched.stderr
    # the page, the signature, only then the image
    assert [path.partition("?")[0] for path in fetched.asked][-2:] == [
        "/example.com/app-1.0.aci.asc",
        "/example.com/app-1.0.aci",
    ]

    verified = world.kvmrkt("image", "verify", "example.com/app:1.0")
    assert verified.status == 0, verified.stderr
    assert 'successfully verified checksum for image: "example.com/app:1.0" (' in verified.stdout

    again = world.kvmrkt("fetch", "--pull-policy=new", "example.com/app:1.0")
    assert (again.stdout, again.asked) == (fetched.stdout, [])


def test_keys_found_over_https_can_be_trusted_on_the_way(world: World) -> None:
    fetched = world.kvmrkt("--trust-keys-from-https", "fetch", "example.com/app:1.0")
    assert fetched.status == 0, fetched.stderr
    assert 'Trusting "https://example.com/key.asc" for prefix "example.com/app"' in fetched.stderr


def test_a_strangers_image_is_refused_by_name_too(world: World, signing: Signing) -> None:
    world.kvmrkt("trust", "--prefix=example.com/app", "--skip-fingerprint-review")
    signing.sign(world.folder / "example.com" / "app-1.0.aci", STRANGER)
    refused = world.kvmrkt("fetch", "example.com/app:1.0")
    assert refused.status == 254
    assert "is not trusted for it" in refused.stderr
    assert "/example.com/app-1.0.aci" not in refused.asked


def test_a_name_without_a_page_is_a_clear_error(world: World) -> None:
    (world.folder / "page.html").write_text("<html></html>")
    done = world.kvmrkt("--insecure-options=image", "fetch", "example.com/app:2.0")
    assert done.status == 254
    assert "example.com/app" in done.stderr
    assert "Traceback" not in done.stderr
