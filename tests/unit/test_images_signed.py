"""Signed images: taken when a trusted key made the signature, and looked at again later."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aci_files import entry, manifest, write_aci
from gpg_keys import gpg_home
from signing import STRANGER, Signing
from web_server import Answer, Server, serving, trust

from kvmrkt.config import InsecureOptions
from kvmrkt.errors import SignatureError, StoreError
from kvmrkt.images import importing
from kvmrkt.images.find import find_image
from kvmrkt.images.policy import FetchPolicy
from kvmrkt.images.store import Image, Store
from kvmrkt.images.tree import tree_for
from kvmrkt.images.verify import verify_image
from kvmrkt.paths import DataDir


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signing]:
    with gpg_home(tmp_path_factory.mktemp("g")) as gpg:
        yield Signing.make(gpg)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(DataDir(tmp_path / "data")) as opened:
        yield opened


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    trust(monkeypatch, tmp_path)
    with serving() as made:
        yield made


@pytest.fixture
def policy(signing: Signing, tmp_path: Path) -> FetchPolicy:
    return FetchPolicy(keys=signing.trusted(tmp_path))


def test_a_signed_file_is_taken_and_its_signature_kept(
    store: Store, signing: Signing, policy: FetchPolicy, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(importing, "_CLOCK_TICK_NS", 0)  # the file is as good as old
    path = write_aci(tmp_path / "a.aci", entry("rootfs/a", b"x"))
    signature = signing.sign(path)
    image = find_image(store, str(path), policy)
    assert image.signer
    assert store.signature_path(image.id).exists()
    signature.unlink()
    assert find_image(store, str(path), policy).id == image.id  # known and trusted already


def test_a_signature_elsewhere_can_be_named(
    store: Store, signing: Signing, policy: FetchPolicy, tmp_path: Path
) -> None:
    path = write_aci(tmp_path / "a.aci")
    elsewhere = signing.sign(path).rename(tmp_path / "signature")
    assert find_image(store, str(path), policy, signature=elsewhere).signer


def test_a_strangers_signature_is_refused_before_anything_is_parsed(
    store: Store, signing: Signing, policy: FetchPolicy, tmp_path: Path
) -> None:
    path = tmp_path / "a.aci"
    path.write_bytes(b"this is no archive")
    signing.sign(path, STRANGER)
    with pytest.raises(SignatureError, match="not trusted"):
        find_image(store, str(path), policy)


def test_a_changed_file_is_refused(
    store: Store, signing: Signing, policy: FetchPolicy, tmp_path: Path
) -> None:
    path = write_aci(tmp_path / "a.aci")
    signing.sign(path)
    write_aci(path, entry("rootfs/evil", b""))
    with pytest.raises(SignatureError, match="does not match the content"):
        find_image(store, str(path), policy)
    assert store.images() == []


def test_a_key_for_another_name_is_refused(
    store: Store, signing: Signing, policy: FetchPolicy, tmp_path: Path
) -> None:
    path = write_aci(tmp_path / "a.aci", document=manifest(name="example.com/other"))
    signing.sign(path)
    with pytest.raises(SignatureError, match='not trusted to sign "example.com/other"'):
        find_image(store, str(path), policy)
    assert store.images() == []


def test_an_image_taken_unsigned_is_refused_when_signatures_count(
    store: Store, signing: Signing, policy: FetchPolicy, tmp_path: Path
) -> None:
    path = write_aci(tmp_path / "a.aci")
    lax = FetchPolicy(insecure=InsecureOptions(image=True))
    image = find_image(store, str(path), lax)
    with pytest.raises(SignatureError, match="error opening signature file"):
        find_image(store, str(path), policy)
    signing.sign(path)
    assert find_image(store, str(path), policy).id == image.id
    assert store.get(image.id).signer


def test_a_signed_url(store: Store, signing: Signing, server: Server, policy: FetchPolicy,
                      tmp_path: Path) -> None:  # fmt: skip
    path = write_aci(tmp_path / "a.aci", entry("rootfs/a", b"x"))
    signing.sign(path)
    server.answers["/a.aci"] = Answer(path.read_bytes(), etag='"1"')
    server.answers["/a.aci.asc"] = Answer(Path(f"{path}.asc").read_bytes())
    image = find_image(store, server.url("/a.aci?x=1"), policy)
    assert server.paths() == ["/a.aci.asc?x=1", "/a.aci?x=1"]
    assert find_image(store, server.url("/a.aci?x=1"), policy).id == image.id
    assert len(server.asked) == 2


def test_no_image_is_downloaded_for_a_strangers_signature(
    store: Store, signing: Signing, server: Server, policy: FetchPolicy, tmp_path: Path
) -> None:
    path = write_aci(tmp_path / "a.aci")
    signing.sign(path, STRANGER)
    server.answers["/a.aci.asc"] = Answer(Path(f"{path}.asc").read_bytes())
    with pytest.raises(SignatureError, match="not trusted"):
        find_image(store, server.url("/a.aci"), policy)
    assert server.paths() == ["/a.aci.asc"]


def test_a_signature_may_come_after_the_image(
    store: Store, signing: Signing, server: Server, policy: FetchPolicy, tmp_path: Path
) -> None:
    path = write_aci(tmp_path / "a.aci")
    signing.sign(path)
    later = Answer(Path(f"{path}.asc").read_bytes())
    server.answers["/a.aci"] = Answer(path.read_bytes())
    server.answers["/a.aci.asc"] = [Answer(b"", 202), later]
    assert find_image(store, server.url("/a.aci"), policy).signer
    assert server.paths() == ["/a.aci.asc", "/a.aci", "/a.aci.asc"]


def test_a_url_without_a_signature_is_refused(
    store: Store, server: Server, policy: FetchPolicy, tmp_path: Path
) -> None:
    server.answers["/a.aci"] = Answer(write_aci(tmp_path / "a.aci").read_bytes())
    with pytest.raises(SignatureError, match="the server has no signature of it"):
        find_image(store, server.url("/a.aci"), policy)


class TestVerify:
    """`image verify`."""

    @pytest.fixture
    def image(self, store: Store, signing: Signing, policy: FetchPolicy, tmp_path: Path) -> Image:
        path = write_aci(tmp_path / "a.aci", entry("rootfs/a", b"x" * 9000))
        path.write_bytes(gzip.compress(path.read_bytes()))
        signing.sign(path)
        return find_image(store, str(path), policy)

    def test_what_is_good_is_good(self, store: Store, image: Image, policy: FetchPolicy) -> None:
        assert verify_image(store, image, policy.keys) == "good"

    def test_a_damaged_tree_is_made_anew(
        self, store: Store, image: Image, policy: FetchPolicy
    ) -> None:
        tree = tree_for(store, image.id)
        good = tree.read_bytes()
        for at in (100, len(good) // 2):
            tree.write_bytes(good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :])
            assert verify_image(store, image, policy.keys) == "made anew"
            assert verify_image(store, image, policy.keys) == "good"
        tree.write_bytes(b"")
        assert verify_image(store, image, policy.keys) == "made anew"

    def test_a_missing_tree_is_nothing_to_verify(
        self, store: Store, image: Image, policy: FetchPolicy
    ) -> None:
        tree_for(store, image.id).unlink()
        assert verify_image(store, image, policy.keys) == "not rendered"

    def test_a_damaged_manifest_is_taken_from_the_archive(
        self, store: Store, image: Image, policy: FetchPolicy
    ) -> None:
        good = image.manifest_bytes()
        image.manifest_path.write_bytes(good.replace(b"example", b"elpmaxe"))
        verify_image(store, image, policy.keys)
        assert image.manifest_bytes() == good

    def test_a_damaged_archive_is_refused(
        self, store: Store, image: Image, policy: FetchPolicy
    ) -> None:
        good = image.blob_path.read_bytes()
        for at in range(0, len(good), max(1, len(good) // 30)):
            damaged = good[:at] + bytes((good[at] ^ 0x55,)) + good[at + 1 :]
            image.blob_path.write_bytes(damaged)
            with pytest.raises((StoreError, SignatureError)):
                verify_image(store, image, policy.keys)
        image.blob_path.unlink()
        with pytest.raises(StoreError, match="is damaged"):
            verify_image(store, image, policy.keys)

    def test_a_key_that_is_trusted_no_more_is_told(
        self, store: Store, image: Image, signing: Signing, tmp_path: Path
    ) -> None:
        nobody = signing.trusted(tmp_path / "other", "example.com/else")
        with pytest.raises(SignatureError, match="no key is trusted for it"):
            verify_image(store, image, nobody)
        store.signature_path(image.id).unlink()
        with pytest.raises(SignatureError, match="its signature is gone"):
            verify_image(store, image, nobody)
