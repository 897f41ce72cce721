"""`fetch` and the `image` commands, as a script sees them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from aci_files import entry, manifest, write_aci

from kvmrkt.cli import main
from kvmrkt.cli.image_list import human_size


@pytest.fixture
def kvmrkt(tmp_path: Path, capfd: Any) -> Any:
    """Run a command line on a data directory of its own: (status, stdout, stderr)."""

    def run(*words: str) -> tuple[int, str, str]:
        status = main.run([f"--dir={tmp_path}/data", "--insecure-options=image", *words])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def images(kvmrkt: Any, tmp_path: Path) -> list[str]:
    """Two images in the store; their IDs with 64 digits."""
    small = write_aci(tmp_path / "a.aci")
    large = write_aci(
        tmp_path / "b.aci",
        entry("rootfs/a", b"x" * 3_000_000),
        document=manifest(name="b", labels=[]),
    )
    status, out, _ = kvmrkt("fetch", "--full", str(small), str(large))
    assert status == 0
    return str(out).split()


def test_fetch_prints_the_id_alone_on_standard_output(kvmrkt: Any, tmp_path: Path) -> None:
    path = write_aci(tmp_path / "a.aci")
    status, out, err = kvmrkt("fetch", str(path))
    assert status == 0
    assert re.fullmatch(r"sha512-[0-9a-f]{32}\n", out)
    assert "fetch: warning: image signature verification has been disabled" in err
    assert list((tmp_path / "data/cas/tree").glob("*.squashfs"))
    status, out, _ = kvmrkt("fetch", str(path), "--full")
    assert re.fullmatch(r"sha512-[0-9a-f]{64}\n", out)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "must provide at least one image"),
        (("a.aci", "--", "x"), "app arguments unsupported"),
        (("--store-only", "--no-store", "a.aci"), "both --store-only and --no-store specified"),
        (("/nowhere.aci",), "fetch: open /nowhere.aci: no such file or directory"),
        (("--store-only", "example.com/app"), "fetch: unable to fetch image"),
    ],
)
def test_fetch_fails_clearly(kvmrkt: Any, words: tuple[str, ...], text: str) -> None:
    status, out, err = kvmrkt("fetch", *words)
    assert (status, out) == (254, "")
    assert text in err
    assert "Traceback" not in err


def test_fetch_of_a_bad_image_names_the_cause_once(kvmrkt: Any, tmp_path: Path) -> None:
    path = write_aci(tmp_path / "a.aci", document=manifest(name="BAD"))
    status, _, err = kvmrkt("fetch", str(path))
    assert status == 254
    assert err.count("is not an AC Identifier") == 1
    assert f'"{path}" is not a usable App Container image: its manifest is wrong: name: ' in err


def test_without_the_option_an_unsigned_image_is_refused(tmp_path: Path, capfd: Any) -> None:
    path = write_aci(tmp_path / "a.aci")
    assert main.run([f"--dir={tmp_path}/data", "fetch", str(path)]) == 254
    assert "--insecure-options=image" in capfd.readouterr().err


def test_list(kvmrkt: Any, images: list[str]) -> None:
    status, out, _ = kvmrkt("image", "list")
    lines = [re.split(r"\t+", line) for line in out.splitlines()]
    assert status == 0
    assert lines[0] == ["ID", "NAME", "SIZE", "IMPORT TIME", "LAST USED"]
    assert lines[1][:2] == [images[0][:19], "example.com/app:1.0"]
    assert lines[2][:3] == [images[1][:19], "b", "2.9MiB"]
    assert "ago" in lines[1][3] or lines[1][3] == "now"


def test_list_in_full_and_sorted(kvmrkt: Any, images: list[str]) -> None:
    words = ("--full", "--no-legend", "--sort=size", "--order=desc", "--fields=id,importtime")
    out = kvmrkt("im", "li", *words)[1]
    lines = [re.split(r"\t+", line) for line in out.splitlines()]
    assert [line[0] for line in lines] == images[::-1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,3})? [+-]\d{4} \S+", lines[0][1])


def test_list_as_json(kvmrkt: Any, images: list[str]) -> None:
    entries = json.loads(kvmrkt("image", "list", "--format=json")[1])
    assert [item["id"] for item in entries] == images
    assert set(entries[0]) == {"id", "name", "import_time", "last_used_time", "size"}
    assert entries[0]["import_time"] > 10**18


def test_list_of_an_empty_store(kvmrkt: Any) -> None:
    assert kvmrkt("image", "list")[1] == "ID\tNAME\tSIZE\tIMPORT TIME\tLAST USED\n"
    assert kvmrkt("image", "list", "--format=json")[1] == "null\n"


@pytest.mark.parametrize("flag", ["--fields=id,x", "--sort=x", "--order=x", "--format=x"])
def test_list_refuses_unknown_words(kvmrkt: Any, flag: str) -> None:
    status, _, err = kvmrkt("image", "list", flag)
    assert status == 254
    assert flag.partition("=")[0] in err


def test_rm(kvmrkt: Any, images: list[str]) -> None:
    status, out, err = kvmrkt("image", "rm", images[0][:12], "nothing", "b")
    assert status == 0  # as with rkt
    assert out == "".join(f'successfully removed aci for image: "{key}"\n' for key in images)
    assert 'rm: no image IDs found: nothing in the store is "nothing"' in err
    assert "rm: 2 image(s) successfully removed" in err


def test_cat_manifest(kvmrkt: Any, images: list[str]) -> None:
    out = kvmrkt("image", "cat-manifest", "b")[1]
    assert out.startswith('{\n\t"acKind"')
    assert json.loads(out)["name"] == "b"
    assert kvmrkt("image", "cat-manifest", "--pretty-print=false", "b")[1].count("\n") == 1
    status, _, err = kvmrkt("image", "cat-manifest", "sha512-" + "0" * 20)
    assert (status, "cat-manifest: no image IDs found" in err) == (254, True)


def test_gc(kvmrkt: Any, images: list[str], tmp_path: Path) -> None:
    assert kvmrkt("image", "gc")[1] == ""
    for path in (tmp_path / "data/cas/imageManifest").rglob("sha512-*"):
        os.utime(path, (5, 5))
    out = kvmrkt("image", "gc", "--grace-period=1h")[1]
    assert f'successfully removed aci for image: "{images[0]}"' in out
    assert out.count("removed treestore") == 2


def test_the_group(kvmrkt: Any) -> None:
    assert "cat-manifest" in kvmrkt("image")[1]
    status, _, err = kvmrkt("image", "nosuch")
    assert status == 254
    assert 'unknown command "nosuch" for "kvmrkt image"' in err


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (9, "9B"),
        (1023, "1023B"),
        (1024, "1.0KiB"),
        (1536, "1.5KiB"),
        (20 << 20, "20MiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert human_size(size) == text
