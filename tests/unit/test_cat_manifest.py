"""`kvmrkt cat-manifest`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pods_on_disk import fabricate, manifest

from kvmrkt.pods.states import Section

if TYPE_CHECKING:
    from simulated_host import SimulatedHost

UUID = "aaaaaaaa-0000-4000-8000-000000000000"


def test_the_manifest_is_printed_with_tabs_unknown_fields_and_all(host: SimulatedHost) -> None:
    text = manifest("web", unknown="größe")
    fabricate(host.data, Section.PREPARED, UUID).write_pod_manifest(text)
    printed = host("cat-manifest", "AAAA")
    assert (printed.status, json.loads(printed.output)) == (0, json.loads(text))
    assert printed.output.startswith('{\n\t"acVersion"')
    assert "größe" in printed.output


def test_or_on_one_line(host: SimulatedHost) -> None:
    fabricate(host.data, Section.RUN, UUID).write_pod_manifest(manifest("web"))
    printed = host("cat-manifest", "--pretty-print=false", UUID).output
    assert printed.count("\n") == 1
    assert " " not in printed


def test_the_uuid_may_come_from_a_file(host: SimulatedHost) -> None:
    fabricate(host.data, Section.EXITED_GARBAGE, UUID).write_pod_manifest(manifest("web"))
    file = host.folder / "uuid"
    file.write_text(UUID)
    assert "example.com/web" in host("cat-manifest", f"--uuid-file={file}").output


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "give the UUID of a pod, or --uuid-file"),
        ([UUID, UUID], "give the UUID of one pod"),
        (["b"], 'problem retrieving pod: no matches found for "b"'),
        (["--uuid-file=/no/such", UUID], "give the UUID of a pod, or --uuid-file"),
        (["--uuid-file=/no/such"], "unable to resolve UUID from file: /no/such: No such file"),
        ([UUID], f'pod "{UUID}" has no manifest yet'),
    ],
)
def test_what_cannot_be_printed_is_said(host: SimulatedHost, words: list[str], error: str) -> None:
    fabricate(host.data, Section.PREPARE, UUID)
    done = host("cat-manifest", *words)
    assert (done.status, done.output) == (254, "")
    assert done.errors.startswith(f"cat-manifest: {error}")


def test_a_damaged_manifest_is_no_traceback(host: SimulatedHost) -> None:
    fabricate(host.data, Section.RUN, UUID).write_pod_manifest(b"{")
    done = host("cat-manifest", UUID)
    assert done.status == 254
    assert done.errors.startswith(f'cat-manifest: the manifest of pod "{UUID}" is damaged')
