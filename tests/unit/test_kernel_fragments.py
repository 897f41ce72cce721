"""The kernel's fragments: what they ask for is checked against what the kernel took."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

KERNEL_CONFIG = Path(__file__).parents[2] / "kernel-config"


def _load() -> ModuleType:
    # The folder is no package, and its other modules have names that others use as well.
    spec = importlib.util.spec_from_file_location(
        "kernel_fragments", KERNEL_CONFIG / "fragments.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fragments = _load()
V6_1 = fragments.KernelVersion(6, 1)
V6_12 = fragments.KernelVersion.parse("6.12.117")


def _requests(tmp_path: Path, text: str, version: object = V6_12) -> list[str]:
    file = tmp_path / "some.config"
    file.write_text(text)
    return [request.line() for request in fragments.read_requests([file], version)]


def test_marks_limit_a_line_to_versions(tmp_path: Path) -> None:
    text = (
        "CONFIG_NEW=y  # since 6.9\n"
        "CONFIG_OLD=y  # until 6.8\n"
        "# CONFIG_OFF is not set  # since 6.2\n"
    )
    assert _requests(tmp_path, text) == ["CONFIG_NEW=y", "# CONFIG_OFF is not set"]
    assert _requests(tmp_path, text, V6_1) == ["CONFIG_OLD=y"]


def test_a_later_word_counts(tmp_path: Path) -> None:
    text = "CONFIG_A=y\n# CONFIG_A is not set\n"
    assert _requests(tmp_path, text) == ["# CONFIG_A is not set"]


@pytest.mark.parametrize("line", ["CONFIG_A = y", "A=y", "# CONFIG_A is unset"])
def test_a_line_that_says_nothing_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(fragments.FragmentError, match="some.config:1"):
        _requests(tmp_path, line + "\n")


def test_every_symbol_that_did_not_take_is_named() -> None:
    requests = [
        fragments.Request("TAKEN", "y", "a:1"),
        fragments.Request("MISSPELT", "y", "a:2"),
        fragments.Request("OTHER", "250", "a:3"),
        fragments.Request("STILL_ON", None, "a:4"),
        fragments.Request("GONE", None, "a:5"),
        fragments.Request("OFF_AND_MISSPELT", None, "a:6"),
    ]
    defined = frozenset({"TAKEN", "OTHER", "STILL_ON", "GONE"})
    final = "CONFIG_TAKEN=y\nCONFIG_OTHER=100\nCONFIG_STILL_ON=y\n# CONFIG_GONE is not set\n"
    complaints = fragments.refused(requests, final, defined)
    assert [complaint.partition(": ")[0] for complaint in complaints] == [
        "a:2",
        "a:3",
        "a:4",
        "a:6",
    ]


@pytest.mark.parametrize("variant", ["kvm", "tcg"])
@pytest.mark.parametrize("version", [V6_1, V6_12])
def test_the_fragments_can_be_read(variant: str, version: object) -> None:
    files = fragments.fragment_files(KERNEL_CONFIG, "x86_64", variant, debug=False)
    requests = {r.symbol: r.value for r in fragments.read_requests(files, version)}
    assert requests["VIRTIO_MMIO"] == "y"
    assert requests["CPU_MITIGATIONS"] == ("y" if variant == "kvm" else None)


def test_the_defined_symbols_of_a_tree(tmp_path: Path) -> None:
    (tmp_path / "drivers").mkdir()
    (tmp_path / "Kconfig").write_text("config A\n\tbool\n\n# config B\n")
    (tmp_path / "drivers" / "Kconfig.more").write_text("menuconfig C\nif C\n\tconfig D\nendif\n")
    assert fragments.defined_symbols(tmp_path) == {"A", "C", "D"}


def test_an_unknown_variant_names_the_known_ones() -> None:
    with pytest.raises(fragments.FragmentError, match="kvm, tcg"):
        fragments.fragment_files(KERNEL_CONFIG, "x86_64", "xen", debug=False)


def test_comments_do_not_change_the_cache_key(tmp_path: Path) -> None:
    file = tmp_path / "some.config"
    file.write_text("# why\nCONFIG_A=y\n")
    first = fragments.significant_lines([file])
    file.write_text("# another why\n\nCONFIG_A=y\n")
    assert fragments.significant_lines([file]) == first
