"""The pod manifest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvmrkt.appc import pod_manifest
from kvmrkt.appc.pod_manifest import PodManifest, RuntimeApp, RuntimeImage, parse_pod_manifest
from kvmrkt.errors import ManifestError

ID = "sha512-" + "a" * 128
APP = {"name": "app", "image": {"id": ID}}


def pod(**fields: Any) -> dict[str, Any]:
    return {"acVersion": "0.8.11", "acKind": "PodManifest", "apps": [APP]} | fields


FAULTS = [
    ("acKind", pod(acKind="ImageManifest")),
    ("acVersion", pod(acVersion="1")),
    ("acVersion", pod(acVersion="1" * 5000 + ".0.0")),
    ("apps[0].name", pod(apps=[APP | {"name": "A"}])),
    ("apps[1].name", pod(apps=[APP, APP])),
    ("apps[0].image.id", pod(apps=[APP | {"image": {"id": "sha512-ab"}}])),
    ("apps[0].image.id", pod(apps=[APP | {"image": {}}])),
    ("apps[0].app.exec[0]", pod(apps=[APP | {"app": {"exec": [""], "user": "0", "group": "0"}}])),
    ("apps[0].mounts[0].volume", pod(apps=[APP | {"mounts": [{"volume": "v", "path": "/a"}]}])),
    ("apps[0].mounts[0].path", pod(apps=[APP | {"mounts": [{"volume": "v", "path": "a"}]}])),
    ("volumes[0].kind", pod(volumes=[{"name": "v", "kind": "nfs"}])),
    ("volumes[0].source", pod(volumes=[{"name": "v", "kind": "host"}])),
    ("volumes[0].source", pod(volumes=[{"name": "v", "kind": "host", "source": "a"}])),
    ("volumes[0].source", pod(volumes=[{"name": "v", "kind": "empty", "source": "/a"}])),
    ("volumes[0].mode", pod(volumes=[{"name": "v", "kind": "empty", "mode": "0999"}])),
    ("volumes[0].uid", pod(volumes=[{"name": "v", "kind": "empty", "uid": -1}])),
    ("volumes[1].name", pod(volumes=[{"name": "v", "kind": "empty"}] * 2)),
    ("ports[0].hostPort", pod(ports=[{"name": "p", "hostPort": 0}])),
]


@pytest.mark.parametrize(("field", "document"), FAULTS)
def test_a_fault_is_named_by_the_path_of_its_field(field: str, document: Any) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_pod_manifest(json.dumps(document).encode())
    assert caught.value.message.startswith(f"{field}: ")


def test_what_is_written_is_read_again() -> None:
    manifest = PodManifest(
        apps=[RuntimeApp("a", RuntimeImage(ID), read_only_root_fs=True)],
        volumes=[pod_manifest.Volume("v", "empty", mode="0755", uid=0, gid=0)],
    )
    written = json.loads(pod_manifest.encode(manifest))
    assert written == {
        "acVersion": "0.8.11",
        "acKind": "PodManifest",
        "apps": [{"name": "a", "image": {"id": ID}, "readOnlyRootFS": True}],
        "volumes": [{"name": "v", "kind": "empty", "mode": "0755", "uid": 0, "gid": 0}],
    }
    again = parse_pod_manifest(json.dumps(written).encode())
    assert again.apps == manifest.apps
    assert again.volumes == manifest.volumes


def test_rkt_wrote_its_own_version_where_the_specifications_belongs() -> None:
    assert parse_pod_manifest(json.dumps(pod(acVersion="1.30.0+git")).encode()).apps


def test_unknown_fields_are_kept() -> None:
    document = pod(apps=[APP | {"x": 1}], y={"z": None})
    assert (
        json.loads(pod_manifest.encode(parse_pod_manifest(json.dumps(document).encode())))
        == document
    )
