"""Root filesystems: right content, the same bytes each time, dependencies and whitelists."""

from __future__ import annotations

import os
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from aci_files import entry, link, manifest, write_aci

from kvmrkt.errors import ImageError, ImageNotFoundError, StoreError
from kvmrkt.images import squash
from kvmrkt.images.store import Image, Store
from kvmrkt.images.tree import render_tree, tree_for, tree_id
from kvmrkt.paths import DataDir


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(DataDir(tmp_path / "data")) as opened:
        yield opened


def add(store: Store, tmp_path: Path, name: str, *members: Any, **fields: Any) -> Image:
    document = manifest(name=name, **fields)
    return store.import_aci(write_aci(tmp_path / f"{name}.aci", *members, document=document))


def listing(tree: Path) -> dict[str, str]:
    """Path in the tree -> mode, owner, size, time as unsquashfs prints them, or a link's target."""
    lines = subprocess.run(
        ["unsquashfs", "-no-progress", "-UTC", "-llnumeric", tree],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    found = {}
    for line in lines:
        mode, _, rest = line.partition(" ")
        if mode[:1] in "-dlcbps" and "squashfs-root" in line:
            facts, _, path = rest.partition("squashfs-root")
            path, _, target = path.partition(" -> ")
            found[path.lstrip("/")] = target or f"{mode} {' '.join(facts.split())}"
    return found


def content(tree: Path, path: str) -> bytes:
    return subprocess.run(
        ["unsquashfs", "-cat", tree, path], capture_output=True, check=True
    ).stdout


def test_the_tree_is_the_archive(store: Store, tmp_path: Path) -> None:
    xattr = {"SCHILY.xattr.user.note": "hello"}
    image = add(
        store,
        tmp_path,
        "a",
        entry("rootfs/bin", mode=0o750, uid=3, gid=4),
        entry("rootfs/bin/app", b"x" * 300_000, mode=0o4755, pax_headers=xattr),
        link("rootfs/bin/hard", "rootfs/bin/app", tarfile.LNKTYPE),
        link("rootfs/bin/soft", "/bin/app"),
    )
    tree = tree_for(store, image.id)
    found = listing(tree)
    assert found[""].startswith("drwxr-xr-x")
    assert found["rootfs/bin"].startswith("drwxr-x--- 3/4")
    assert found["rootfs/bin/app"].startswith("-rwsr-xr-x 0/0 300000 1970-01-12")
    assert found["rootfs/bin/hard"] == found["rootfs/bin/app"]
    assert found["rootfs/bin/soft"] == "/bin/app"
    assert content(tree, "rootfs/bin/hard") == b"x" * 300_000
    assert tree.stat().st_uid == os.geteuid()
    assert list((store.data.cas / "tmp").iterdir()) == []


def test_the_same_image_and_epoch_give_the_same_bytes(store: Store, tmp_path: Path) -> None:
    implied = entry("rootfs/no/folder/file", b"x")
    for name, members in (("whole", [entry("rootfs/a", b"x")]), ("implied", [implied])):
        image = add(store, tmp_path, name, *members)
        tree = tree_for(store, image.id)
        time.sleep(1.1)  # the times in a squashfs are whole seconds
        again = tmp_path / name
        again.touch()
        render_tree(store, image, image.manifest(), again, epoch_seconds=squash.epoch_of(tree))
        assert again.read_bytes() == tree.read_bytes()
    assert listing(tree)["rootfs/no/folder"].startswith("drwxr-xr-x 0/0")


def test_it_is_made_while_the_image_is_imported(store: Store, tmp_path: Path) -> None:
    add(store, tmp_path, "alone", entry("rootfs/a", b"x"))
    add(store, tmp_path, "above", dependencies=[{"imageName": "alone"}])
    assert len(list((store.data.cas / "tree").iterdir())) == 1


def test_it_is_made_once(store: Store, tmp_path: Path, monkeypatch: Any) -> None:
    image = add(store, tmp_path, "a", entry("rootfs/a", b"x" * 100_000))
    tree_for(store, image.id).unlink()
    made: list[Path] = []
    real = squash.squash_file

    def counting(*arguments: Any) -> None:
        made.append(arguments[0])
        real(*arguments)

    monkeypatch.setattr(squash, "squash_file", counting)

    def work() -> None:
        with Store(store.data) as own:
            tree_for(own, image.id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_failure_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: Any) -> None:
    image = add(store, tmp_path, "a")
    tree_for(store, image.id).unlink()
    monkeypatch.setattr(squash, "OPTIONS", ("-tar", "-noappend", "-comp", "nonsense"))
    with pytest.raises(StoreError, match="cannot make the root filesystem") as caught:
        tree_for(store, image.id)
    assert "mksquashfs failed with exit status 1" in " ".join(caught.value.causes())
    assert list((store.data.cas / "tree").iterdir()) == []
    assert list((store.data.cas / "tmp").iterdir()) == []


def test_later_images_lie_over_earlier_ones(store: Store, tmp_path: Path) -> None:
    add(store, tmp_path, "d", entry("rootfs/who", b"d"), entry("rootfs/only-d", b"d"))
    add(
        store,
        tmp_path,
        "b",
        entry("rootfs/who", b"b"),
        entry("rootfs/link-or-folder"),
        entry("rootfs/link-or-folder/inner", b"b"),
        link("rootfs/into", "/etc"),
    )
    add(
        store,
        tmp_path,
        "c",
        entry("rootfs/who", b"c"),
        link("rootfs/link-or-folder", "/somewhere"),
        entry("rootfs/into", mode=0o700),
        entry("rootfs/into/file", b"c"),
        dependencies=[{"imageName": "d"}],
    )
    top = add(
        store,
        tmp_path,
        "a",
        entry("rootfs/top", b"a"),
        dependencies=[{"imageName": "b"}, {"imageName": "c"}],
    )
    tree = tree_for(store, top.id)
    found = listing(tree)
    assert content(tree, "rootfs/who") == b"c"
    assert content(tree, "rootfs/only-d") == b"d"
    assert found["rootfs/link-or-folder"] == "/somewhere"
    assert "rootfs/link-or-folder/inner" not in found
    assert found["rootfs/into"].startswith("drwx------")
    assert content(tree, "rootfs/into/file") == b"c"
    assert b'"name": "a"' in content(tree, "manifest")


def test_a_hard_link_keeps_its_content_when_its_file_is_replaced(
    store: Store, tmp_path: Path
) -> None:
    add(
        store,
        tmp_path,
        "base",
        entry("rootfs/one", b"old", mode=0o640),
        link("rootfs/two", "rootfs/one", tarfile.LNKTYPE),
        link("rootfs/three", "rootfs/two", tarfile.LNKTYPE),
    )
    dependencies = [{"imageName": "base"}]
    top = add(store, tmp_path, "top", entry("rootfs/one", b"new"), dependencies=dependencies)
    tree = tree_for(store, top.id)
    assert [content(tree, f"rootfs/{n}") for n in ("one", "two", "three")] == [
        b"new",
        b"old",
        b"old",
    ]
    assert listing(tree)["rootfs/two"].startswith("-rw-r-----")


def test_a_whitelist_holds_for_all_below_it(store: Store, tmp_path: Path) -> None:
    add(
        store,
        tmp_path,
        "base",
        entry("rootfs/etc"),
        entry("rootfs/etc/keep", b"1"),
        entry("rootfs/etc/drop", b"2"),
        entry("rootfs/other"),
        entry("rootfs/" + "n" * 120, b"3"),
        pathWhitelist=["/etc/keep", "/etc/drop", "/" + "n" * 120],
    )
    top = add(
        store,
        tmp_path,
        "top",
        entry("rootfs/bin"),
        entry("rootfs/bin/app", b"4"),
        entry("rootfs/bin/tool", b"5"),
        dependencies=[{"imageName": "base"}],
        pathWhitelist=["/etc/keep", "/bin/app", "/" + "n" * 120],
    )
    found = set(listing(tree_for(store, top.id)))
    assert found == {
        "", "manifest", "rootfs", "rootfs/bin", "rootfs/bin/app", "rootfs/etc", "rootfs/etc/keep",
        "rootfs/" + "n" * 120,
    }  # fmt: skip


def test_the_names_of_trees_tell_them_apart(store: Store, tmp_path: Path) -> None:
    base = add(store, tmp_path, "base")
    images = [
        base,
        add(store, tmp_path, "one", dependencies=[{"imageName": "base"}]),
        add(store, tmp_path, "two", dependencies=[{"imageName": "base"}], pathWhitelist=["/a"]),
        add(store, tmp_path, "three", pathWhitelist=["/a"]),
    ]
    assert len({tree_id(store, image, image.manifest()) for image in images}) == 4


def test_a_missing_dependency_and_a_wrong_one(store: Store, tmp_path: Path) -> None:
    lacking = add(store, tmp_path, "a", dependencies=[{"imageName": "x/y"}])
    with pytest.raises(ImageNotFoundError, match='"a" depends on "x/y"'):
        tree_for(store, lacking.id)
    wrong = add(store, tmp_path, "b", dependencies=[{"imageName": "c", "imageID": lacking.id}])
    with pytest.raises(ImageError, match='but that is "a"'):
        tree_for(store, wrong.id)


def test_a_circle_is_refused(store: Store, tmp_path: Path) -> None:
    add(store, tmp_path, "a", dependencies=[{"imageName": "b"}])
    image = add(store, tmp_path, "b", dependencies=[{"imageName": "a"}])
    with pytest.raises(ImageError, match="depends on itself"):
        tree_for(store, image.id)
