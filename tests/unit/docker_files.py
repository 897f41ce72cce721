"""Making Docker and OCI images for tests: documents, layouts, archives, a registry's answers."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import zstandard
from aci_files import entry
from web_server import Answer

from kvmrkt.images.references import DockerReference

if TYPE_CHECKING:
    from pathlib import Path

    from web_server import Server

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

CONTAINER = {
    "Entrypoint": ["/bin/app"],
    "Cmd": ["serve"],
    "Env": ["PATH=/bin"],
    "User": "1:2",
    "WorkingDir": "/srv",
}


def digest_of(data: bytes) -> str:
    """The SHA-256 digest as documents write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer_tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A layer's tar, uncompressed."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as target:
        for info, content in members:
            target.addfile(info, io.BytesIO(content))
    return out.getvalue()


def small_layers() -> list[bytes]:
    """Two layers: the upper one replaces a file of the lower one."""
    lower = layer_tar(entry("bin"), entry("bin/app", b"one"), entry("bin/other", b"other"))
    upper = layer_tar(entry("bin"), entry("bin/app", b"two"))
    return [lower, upper]


def compressed(data: bytes, compression: str) -> bytes:
    """The data as gzip, zstd, or as it is."""
    if compression == "gzip":
        return gzip.compress(data, mtime=0)
    if compression == "zstd":
        return zstandard.compress(data)
    return data


@dataclass
class DockerImage:
    """An image's blobs by digest, and its manifest."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def manifest_bytes(self) -> bytes:
        """The manifest as its digest is made of."""
        return json.dumps(self.manifest).encode()

    @property
    def digest(self) -> str:
        """The digest of the manifest."""
        return digest_of(self.manifest_bytes)

    def add(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Add a blob; returns its descriptor."""
        self.blobs[digest_of(data)] = data
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def docker_image(
    layers: list[bytes] | None = None,
    *,
    compression: str = "gzip",
    docker: bool = False,
    container: dict[str, Any] | None = None,
    **changes: Any,
) -> DockerImage:
    """An image of these layers (lowest first); changes are made to its configuration."""
    image = DockerImage()
    tars = small_layers() if layers is None else layers
    suffix = {"gzip": "+gzip", "zstd": "+zstd"}.get(compression, "")
    layer_type = DOCKER_LAYER if docker else OCI_LAYER + suffix
    image.config = {
        "architecture": "amd64",
        "os": "linux",
        "config": CONTAINER if container is None else container,
        "rootfs": {"type": "layers", "diff_ids": [digest_of(data) for data in tars]},
        **changes,
    }
    config_type = DOCKER_CONFIG if docker else OCI_CONFIG
    image.manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
        "config": image.add(json.dumps(image.config).encode(), config_type),
        "layers": [image.add(compressed(data, compression), layer_type) for data in tars],
    }
    return image


def write_layout(path: Path, image: DockerImage, *, refs: tuple[str, ...] = ("v1",)) -> Path:
    """An OCI layout with the image under each of the names."""
    for name, data in layout_files(image, refs=refs).items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return path


def layout_files(image: DockerImage, *, refs: tuple[str, ...] = ("v1",)) -> dict[str, bytes]:
    """The files of an OCI layout."""
    manifest = image.manifest_bytes
    described = {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": len(manifest)}
    named = [
        {**described, "annotations": {"org.opencontainers.image.ref.name": ref}} for ref in refs
    ]
    index = {"schemaVersion": 2, "manifests": named or [described]}
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index).encode(),
    }
    for digest, data in {**image.blobs, image.digest: manifest}.items():
        files[f"blobs/{digest.replace(':', '/')}"] = data
    return files


def saved_files(
    image: DockerImage, layers: list[bytes], *, tags: tuple[str, ...] = ("app:v1",)
) -> dict[str, bytes]:
    """The files of a `docker save` archive as Docker before 25 made it."""
    config = json.dumps(image.config).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    names = [f"{hashlib.sha256(b'id' + data).hexdigest()}/layer.tar" for data in layers]
    row = {"Config": config_name, "RepoTags": list(tags), "Layers": names}
    files = {config_name: config, "manifest.json": json.dumps([row]).encode()}
    return {**files, **dict(zip(names, layers, strict=True))}


def tar_of(files: dict[str, bytes], *extra: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar of files and of further members."""
    return layer_tar(*(entry(name, data) for name, data in files.items()), *extra)


def publish(server: Server, image: DockerImage) -> None:
    """What a registry without authentication answers about app:v1."""
    base = "/v2/app"
    manifest = Answer(image.manifest_bytes, headers={"Content-Type": image.manifest["mediaType"]})
    server.answers["/v2/"] = Answer(b"{}")
    server.answers[f"{base}/manifests/v1"] = manifest
    server.answers[f"{base}/manifests/{image.digest}"] = manifest
    for digest, data in image.blobs.items():
        server.answers[f"{base}/blobs/{digest}"] = Answer(data)


def reference(server: Server, **changes: Any) -> DockerReference:
    """The reference to app:v1 there."""
    fields = {"registry": f"127.0.0.1:{server.port}", "repository": "app", "tag": "v1", **changes}
    return DockerReference(**fields)
