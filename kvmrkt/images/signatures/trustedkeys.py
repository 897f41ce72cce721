"""The keys trusted to sign images: files in the configuration, as rkt laid them out.

    CONFIG/trustedkeys/root.d/FINGERPRINT              trusted for every image
    CONFIG/trustedkeys/prefix.d/PREFIX/FINGERPRINT     trusted for images of that prefix

An empty file takes back what was read before it; reading order is the system's root.d, the host's
root.d, the system's prefix.d, the host's prefix.d. Prefixes are compared as rkt compares them:
the first path element must be the same, after it a prefix of the text is enough, so that a key for
`example.com/app` is also trusted for the image `example.com/application`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from kvmrkt.appc.types import is_ac_identifier
from kvmrkt.errors import ConfigError, ImageError, KvmrktError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kvmrkt.images.signatures.openpgp import PublicKey

_FOLDER = "trustedkeys"
_FILE_MODE = 0o644
_FOLDER_MODE = 0o755


class TrustedKeys:
    """Two layers of trusted keys, the host's own and the vendor's."""

    def __init__(
        self,
        local_config: Path,
        system_config: Path,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """The folders need not exist; `report` is told of files that are no usable keys."""
        self._local = local_config / _FOLDER
        self._system = system_config / _FOLDER
        self._report = report
        self._reported: set[str] = set()

    def for_name(self, name: str) -> list[PublicKey]:
        """The keys trusted for an image of that name.

        Raises ConfigError if a folder cannot be read.
        """
        return self._keys([*self._root_folders(), *self._prefix_folders(name)])

    def all(self) -> list[PublicKey]:
        """The keys trusted for any image at all: all that count before a name is known."""
        found = {key.fingerprint: key for key in self._keys(self._root_folders())}
        for prefix in sorted(self._prefixes()):
            found.update((key.fingerprint, key) for key in self.for_name(prefix))
        return list(found.values())

    def has_prefix_keys(self, name: str) -> bool:
        """Whether a key is trusted for a prefix of the name, root keys aside."""
        return bool(self._keys(self._prefix_folders(name)))

    def add(self, key: PublicKey, prefix: str | None) -> Path:
        """Trust a key on this host for a prefix, or for every image; returns the key's file.

        Raises UsageError for what is no prefix, ConfigError if the file cannot be written.
        """
        if prefix is None:
            folder = self._local / "root.d"
        else:
            check_prefix(prefix)
            folder = self._local / "prefix.d" / prefix
        path = folder / key.fingerprint
        try:
            folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            _write(path, key.armored)
        except OSError as error:
            what = "root key" if prefix is None else f'key for prefix "{prefix}"'
            hint = "run this as root" if isinstance(error, PermissionError) else None
            raise ConfigError(f"error adding {what}", hint=hint) from error
        return path

    def _root_folders(self) -> list[Path]:
        return [self._system / "root.d", self._local / "root.d"]

    def _prefix_folders(self, name: str) -> Iterator[Path]:
        """Every folder whose keys count for the name, in reading order."""
        first = name.partition("/")[0]
        if not is_ac_identifier(name):
            return
        for layer in (self._system, self._local):
            base = layer / "prefix.d"
            wanted = str(base / name)
            for folder in _folders(base / first):
                if wanted.startswith(str(folder)):
                    yield folder

    def _prefixes(self) -> set[str]:
        bases = [layer / "prefix.d" for layer in (self._system, self._local)]
        return {
            str(folder.relative_to(base))
            for base in bases
            for folder in _folders(base)
            if folder != base
        }

    def _keys(self, folders: Iterable[Path]) -> list[PublicKey]:
        """The keys of the folders; a later file of a fingerprint replaces an earlier one."""
        trusted: dict[str, PublicKey] = {}
        for folder in folders:
            for path in _files(folder):
                self._read(path, trusted)
        return list(trusted.values())

    def _read(self, path: Path, trusted: dict[str, PublicKey]) -> None:
        """Add the key of a file, or take back the key that an empty file names."""
        from kvmrkt.images.signatures.openpgp import read_keys

        try:
            data = read_key_file(path)
            if not data:
                trusted.pop(path.name, None)
                return
            key = read_keys(data, str(path))[0]
        except KvmrktError as error:
            self._ignore(": ".join(error.causes()))
            return
        if key.fingerprint == path.name:
            trusted[key.fingerprint] = key
        else:
            self._ignore(f"{path}: the file's name is not its key's fingerprint, {key.fingerprint}")

    def _ignore(self, why: str) -> None:
        if why not in self._reported:
            self._reported.add(why)
            self._report(f"warning: ignoring a trusted key: {why}")


def check_prefix(prefix: str) -> None:
    """Raise UsageError unless the text can be the beginning of image names."""
    scheme, mark, _ = prefix.partition("://")
    if mark:
        raise UsageError(f"--prefix must not contain a URL scheme, omit {scheme}://")
    if not is_ac_identifier(prefix):
        raise UsageError(
            f'invalid prefix "{prefix}": not the beginning of an image name',
            hint="write it as in example.com/app: lowercase letters and digits, separated by"
            " single - . _ ~ /",
        )


def read_key_file(path: Path) -> bytes:
    """The content of a key's file. Raises ImageError if it cannot be read or is too large."""
    from kvmrkt.images.signatures.packets import MAX_BYTES

    try:
        # A FIFO or a device must not make anybody wait.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ImageError(f"open {path}: not a regular file")
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ImageError(f"open {path}: {reason}") from None
    except ValueError as error:  # a NUL in the path
        raise ImageError(f"cannot open the file: {error}") from None
    if len(data) > MAX_BYTES:
        raise ImageError(f"open {path}: larger than {MAX_BYTES} bytes")
    return data


def _folders(top: Path) -> Iterator[Path]:
    """The folder and all below it, in order; nothing if it does not exist."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise ConfigError("cannot read the trusted keys") from error

    for folder, below, _ in os.walk(top, onerror=refuse):
        below.sort()
        yield Path(folder)


def _files(folder: Path) -> list[Path]:
    """The files of a folder in order, hidden ones aside; nothing if it does not exist."""
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and not entry.is_dir()
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError("cannot read the trusted keys") from error
    return [folder / name for name in sorted(names)]


def _write(path: Path, content: bytes) -> None:
    """Put the content in place at once, readable by all."""
    import tempfile

    descriptor, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(descriptor, _FILE_MODE)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
