"""Completion scripts: bash's is run, the others hold what they should."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from kvmrkt.cli.main import COMMANDS, run

if TYPE_CHECKING:
    from pathlib import Path

UUIDS = ("aaaaaaaa-0000-4000-8000-000000000000", "abbbbbbb-0000-4000-8000-000000000000")


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["completion", shell]) == 0
    return capsys.readouterr().out


PROBE = """
kvmrkt() {
    [[ "$*" == "list --full --no-legend" ]] && printf '%s\\tapp\\n' UUIDS
    [[ "$*" == "image list"* ]] && echo example.com/app:v1
    return 0
}
. "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_kvmrkt
printf '%s\\n' "${COMPREPLY[@]}"
""".replace("UUIDS", " ".join(UUIDS))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["kvmrkt", "st"], ["status", "stop"]),
        (["kvmrkt", "image", "ex"], ["export", "extract"]),
        (["kvmrkt", "status", "--wa"], ["--wait", "--wait-ready"]),
        (["kvmrkt", "run", "--vol"], ["--volume"]),
        (["kvmrkt", "run", "x.aci", "--ex"], ["--exec"]),
        (["kvmrkt", "status", "a"], list(UUIDS)),
        (["kvmrkt", "logs", "-f", "ab"], [UUIDS[1]]),
        (["kvmrkt", "image", "rm", ""], ["example.com/app:v1"]),
        (["kvmrkt", "rm", "a"], list(UUIDS)),
        (["kvmrkt", "--dir", "status", "sto"], ["stop"]),
        (["kvmrkt", "--dir", "=", "image", "sto"], ["stop"]),
        (["kvmrkt", "--debug", "--dir", ""], [""]),
        (["kvmrkt", "--dir", "=", "/v"], [""]),
        (["kvmrkt", "run", "./im"], [""]),
        (["kvmrkt", "nosuch"], [""]),
    ],
)
def test_bash_completes(
    words: list[str], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kvmrkt"
    file.write_text(script("bash", capsys))
    done = subprocess.run(
        ["bash", "--norc", "-c", PROBE, "bash", file, *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_knows_every_command_and_flag(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = script(shell, capsys)
    flags = ["wait-ready", "volume", "exec", "insecure-options", "grace-period"]
    for word in (*COMMANDS, "extract", *flags):
        assert word in text
    assert "kvmrkt list --full --no-legend" in text


def test_zsh_and_fish_say_what_commands_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'doctor:Check" in script("zsh", capsys)
    fish = script("fish", capsys).splitlines()
    assert "complete -c kvmrkt -n '__kvmrkt_at \"\"' -f -a logs -d " in "\n".join(fish)
    assert "complete -c kvmrkt -n '__kvmrkt_at \"image gc\"' -l grace-period -r" in fish


def test_other_shells_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "tcsh"]) == 254
    assert capsys.readouterr().err.startswith('completion: "tcsh" shell not supported\n')
    assert run(["completion"]) == 254
    assert capsys.readouterr().err == "completion: give one shell: bash, zsh, fish\n"
