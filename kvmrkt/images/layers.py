"""Laying images over one another: several archives in, one tar stream out.

Only images with dependencies or a whitelist come here; their entries pass through Python one by
one. A later image's entry replaces an earlier one's at the same path whatever either is; a
symbolic link in the way is replaced, never followed.
"""

from __future__ import annotations

import copy
import tarfile
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmrkt.images.closure import Layer

_ROOTFS = "rootfs"
_FOLDER_MODE = 0o755
_NAME_HEADERS = ("path", "linkpath", "size")


@dataclass(frozen=True, slots=True)
class _Member:
    layer: int
    info: tarfile.TarInfo


def write_merged(layers: list[Layer], out: IO[bytes], newest_seconds: int) -> None:
    """Write the files of all layers, the last layer's manifest first, as one tar stream."""
    with ExitStack() as stack:
        archives = [
            stack.enter_context(tarfile.open(layer.image.blob_path, "r:")) for layer in layers
        ]
        final: dict[str, _Member] = {}
        for number, layer in enumerate(layers):
            for name, info in _entries(archives[number], layer.whitelist):
                _lay(final, name, _Member(number, info))
        # closed by hand: after an error an end-of-archive would make the rest look whole
        target = tarfile.open(  # noqa: SIM115
            fileobj=out, mode="w|", format=tarfile.PAX_FORMAT
        )
        manifest = archives[-1].getmember(_manifest_name(archives[-1]))
        target.addfile(_renamed(manifest, "manifest"), archives[-1].extractfile(manifest))
        for name in sorted(_folders(final)):
            member = final.get(name)
            target.addfile(
                _folder(name, newest_seconds) if member is None else _renamed(member.info, name)
            )
        _write_files(final, archives, target)
        target.close()


def _entries(
    archive: tarfile.TarFile, whitelist: frozenset[str] | None
) -> Iterator[tuple[str, tarfile.TarInfo]]:
    parents = {
        "/".join(parts[:count])
        for path in whitelist or ()
        for parts in (path.split("/"),)
        for count in range(1, len(parts))
    }
    for info in archive.getmembers():
        name = _clean(info.name)
        if name == _ROOTFS:
            yield name, info
        elif name.startswith(_ROOTFS + "/"):
            inner = name.removeprefix(_ROOTFS + "/")
            wanted = whitelist is None or inner in whitelist
            if wanted or (info.isdir() and inner in parents):
                yield name, info


def _lay(final: dict[str, _Member], name: str, member: _Member) -> None:
    old = final.get(name)
    if old is not None and old.info.isdir() and not member.info.isdir():
        for below in [path for path in final if path.startswith(name + "/")]:
            del final[below]
    final[name] = member
    for parent in _parents(name):
        above = final.get(parent)
        if above is not None and not above.info.isdir():
            del final[parent]


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition("/")[0]:
        yield name


def _folders(final: dict[str, _Member]) -> set[str]:
    folders = {_ROOTFS}
    for name, member in final.items():
        if member.info.isdir():
            folders.add(name)
        folders.update(_parents(name))
    return folders


def _write_files(
    final: dict[str, _Member], archives: list[tarfile.TarFile], target: tarfile.TarFile
) -> None:
    """All that is no folder. A hard link whose file did not stay takes over its content."""
    names = [{_clean(info.name): info for info in archive.getmembers()} for archive in archives]
    written: dict[tuple[int, str], str] = {}
    for name, member in sorted(final.items(), key=lambda item: _place(item[1])):
        if member.info.isdir():
            continue
        archive = archives[member.layer]
        base = member.info
        while base.islnk():  # ends: a hard link points to an earlier entry, checked at import
            base = names[member.layer][_clean(base.linkname)]
        key = (member.layer, _clean(base.name))
        if key in written:
            target.addfile(_link(member.info, name, written[key]))
        elif base.isreg():
            target.addfile(_renamed(base, name), archive.extractfile(base))
        else:
            target.addfile(_renamed(base, name))
        written.setdefault(key, name)


def _place(member: _Member) -> tuple[int, int]:
    return member.layer, member.info.offset


def _renamed(info: tarfile.TarInfo, name: str) -> tarfile.TarInfo:
    """A copy under a clean name; PAX headers would override the name, so those go."""
    new = copy.copy(info)
    new.name = name
    new.pax_headers = {k: v for k, v in info.pax_headers.items() if k not in _NAME_HEADERS}
    return new


def _link(info: tarfile.TarInfo, name: str, to: str) -> tarfile.TarInfo:
    new = _renamed(info, name)
    new.type, new.linkname, new.size = tarfile.LNKTYPE, to, 0
    return new


def _folder(name: str, newest_seconds: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = tarfile.DIRTYPE, _FOLDER_MODE, newest_seconds
    return info


def folder_headers(names: tuple[bytes, ...], newest_seconds: int) -> bytes:
    """The headers of plain folders, to stand before an archive that lacks them."""
    return b"".join(
        _folder(name.decode(errors="surrogateescape"), newest_seconds).tobuf(tarfile.PAX_FORMAT)
        for name in names
    )


def _manifest_name(archive: tarfile.TarFile) -> str:
    return next(name for name in archive.getnames() if _clean(name) == "manifest")


def _clean(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))
