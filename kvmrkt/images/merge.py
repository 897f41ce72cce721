"""Laying archives over one another: several in, one tar stream of an App Container image out.

Serves an image with its dependencies (appc/spec, ace.md) and the layers of a docker or OCI image
(OCI image-spec, layer.md). Nothing is unpacked: a tree in memory says for every path which entry
of which archive it is, and the stream is written from that.

The two differ in three ways. Docker's layers remove with whiteouts what lies below them. A path
through a symbolic link of a lower layer is followed in docker's layers, as docker's own unpacking
does, and replaces the link in App Container images, as rkt did. And only the latter have path
whitelists.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmrkt.errors import ArchiveError
from kvmrkt.images import tar
from kvmrkt.images.tar_headers import END, header, member_header, padded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_LAYER_BITS = 10
_LAYER_MASK = (1 << _LAYER_BITS) - 1
_IMPLIED: Final = -1
_MAX_LINKS_FOLLOWED = 40  # as the kernel, path_resolution(7)
_BUFFER_BYTES = 1 << 20
_ROOTFS = b"rootfs"


class Layer(NamedTuple):
    """One archive to lay over those before it.

    An App Container image's has its files below `rootfs/`; a docker layer's are bare. The
    whitelist holds paths inside the root filesystem; None lets all pass.
    """

    archive: Path
    """An uncompressed tar archive."""
    docker: bool = False
    whitelist: frozenset[bytes] | None = None


class _Folder:
    """A folder of the merged tree. Its children are folders, or the mark of an entry.

    A mark says which layer laid the name (the low bits), and where the entry's content is:
    block and layer of its header. The two layers differ for hard links into lower layers.
    """

    __slots__ = ("children", "mark", "pruned")

    def __init__(self, mark: int) -> None:
        self.mark = mark
        self.children: dict[bytes, _Folder | int] = {}
        self.pruned = -1


@contextmanager
def merged(layers: Sequence[Layer], limits: tar.Limits) -> Iterator[MergedTree]:
    """The tree of all layers, the lowest first; their files stay open while the body runs.

    Raises ArchiveError for a layer that is damaged, hostile or does not fit on those below it.
    """
    if len(layers) > _LAYER_MASK:
        raise ArchiveError(f"an image of {len(layers)} layers; the limit is {_LAYER_MASK}")
    with ExitStack() as stack:
        tree = MergedTree(limits)
        for layer in layers:
            file = stack.enter_context(layer.archive.open("rb", buffering=0))
            tree.lay(layer, tar.FileSource(file))
        yield tree


class MergedTree:
    """What several archives add up to."""

    def __init__(self, limits: tar.Limits) -> None:
        """An empty tree; `limits` bound the sum of all layers."""
        self._limits = limits
        self._sources: list[tar.FileSource] = []
        self._root = _Folder(_implied(0))
        self._shared: set[int] = set()
        self._link_targets: dict[int, bytes | None] = {}
        self.entries = 0
        self.newest_seconds = 0

    def lay(self, layer: Layer, source: tar.FileSource) -> None:
        """Lay an archive over what is there."""
        number = len(self._sources)
        self._sources.append(source)
        parents = _parents_of(layer.whitelist)
        unlisted: dict[bytes, int] = {}
        for entry in tar.walk(source, self._limits):
            self.entries += 1
            if self.entries > self._limits.entries:
                raise ArchiveError(f"the layers have more than {self._limits.entries} entries")
            name = entry.name if layer.docker else _below_rootfs(entry.name)
            if name is None:
                continue
            seconds = min(entry.mtime_seconds, tar.MAX_SECONDS)
            self.newest_seconds = max(self.newest_seconds, seconds)
            if layer.whitelist is not None and name and name not in layer.whitelist:
                if entry.kind != tar.DIRECTORY:
                    unlisted[name] = self._mark(layer, entry, number, unlisted)
                    continue
                if name not in parents:
                    continue
            self._lay(layer, name, entry, number, unlisted)

    def write(self, manifest: bytes, sink: Callable[[bytes], object]) -> None:
        """Write the tree as an App Container image, in pieces, the same tree always alike."""
        out = _Buffer(sink)
        out.add(
            header(
                b"manifest",
                tar.REGULAR,
                size_bytes=len(manifest),
                mtime_seconds=self.newest_seconds,
            )
        )
        out.add(padded(manifest))
        written: dict[int, bytes] = {}
        for name, node in self._nodes():
            if isinstance(node, _Folder):
                out.add(self._folder_header(name, node))
            else:
                self._write_entry(name, node >> _LAYER_BITS, written, out)
        out.add(END)
        out.flush()

    def _lay(
        self,
        layer: Layer,
        name: bytes,
        entry: tar.Entry,
        number: int,
        unlisted: dict[bytes, int],
    ) -> None:
        if not name:
            if entry.kind != tar.DIRECTORY:
                raise ArchiveError("the top of a layer is not a folder")
            self._root.mark = _mark(entry, number)
            return
        above, _, last = name.rpartition(b"/")
        if layer.docker and last.startswith(_WHITEOUT):
            self._white_out(above, last, number)
            return
        if layer.docker and name == b"dev" and entry.kind != tar.DIRECTORY:
            raise ArchiveError("/dev is not a folder")  # as docker2aci: no app could start there
        folder = self._folder(above, number, follow=layer.docker, make=True)
        assert folder is not None
        old = folder.children.get(last)
        if entry.kind != tar.DIRECTORY:
            folder.children[last] = self._mark(layer, entry, number, unlisted)
        elif isinstance(old, _Folder):
            old.mark = _mark(entry, number)
        else:
            folder.children[last] = _Folder(_mark(entry, number))

    def _mark(self, layer: Layer, entry: tar.Entry, number: int, unlisted: dict[bytes, int]) -> int:
        """The mark of an entry that is no folder; a hard link's is its file's."""
        if entry.kind != tar.HARD_LINK:
            return _mark(entry, number)
        target = b"/".join(part for part in entry.link.split(b"/") if part not in (b"", b"."))
        inner = target if layer.docker else _below_rootfs(target)
        found = unlisted.get(inner) if inner else None
        if found is None and inner:
            above, _, last = inner.rpartition(b"/")
            folder = self._folder(above, number, follow=layer.docker, make=False)
            node = folder.children.get(last) if folder is not None else None
            found = node if isinstance(node, int) else None
        if found is None:
            raise ArchiveError(
                f"hard link {entry.shown} points to {tar.show(entry.link)}, which is no file"
                " of this or a lower layer"
            )
        self._shared.add(found >> _LAYER_BITS)
        return found & ~_LAYER_MASK | number

    def _folder(self, path: bytes, number: int, *, follow: bool, make: bool) -> _Folder | None:
        """The folder at a path; links are followed beneath the root only, or replaced."""
        way = [self._root]
        pending = path.split(b"/")[::-1] if path else []
        followed = 0
        while pending:
            part = pending.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                del way[max(1, len(way) - 1) :]
                continue
            child = way[-1].children.get(part)
            target = self._link_target(child) if follow and isinstance(child, int) else None
            if target is not None:
                followed += 1
                if followed > _MAX_LINKS_FOLLOWED:
                    raise ArchiveError(f"{tar.show(path)} goes through too many symbolic links")
                if target.startswith(b"/"):
                    way = [self._root]
                pending += target.split(b"/")[::-1]
                continue
            if not isinstance(child, _Folder):
                if not make:
                    return None
                if follow and child is not None:
                    raise ArchiveError(f"an entry lies below {tar.show(path)}, which is no folder")
                child = way[-1].children[part] = _Folder(_implied(number))
            way.append(child)
        return way[-1]

    def _link_target(self, mark: int) -> bytes | None:
        """Where a symbolic link leads; None for what is none."""
        place = mark >> _LAYER_BITS
        if place not in self._link_targets:
            entry = self._member(place)[1].entry
            self._link_targets[place] = entry.link if entry.kind == tar.SYMLINK else None
        return self._link_targets[place]

    def _white_out(self, above: bytes, last: bytes, number: int) -> None:
        """Remove what lower layers have; what this layer itself lays stays, in any order."""
        hidden = last.removeprefix(_WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise ArchiveError(f"a whiteout names {tar.show(hidden)}")
        folder = self._folder(above, number, follow=True, make=False)
        if folder is None:
            return
        if last == _OPAQUE:
            _prune(folder, number)
        elif not hidden.startswith(_WHITEOUT):  # else one of aufs's own records
            _prune_child(folder, hidden, number)

    def _nodes(self) -> Iterator[tuple[bytes, _Folder | int]]:
        """Every name of the tree, folders before what is in them, siblings sorted."""
        yield _ROOTFS, self._root
        stack = [(_ROOTFS, self._root, iter(sorted(self._root.children)))]
        while stack:
            path, folder, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
                continue
            full, child = path + b"/" + name, folder.children[name]
            if len(full) > self._limits.path_bytes:
                raise ArchiveError(f"a path has {len(full)} bytes: {tar.show(full[:64])}…")
            yield full, child
            if isinstance(child, _Folder):
                stack.append((full, child, iter(sorted(child.children))))

    def _folder_header(self, name: bytes, folder: _Folder) -> bytes:
        place = folder.mark >> _LAYER_BITS
        if place == _IMPLIED:
            return header(name, tar.DIRECTORY, mode=0o755, mtime_seconds=self.newest_seconds)
        return member_header(self._member(place)[1], name)

    def _write_entry(
        self, name: bytes, place: int, written: dict[int, bytes], out: _Buffer
    ) -> None:
        source, member = self._member(place)
        if place in self._shared:
            first = written.setdefault(place, name)
            if first != name:
                out.add(member_header(member, name, hard_link_to=first))
                return
        out.add(member_header(member, name))
        left = member.entry.size_bytes
        while left:
            piece = source.read(min(left, _BUFFER_BYTES))
            left -= len(piece)
            out.add(piece)
        out.add(bytes(-member.entry.size_bytes % tar.BLOCK_BYTES))

    def _member(self, place: int) -> tuple[tar.FileSource, tar.Member]:
        source = self._sources[place & _LAYER_MASK]
        source.seek((place >> _LAYER_BITS) * tar.BLOCK_BYTES)
        return source, tar.read_member(source, self._limits)


class _Buffer:
    """Gathers small pieces into larger ones."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        self._sink(b"".join(self._pieces))
        self._pieces.clear()
        self._size = 0


