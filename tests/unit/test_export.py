"""`kvmrkt export`: everything but the machine that reads the disk."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING

import pytest
from aci_files import entry, manifest, write_aci
from raw_tar import bare, folder, link, raw
from simulated_engine import BROKEN, DISK, LEFT

from kvmrkt.exporting import write_image
from kvmrkt.images.tar import Limits

if TYPE_CHECKING:
    from pathlib import Path

    from simulated_host import Result, SimulatedHost


class Exports:
    """A pod that has ended, and what becomes of it."""

    def __init__(self, host: SimulatedHost) -> None:
        self.host = host
        self.image = host.image()
        assert host.run(self.image, "--exec=/bin/true").status == 0
        (self.uuid,) = host.pods()
        self.output = host.folder / "out.aci"

    @property
    def pod(self) -> Path:
        return next(self.host.data.pods.glob(f"*/{self.uuid}"))

    def __call__(self, *flags: str) -> Result:
        return self.host("export", *flags, self.uuid, self.output)

    def left(self) -> list[str]:
        """The files beside the output."""
        return sorted(path.name for path in self.host.folder.glob("*out.aci*"))


@pytest.fixture
def exports(host: SimulatedHost) -> Exports:
    return Exports(host)


def test_what_an_app_left_becomes_an_image_that_can_be_fetched(exports: Exports) -> None:
    done = exports()
    assert done == (0, "", "export: app app is only simulated\n")
    with tarfile.open(exports.output) as archive:
        assert archive.getnames() == ["manifest", "rootfs", "rootfs/made"]
        text = archive.extractfile("manifest")
        assert text is not None
        assert json.load(text) == manifest()
    fetched = exports.host("fetch", exports.output)
    assert (fetched.status, fetched.output[:7]) == (0, "sha512-")


def test_two_exports_of_a_pod_are_the_same_to_the_byte(exports: Exports) -> None:
    exports()
    first = exports.output.read_bytes()
    assert exports("--overwrite").status == 0
    assert exports.output.read_bytes() == first


def test_a_file_that_is_there_stays_unless_it_may_be_overwritten(exports: Exports) -> None:
    exports.output.write_text("mine")
    done = exports()
    assert done.status == 254
    assert "export: target file exists (try --overwrite)" in done.errors
    assert exports.output.read_text() == "mine"
    assert exports("--overwrite").status == 0
    assert exports.output.read_bytes()[:2] == b"\x1f\x8b"


def test_only_files_named_as_images_are_written(exports: Exports) -> None:
    done = exports.host("export", exports.uuid, "out.tar")
    assert done.status == 254
    assert "extension must be .aci (given " in done.errors


def test_a_pod_of_several_apps_needs_the_name_of_one(host: SimulatedHost) -> None:
    image = host.image()
    host.run(image, "--name=a", "--exec=/bin/true", "---", image, "--name=b", "--exec=/bin/true")
    (uuid,) = host.pods()
    output = host.folder / "out.aci"
    done = host("export", uuid, output)
    assert done.status == 254
    assert "pod contains multiple apps:" in done.errors
    assert 'specify app using "kvmrkt export --app= ..."' in done.errors
    unknown = host("export", "--app=c", uuid, output)
    assert "unable to find app: app c is not present in pod" in unknown.errors
    assert not output.exists()
    assert host("export", "--app=b", uuid, output) == (
        0, "", "export: app b is only simulated\n",
    )  # fmt: skip


def test_a_pod_that_has_not_ended_is_refused(host: SimulatedHost) -> None:
    prepared = host("prepare", host.image()).output.strip()
    done = host("export", prepared, host.folder / "out.aci")
    assert done.status == 254
    assert "pod is not exited. Only exited pods can be exported" in done.errors


def test_a_running_pod_is_refused(host: SimulatedHost) -> None:
    file = host.folder / "uuid"
    child = host.start(
        "run", "--net=none", f"--uuid-file-save={file}", host.image(), "--exec=/bin/sleep"
    )
    uuid = host.running(child, file)
    done = host("export", uuid, host.folder / "out.aci")
    assert "pod is not exited. Only exited pods can be exported" in done.errors
    host("stop", uuid)
    host.finish(child)


def test_a_pod_whose_disk_was_never_made_says_so(exports: Exports) -> None:
    (exports.pod / DISK).unlink()
    done = exports()
    assert done.status == 254
    assert "never ran" in done.errors


def test_a_pod_that_gc_has_marked_is_exported_still(exports: Exports) -> None:
    exports.host("gc", "--mark-only")
    assert exports.pod.parent.name == "exited-garbage"
    assert exports().status == 0


def test_a_tree_that_is_gone_is_made_again_of_its_image(exports: Exports) -> None:
    for tree in (exports.host.data.cas / "tree").glob("*.squashfs"):
        tree.unlink()
    assert exports().status == 0


def test_a_tree_and_an_image_that_are_gone_are_named(exports: Exports) -> None:
    fetched = exports.host("fetch", "--full", exports.image).output.strip()
    exports.host("image", "rm", fetched)
    for tree in (exports.host.data.cas / "tree").glob("*.squashfs"):
        tree.unlink()
    done = exports()
    assert done.status == 254
    assert 'the root filesystem that app "app" ran on is gone from the store' in done.errors
    assert "hint: fetch its image again: example.com/app" in done.errors
    assert not exports.output.exists()


def test_the_image_stands_alone_whatever_the_original_was_made_of(host: SimulatedHost) -> None:
    host("fetch", host.image("base"))
    document = manifest(
        dependencies=[{"imageName": "example.com/base"}], pathWhitelist=["/bin"],
        unknown="kept",
    )  # fmt: skip
    image = write_aci(host.folder / "top.aci", entry("rootfs/bin"), document=document)
    assert host.run(image, "--exec=/bin/true").status == 0
    (uuid,) = host.pods()
    output = host.folder / "out.aci"
    assert host("export", uuid, output).status == 0
    with tarfile.open(output) as archive:
        text = archive.extractfile("manifest")
        assert text is not None
        written = json.load(text)
    assert written == {
        key: value
        for key, value in document.items()
        if key not in ("dependencies", "pathWhitelist")
    }


HOSTILE = {
    "a manifest of its own": bare(folder(b"rootfs"), raw(b"manifest", b"{}")),
    "a way out": bare(folder(b"rootfs"), raw(b"rootfs/../x", b"x")),
    "an absolute path": bare(folder(b"rootfs"), raw(b"/etc/passwd", b"x")),
    "the same name twice": bare(folder(b"rootfs"), raw(b"rootfs/a"), raw(b"rootfs/a")),
    "a hard link to the manifest": bare(folder(b"rootfs"), link(b"rootfs/a", b"manifest", b"1")),
    "no root": bare(raw(b"rootfs/a")),
    "a time after 2105": bare(folder(b"rootfs"), raw(b"rootfs/a", mtime=b"77777777777")),
    "more than it says": LEFT + b"more",
    "less than it says": LEFT[:-700],
    "nothing": b"",
    "noise": os.urandom(4096),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_stream_becomes_no_image(exports: Exports, content: bytes) -> None:
    (exports.pod / DISK).write_bytes(content)
    done = exports()
    assert done.status == 254
    assert 'the file system of app "app" makes no image' in done.errors
    assert exports.left() == []


def test_a_file_larger_than_any_image_is_refused_at_its_header(exports: Exports) -> None:
    huge = bare(folder(b"rootfs"), raw(b"rootfs/a", size=b"77777777777"), end=b"")
    (exports.pod / DISK).write_bytes(huge + bytes(4096))
    config = exports.host.folder / "etc" / "images.d"
    config.mkdir(parents=True)
    limits = {"rktKind": "images", "rktVersion": "v1", "maxExpandedBytes": 1 << 30}
    (config / "limits.json").write_text(json.dumps(limits))
    done = exports()
    assert "entry 'rootfs/a' alone has 8589934591" in done.errors
    assert exports.left() == []


def test_a_machine_that_dies_leaves_no_file(exports: Exports) -> None:
    (exports.pod / DISK).write_bytes(BROKEN)
    done = exports()
    assert done.status == 252
    assert "QEMU was ended by SIGKILL" in done.errors
    assert exports.left() == []


def test_a_full_disk_is_named_and_leaves_no_file(
    exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from kvmrkt import exporting

    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(exporting, "write_image", full)
    done = exports()
    assert done.status == 254
    assert f"cannot write {exports.output}: No space left on device" in done.errors
    assert exports.left() == []


def test_how_a_stream_is_cut_makes_no_difference() -> None:
    content = os.urandom(3_000_000).hex().encode()
    stream = bare(folder(b"rootfs"), raw(b"rootfs/a", content))

    def written(step: int) -> tuple[str, bytes]:
        output = io.BytesIO()
        pieces = (stream[at : at + step] for at in range(0, len(stream), step))
        text = json.dumps(manifest()).encode()
        return write_image(text, pieces, output, Limits()), output.getvalue()

    first = written(1 << 18)
    assert written(70_001) == first
    assert written(len(stream)) == first


def test_what_is_written_is_compressed(exports: Exports) -> None:
    exports()
    assert b"by the app" in gzip.decompress(exports.output.read_bytes())
