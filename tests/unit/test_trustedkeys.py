"""Which keys are trusted for which images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpg_keys import gpg_home

from kvmrkt.errors import ConfigError, UsageError
from kvmrkt.images.signatures.openpgp import PublicKey, read_keys
from kvmrkt.images.signatures.trustedkeys import TrustedKeys


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[PublicKey]]:
    with gpg_home(tmp_path_factory.mktemp("k")) as gpg:
        yield [
            read_keys(gpg.export(gpg.new_key(f"{name}@example.com")), name)[0]
            for name in ("one", "two")
        ]


class Folders:
    """The two layers of configuration, and what was reported while keys were read."""

    def __init__(self, top: Path) -> None:
        self.local, self.system = top / "local", top / "system"
        self.reported: list[str] = []
        self.keys = TrustedKeys(self.local, self.system, self.reported.append)

    def put(self, layer: Path, place: str, key: PublicKey, content: bytes | None = None) -> Path:
        path = layer / "trustedkeys" / place / key.fingerprint
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.armored if content is None else content)
        return path

    def names(self, *names: str) -> list[int]:
        return [len(self.keys.for_name(name)) for name in names]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_nothing_is_trusted_where_there_is_no_configuration(folders: Folders) -> None:
    assert folders.names("example.com/app") == [0]
    assert folders.keys.all() == []
    assert not folders.keys.has_prefix_keys("example.com/app")


def test_an_added_key_is_trusted_for_its_prefix(folders: Folders, made: list[PublicKey]) -> None:
    path = folders.keys.add(made[0], "example.com/app")
    expected = f"trustedkeys/prefix.d/example.com/app/{made[0].fingerprint}"
    assert path == folders.local / expected
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == [made[0].fingerprint]
    assert folders.keys.for_name("example.com/app") == [made[0]]
    assert folders.names("example.com/app/sub", "example.com", "example.com/ap") == [1, 0, 0]
    assert folders.keys.all() == [made[0]]
    assert folders.keys.has_prefix_keys("example.com/app/sub")
    assert not folders.keys.has_prefix_keys("example.com")


def test_a_key_may_be_added_again_and_for_another_prefix(
    folders: Folders, made: list[PublicKey]
) -> None:
    for prefix in ("example.com", "example.com", "example.org", None):
        folders.keys.add(made[0], prefix)
    assert folders.keys.all() == [made[0]]
    assert folders.names("example.com/a", "example.org/b", "example.net") == [1, 1, 1]


def test_a_root_key_is_trusted_for_every_image(folders: Folders, made: list[PublicKey]) -> None:
    path = folders.keys.add(made[0], None)
    assert path == folders.local / "trustedkeys/root.d" / made[0].fingerprint
    assert folders.names("example.com/app", "a") == [1, 1]
    assert not folders.keys.has_prefix_keys("example.com/app")


def test_prefixes_are_compared_as_rkt_compared_them(
    folders: Folders, made: list[PublicKey]
) -> None:
    folders.put(folders.local, "prefix.d/example.com/et", made[0])
    assert folders.names("example.com/et", "example.com/etcd", "example.com/e") == [1, 1, 0]
    folders.put(folders.system, "prefix.d/example.co", made[1])
    assert folders.names("example.com/etcd", "example.co/x", "example.co") == [1, 1, 1]


def test_keys_below_a_longer_prefix_are_not_for_the_shorter(
    folders: Folders, made: list[PublicKey]
) -> None:
    folders.put(folders.local, "prefix.d/example.com", made[0])
    folders.put(folders.system, "prefix.d/example.com/app", made[1])
    assert folders.names("example.com", "example.com/b", "example.com/app") == [1, 1, 2]
    assert len(folders.keys.all()) == 2


@pytest.mark.parametrize("place", ["root.d", "prefix.d/example.com/app"])
def test_an_empty_local_file_masks_the_systems_key(
    folders: Folders, made: list[PublicKey], place: str
) -> None:
    folders.put(folders.system, place, made[0])
    folders.put(folders.system, place, made[1])
    assert folders.names("example.com/app") == [2]
    folders.put(folders.local, place, made[0], b"")
    assert folders.keys.for_name("example.com/app") == [made[1]]
    assert folders.keys.all() == [made[1]]
    assert folders.reported == []


def test_a_root_key_can_be_masked_for_one_prefix(folders: Folders, made: list[PublicKey]) -> None:
    folders.put(folders.system, "root.d", made[0])
    folders.put(folders.local, "prefix.d/example.com", made[0], b"")
    assert folders.names("example.com/app", "example.org/app") == [0, 1]
    assert folders.keys.all() == [made[0]]


def test_a_system_key_masked_at_the_root_still_counts_for_its_prefix(
    folders: Folders, made: list[PublicKey]
) -> None:
    folders.put(folders.local, "root.d", made[0], b"")
    folders.put(folders.system, "prefix.d/example.com", made[0])
    assert folders.names("example.com/app") == [1]


def test_files_that_are_no_keys_are_ignored_and_reported_once(
    folders: Folders, made: list[PublicKey], tmp_path: Path
) -> None:
    folders.put(folders.local, "root.d", made[0])
    folders.put(folders.local, "root.d", made[1], made[0].armored)  # under a false name
    root = folders.local / "trustedkeys/root.d"
    (root / "README").write_text("keys are here\n")
    (root / ".hidden").write_text("not read\n")
    (root / "folder").mkdir()
    os.mkfifo(root / "fifo")
    (root / "dangling").symlink_to("nowhere")
    for _ in range(2):
        assert folders.keys.for_name("example.com/app") == [made[0]]
    assert len(folders.reported) == 4
    text = "\n".join(folders.reported)
    assert f"{made[1].fingerprint}: the file's name is not its key's fingerprint" in text
    assert f"{root}/README: no OpenPGP data" in text
    assert f"open {root}/fifo: not a regular file" in text
    assert f"open {root}/dangling: no such file or directory" in text


def test_a_linked_key_is_read(folders: Folders, made: list[PublicKey], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(made[0].armored)
    root = folders.local / "trustedkeys/root.d"
    root.mkdir(parents=True)
    (root / made[0].fingerprint).symlink_to(tmp_path / "elsewhere")
    assert folders.keys.all() == [made[0]]


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        ("https://example.com", "omit https://"),
        ("", "invalid prefix"),
        ("../../etc", "invalid prefix"),
        ("/example.com", "invalid prefix"),
        ("example.com/", "invalid prefix"),
        ("Example.com", "invalid prefix"),
        ("example.com/*", "invalid prefix"),
        ("a\0b", "invalid prefix"),
    ],
)
def test_what_is_no_prefix_is_refused(
    folders: Folders, made: list[PublicKey], prefix: str, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        folders.keys.add(made[0], prefix)
    assert not folders.local.exists()


def test_a_name_that_is_none_gets_root_keys_only(folders: Folders, made: list[PublicKey]) -> None:
    folders.put(folders.local, "prefix.d/example.com", made[0])
    folders.put(folders.local, "root.d", made[1])
    assert folders.names("../prefix.d/example.com", "", "/") == [1, 1, 1]


def test_a_folder_that_cannot_be_written_is_an_error(
    folders: Folders, made: list[PublicKey]
) -> None:
    folders.local.write_text("in the way")
    with pytest.raises(ConfigError, match='error adding key for prefix "example.com"'):
        folders.keys.add(made[0], "example.com")
    with pytest.raises(ConfigError, match="error adding root key"):
        folders.keys.add(made[0], None)
