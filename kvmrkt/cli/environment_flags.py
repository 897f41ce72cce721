"""Variables for apps: `--set-env`, `--set-env-file`, `--environment`, `--inherit-env`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kvmrkt.appc.image_manifest import is_environment_name
from kvmrkt.cli.command import note
from kvmrkt.cli.flags import faulty
from kvmrkt.errors import describe

if TYPE_CHECKING:
    from pathlib import Path

    from kvmrkt.pods.request import Pairs

_MAX_FILE_BYTES = 1 << 20
"""More than a program could be started with."""


def parse_pairs(words: tuple[str, ...], flag: str) -> Pairs:
    """`NAME=VALUE` flags, a later one in place of an earlier; raises UsageError."""
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise faulty(flag, word, f'invalid format of {flag} flag "{word}"',
                         hint="write NAME=VALUE")  # fmt: skip
        pairs[name] = text
    return tuple(pairs.items())


def pod_environment(words: tuple[str, ...], files: tuple[Path, ...]) -> Pairs:
    """The variables of `--set-env` and, below them, of `--set-env-file`; raises UsageError.

    Neither the flags nor the files may set a variable twice, as in rkt.
    """
    from_files: dict[str, str] = {}
    for file in files:
        _read(file, from_files)
    from_flags: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise faulty("--set-env", word, "must be specified as key=value")
        if name in from_flags:
            raise faulty("--set-env", word, f'key "{name}" already set')
        from_flags[name] = text
    return tuple((from_files | from_flags).items())


def _read(file: Path, variables: dict[str, str]) -> None:
    flag = "--set-env-file"
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_FILE_BYTES + 1)
        text = content.decode()
    except UnicodeDecodeError as error:
        raise faulty(flag, str(file), f"not UTF-8 at byte {error.start}") from None
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise faulty(flag, str(file), describe(error)) from None
    if len(content) > _MAX_FILE_BYTES:
        raise faulty(flag, str(file), f"larger than {_MAX_FILE_BYTES} bytes")
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if not line.strip() or line.startswith(("#", ";")):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name:
            raise faulty(
                flag, str(file),
                f'environment variable must be specified as name=value, not "{line[:80]}"',
            )  # fmt: skip
        if name in variables:
            raise faulty(flag, str(file), f'environment variable "{name}" already set')
        variables[name] = value


def inherited_environment() -> Pairs:
    """This process's variables, less those that no app could be given, with a note on each."""
    pairs = []
    for name, value in os.environ.items():
        try:
            value.encode()
        except UnicodeEncodeError:
            note(f'the variable "{name}" is not inherited: its value is not UTF-8')
            continue
        if is_environment_name(name):
            pairs.append((name, value))
        else:
            note(f'the variable "{ascii(name)[1:-1]}" is not inherited: no app can have that name')
    return tuple(pairs)