def _mark(entry: tar.Entry, number: int) -> int:
    place = entry.header_at // tar.BLOCK_BYTES << _LAYER_BITS | number
    return place << _LAYER_BITS | number


def _implied(number: int) -> int:
    """The mark of a folder that no archive has an entry for."""
    return _IMPLIED << _LAYER_BITS | number


def _below_rootfs(name: bytes) -> bytes | None:
    """The path inside the root filesystem, b"" for its top; None for what lies outside."""
    if name == _ROOTFS:
        return b""
    return name.removeprefix(b"rootfs/") if name.startswith(b"rootfs/") else None


def _parents_of(whitelist: frozenset[bytes] | None) -> set[bytes]:
    return {
        path[:at] for path in whitelist or () for at, byte in enumerate(path) if byte == ord("/")
    }


def _prune_child(folder: _Folder, name: bytes, number: int) -> None:
    """Remove what lower layers have at a name in a folder."""
    child = folder.children.get(name)
    if isinstance(child, _Folder):
        _prune(child, number)
    if child is not None:
        _prune_shallow(folder, name, number)


def _prune(top: _Folder, number: int) -> None:
    """Remove all below a folder that layers before `number` laid.

    A folder is gone through once a layer: what the layer adds afterwards is its own.
    """
    folders = [top]
    for folder in folders:  # grows while it is gone through: parents come before children
        if folder.pruned != number:
            folders += [child for child in folder.children.values() if isinstance(child, _Folder)]
    for folder in reversed(folders):
        if folder.pruned == number:
            continue
        folder.pruned = number
        for name in list(folder.children):
            _prune_shallow(folder, name, number)


def _prune_shallow(folder: _Folder, name: bytes, number: int) -> None:
    """As `_prune_child`, for a child whose own children have been seen to."""
    child = folder.children[name]
    mark = child.mark if isinstance(child, _Folder) else child
    if mark & _LAYER_MASK >= number:
        return
    if isinstance(child, _Folder) and child.children:
        child.mark = _implied(number)
    else:
        del folder.children[name]
