"""A new file for a person: whole at its name, or not there."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from kvmrkt.errors import ImageError
from kvmrkt.images.unpacking.replace import new_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["unnamed", "named"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder on a file system with files without a name, and on one without."""
    usual = os.open

    def without(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return usual(path, flags, *rest, **options)

    if request.param == "named":
        monkeypatch.setattr(os, "open", without)
    return tmp_path


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_there_once_it_is_whole(folder: Path, *, overwrite: bool) -> None:
    with new_file(folder / "new", overwrite=overwrite) as out:
        out.write(b"content")
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert (folder / "new").read_bytes() == b"content"
    mask = os.umask(0o022)
    os.umask(mask)
    assert (folder / "new").stat().st_mode & 0o777 == 0o666 & ~mask


def test_what_is_there_is_replaced_only_on_request(folder: Path) -> None:
    (folder / "new").write_text("old")
    with pytest.raises(ImageError) as caught, new_file(folder / "new", overwrite=False):
        raise AssertionError
    assert "File exists" in caught.value.causes()[1]
    with new_file(folder / "new", overwrite=True) as out:
        out.write(b"content")
        assert (folder / "new").read_text() == "old"
    assert (folder / "new").read_bytes() == b"content"
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_stays_of_a_failure(folder: Path, *, overwrite: bool) -> None:
    with (
        pytest.raises(ValueError, match="enough"),
        new_file(folder / "new", overwrite=overwrite) as out,
    ):
        out.write(b"content")
        raise ValueError("enough")
    assert list(folder.iterdir()) == []


def test_a_file_has_no_name_that_a_killed_process_could_leave(tmp_path: Path) -> None:
    with new_file(tmp_path / "new", overwrite=False) as out:
        out.write(b"content")
        assert list(tmp_path.iterdir()) == []


def test_a_file_that_somebody_else_made_meanwhile_stays_his(tmp_path: Path) -> None:
    with pytest.raises(ImageError), new_file(tmp_path / "new", overwrite=False) as out:
        out.write(b"content")
        (tmp_path / "new").write_text("his")
    assert (tmp_path / "new").read_text() == "his"
