"""From docker and OCI images to images in the store."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aci_files import entry, link
from docker_files import (
    DockerImage,
    compressed,
    digest_of,
    docker_image,
    layer_tar,
    publish,
    reference,
    saved_files,
    small_layers,
    tar_of,
    write_layout,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web_server import Answer, Gate, Server, serving, trust

from kvmrkt.config import InsecureOptions
from kvmrkt.errors import ImageError, KvmrktError, ManifestError, StoreError
from kvmrkt.images.docker.fetch import fetch_docker
from kvmrkt.images.policy import FetchPolicy
from kvmrkt.images.references import DockerArchiveReference, OciLayoutReference
from kvmrkt.images.store import Image, Store
from kvmrkt.images.tar import Limits
from kvmrkt.paths import DataDir

POLICY = FetchPolicy(insecure=InsecureOptions(image=True))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(DataDir(tmp_path / "data"), limits=Limits(expanded_bytes=1 << 20)) as opened:
        yield opened


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    trust(monkeypatch, tmp_path)
    with serving() as running:
        yield running


def fetch_layout(store: Store, path: Path, policy: FetchPolicy = POLICY) -> Image:
    return fetch_docker(store, OciLayoutReference(path), policy=policy)


def fetched(store: Store, tmp_path: Path, image: DockerImage) -> Image:
    return fetch_layout(store, write_layout(tmp_path / "app", image))


def failure(store: Store, tmp_path: Path, image: DockerImage) -> KvmrktError:
    """The error of a fetch, after which the store must be as it was."""
    before = files_of(store)
    with pytest.raises(KvmrktError) as caught:
        fetched(store, tmp_path, image)
    assert files_of(store) == before
    assert store.images() == []
    return caught.value


def reason(store: Store, tmp_path: Path, image: DockerImage) -> str:
    return ": ".join(failure(store, tmp_path, image).causes())


def files_of(store: Store) -> list[str]:
    """The store's files but for those of locks and of the index."""
    cas = store.data.cas
    found = (str(path.relative_to(cas)) for path in cas.rglob("*") if path.is_file())
    return sorted(name for name in found if "locks" not in name and "sqlite" not in name)


def members(image: Image) -> dict[str, tarfile.TarInfo]:
    """What is below rootfs in an image of the store."""
    with image.open_tar() as file, tarfile.open(fileobj=io.BytesIO(file.read())) as tar:
        return {
            info.name.removeprefix("rootfs/"): info
            for info in tar.getmembers()
            if info.name.startswith("rootfs/")
        }


def content(image: Image, name: str) -> bytes:
    with image.open_tar() as file, tarfile.open(fileobj=io.BytesIO(file.read())) as tar:
        member = tar.extractfile(f"rootfs/{name}")
        assert member is not None
        return member.read()


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_the_layers_become_one_image(store: Store, tmp_path: Path, compression: str) -> None:
    image = fetched(store, tmp_path, docker_image(compression=compression))
    assert image.name == "app"
    assert image.labels == {"version": "v1", "os": "linux", "arch": "amd64"}
    assert content(image, "bin/app") == b"two"
    assert content(image, "bin/other") == b"other"
    app = image.manifest().app
    assert app is not None
    assert app.exec == ["/bin/app", "serve"]


def test_an_image_of_a_registry_is_fetched(store: Store, server: Server) -> None:
    publish(server, docker_image())
    image = fetch_docker(store, reference(server), policy=POLICY)
    assert image.name == f"127.0.0.1_{server.port}/app"
    assert content(image, "bin/app") == b"two"


def test_a_saved_image_is_fetched(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "saved.tar"
    path.write_bytes(tar_of(saved_files(docker_image(), small_layers())))
    image = fetch_docker(store, DockerArchiveReference(path), policy=POLICY)
    assert (image.name, image.labels["version"]) == ("app", "v1")
    assert content(image, "bin/app") == b"two"


def test_links_that_programs_in_containers_expect_are_there(store: Store, tmp_path: Path) -> None:
    found = members(fetched(store, tmp_path, docker_image()))
    assert {name: info.linkname for name, info in found.items() if name.startswith("dev/")} == {
        "dev/fd": "/proc/self/fd",
        "dev/stderr": "/dev/console",
        "dev/stdin": "/proc/self/fd/0",
        "dev/stdout": "/dev/console",
    }


def test_an_images_own_links_in_dev_stay(store: Store, tmp_path: Path) -> None:
    layer = layer_tar(entry("dev", mode=0o700), link("dev/stdout", "/proc/self/fd/1"))
    found = members(fetched(store, tmp_path, docker_image([layer])))
    assert found["dev/stdout"].linkname == "/proc/self/fd/1"
    assert found["dev/stderr"].linkname == "/dev/console"
    assert found["dev"].mode == 0o700


def test_an_image_without_layers_is_fetched(store: Store, tmp_path: Path) -> None:
    image = fetched(store, tmp_path, docker_image([]))
    assert set(members(image)) >= {"dev/fd"}


def test_a_layer_without_files_may_be_no_archive_at_all(store: Store, tmp_path: Path) -> None:
    image = fetched(store, tmp_path, docker_image([small_layers()[0], b""], compression="none"))
    assert content(image, "bin/app") == b"one"


@pytest.mark.parametrize("zeros", [0, 5, -700 % 512, -700 % 512 + 512, 5000])
def test_a_layer_need_not_end_as_an_archive_should(
    store: Store, tmp_path: Path, zeros: int
) -> None:
    layer = layer_tar(entry("file", b"x" * 700)).rstrip(b"\0") + bytes(zeros)
    assert content(fetched(store, tmp_path, docker_image([layer])), "file") == b"x" * 700


@pytest.mark.parametrize("size", [100, 512, 700, 1024, 1100])
def test_a_layer_that_ends_within_an_entry_is_truncated(
    store: Store, tmp_path: Path, size: int
) -> None:
    layer = layer_tar(entry("file", b"x" * 700))[:size]
    assert "truncated" in reason(store, tmp_path, docker_image([layer]))


def test_a_tar_that_begins_like_a_compressed_file_is_a_tar(store: Store, tmp_path: Path) -> None:
    layer = layer_tar(entry("BZh-notes", b"text"))
    image = fetched(store, tmp_path, docker_image([layer], compression="none"))
    assert content(image, "BZh-notes") == b"text"


def test_a_layer_compressed_otherwise_than_declared_is_read(store: Store, tmp_path: Path) -> None:
    image = docker_image([small_layers()[0]])
    data = compressed(small_layers()[0], "zstd")
    image.manifest["layers"] = [image.add(data, image.manifest["layers"][0]["mediaType"])]
    assert content(fetched(store, tmp_path, image), "bin/app") == b"one"


def test_the_same_image_is_not_read_again(store: Store, server: Server) -> None:
    publish(server, docker_image())
    first = fetch_docker(store, reference(server), policy=POLICY)
    asked = len(server.asked)
    assert fetch_docker(store, reference(server), policy=POLICY) == first
    assert server.paths()[asked:][-1].endswith(docker_image().manifest["config"]["digest"])
    assert len(server.asked) == asked + 3


def test_a_changed_image_is_read_again(store: Store, server: Server) -> None:
    publish(server, docker_image())
    first = fetch_docker(store, reference(server), policy=POLICY)
    publish(server, docker_image([small_layers()[0]]))
    second = fetch_docker(store, reference(server), policy=POLICY)
    assert first.id != second.id
    assert content(second, "bin/app") == b"one"


def test_an_image_that_was_removed_is_read_again(store: Store, tmp_path: Path) -> None:
    image = docker_image()
    first = fetched(store, tmp_path, image)
    store.remove(first.id)
    assert fetched(store, tmp_path, image).id == first.id


def test_a_layer_that_is_there_twice_is_downloaded_once(store: Store, server: Server) -> None:
    lower, upper = small_layers()
    image = docker_image([lower, upper, lower])
    publish(server, image)
    made = fetch_docker(store, reference(server), policy=POLICY)
    assert content(made, "bin/app") == b"one"
    layers = {f"/v2/app/blobs/{layer['digest']}" for layer in image.manifest["layers"]}
    assert sorted(path for path in server.paths() if path in layers) == sorted(layers)


def test_layers_are_downloaded_at_the_same_time(store: Store, server: Server) -> None:
    layers = [layer_tar(entry(f"file{number}", b"x" * number)) for number in range(3)]
    image = docker_image(layers)
    publish(server, image)
    gates = [Gate(10) for _ in layers]
    for layer, gate in zip(image.manifest["layers"], gates, strict=True):
        data = image.blobs[layer["digest"]]
        server.answers[f"/v2/app/blobs/{layer['digest']}"] = Answer(data, gate=gate)

    def open_when_all_are_on_their_way() -> None:
        for gate in gates:
            gate.reached.wait(60)
        for gate in gates:
            gate.open.set()

    opener = threading.Thread(target=open_when_all_are_on_their_way)
    opener.start()
    try:
        made = fetch_docker(store, reference(server), policy=POLICY)
    finally:
        opener.join()
    assert {"file0", "file1", "file2"} <= set(members(made))


def test_progress_is_told_of_every_layer(store: Store, tmp_path: Path) -> None:
    image = docker_image()
    seen: dict[str, list[int | None]] = {}

    @contextmanager
    def progress(label: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
        seen[label] = [total_bytes]
        yield seen[label].append

    path = write_layout(tmp_path / "app", image)
    fetch_layout(store, path, FetchPolicy(insecure=POLICY.insecure, progress=progress))
    for layer in image.manifest["layers"]:
        total, *pieces = seen[f"layer {layer['digest'][7:19]}"]
        assert total == sum(piece or 0 for piece in pieces) == layer["size"]


def test_the_digest_of_a_layer_may_be_of_another_kind(store: Store, tmp_path: Path) -> None:
    tars = [small_layers()[0]]
    wide = f"sha512:{hashlib.sha512(tars[0]).hexdigest()}"
    image = docker_image(tars, rootfs={"type": "layers", "diff_ids": [wide]})
    assert content(fetched(store, tmp_path, image), "bin/app") == b"one"


def test_a_layer_that_is_not_what_its_digest_says_is_refused(store: Store, tmp_path: Path) -> None:
    image = docker_image()
    digest = image.manifest["layers"][0]["digest"]
    data = compressed(small_layers()[0] + bytes(1024), "gzip")
    image.blobs[digest] = data
    image.manifest["layers"][0]["size"] = len(data)
    shown = reason(store, tmp_path, image)
    assert f"layer {digest[7:19]} cannot be had" in shown
    assert f"the content is not what it should be: it has the digest {digest_of(data)}" in shown


def test_a_layer_whose_tar_is_not_what_the_configuration_says_is_refused(
    store: Store, tmp_path: Path
) -> None:
    lower, upper = small_layers()
    diff_ids = [digest_of(upper), digest_of(lower)]
    image = docker_image(rootfs={"type": "layers", "diff_ids": diff_ids})
    assert "its tar is not what it should be" in reason(store, tmp_path, image)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_layer_of_another_size_is_refused(store: Store, tmp_path: Path, change: int) -> None:
    image = docker_image()
    image.manifest["layers"][1]["size"] += change
    expected = "it is larger than" if change < 0 else "it ends after"
    assert expected in reason(store, tmp_path, image)


def test_data_after_the_compressed_layer_is_checked_too(store: Store, tmp_path: Path) -> None:
    image = docker_image([small_layers()[0]])
    digest = image.manifest["layers"][0]["digest"]
    image.blobs[digest] += b"junk"
    image.manifest["layers"][0]["size"] += 4
    assert "cannot be had" in reason(store, tmp_path, image)


def test_two_tars_for_one_layer_are_a_contradiction(store: Store, tmp_path: Path) -> None:
    lower, upper = small_layers()
    diff_ids = [digest_of(lower), digest_of(upper)]
    image = docker_image([lower, lower], rootfs={"type": "layers", "diff_ids": diff_ids})
    error = failure(store, tmp_path, image)
    assert isinstance(error, ManifestError)
    assert "two different ones" in ": ".join(error.causes())


def test_layers_that_unpack_to_too_much_are_refused(store: Store, tmp_path: Path) -> None:
    bomb = layer_tar(entry("zeros", bytes(700_000)))
    other = layer_tar(entry("more", bytes(700_000)))
    assert "larger than 1048576 bytes, unpacked" in reason(
        store, tmp_path, docker_image([bomb, other])
    )


def test_layers_larger_than_may_be_downloaded_are_not_downloaded(
    store: Store, server: Server
) -> None:
    image = docker_image()
    publish(server, image)
    small = FetchPolicy(insecure=POLICY.insecure, max_download_bytes=100)
    with pytest.raises(ImageError) as caught:
        fetch_docker(store, reference(server), policy=small)
    assert "the limit is 100" in ": ".join(caught.value.causes())
    assert not [
        path for path in server.paths() if path.endswith(image.manifest["layers"][0]["digest"])
    ]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_damaged_compressed_layer_is_refused(
    store: Store, tmp_path: Path, compression: str
) -> None:
    image = docker_image([small_layers()[0]], compression=compression)
    layer = image.manifest["layers"][0]
    data = image.blobs[layer["digest"]]
    damaged = data[: len(data) // 2]
    image.manifest["layers"] = [image.add(damaged, layer["mediaType"])]
    assert "cannot be had" in reason(store, tmp_path, image)


def test_a_layer_that_is_no_archive_is_refused(store: Store, tmp_path: Path) -> None:
    assert "tar" in reason(store, tmp_path, docker_image([b"no tar" * 1000]))


def test_a_configuration_without_a_good_manifest_is_refused(store: Store, tmp_path: Path) -> None:
    image = docker_image(container={"WorkingDir": "relative"})
    assert "app.workingDirectory: 'relative'" in reason(store, tmp_path, image)


def test_one_layer_that_fails_ends_the_others(store: Store, server: Server) -> None:
    layers = [layer_tar(entry(f"file{number}", b"x" * number)) for number in range(8)]
    image = docker_image(layers)
    publish(server, image)
    first = image.manifest["layers"][0]["digest"]
    server.answers[f"/v2/app/blobs/{first}"] = Answer(b"{}", 500)
    with pytest.raises(ImageError) as caught:
        fetch_docker(store, reference(server), policy=POLICY)
    assert "the registry failed (status 500)" in ": ".join(caught.value.causes())
    assert files_of(store) == []


def test_a_full_disk_is_a_store_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    path = write_layout(tmp_path / "app", docker_image())
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(StoreError) as caught:
            fetch_layout(store, path)
    assert "free some space" in (caught.value.hint or "")


_SAVED = tar_of(saved_files(docker_image(), small_layers()))
_LAYOUT = json.dumps(docker_image().manifest).encode()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.integers(0, len(_SAVED) - 1), st.binary(min_size=1, max_size=8)), max_size=3
    ),
    st.integers(0, len(_SAVED)),
)
def test_a_damaged_archive_is_fetched_or_refused_and_leaves_nothing(
    damage: list[tuple[int, bytes]], end: int
) -> None:
    data = bytearray(_SAVED)
    for at, piece in damage:
        data[at : at + len(piece)] = piece
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saved.tar"
        path.write_bytes(data[: end or None])
        with Store(DataDir(Path(folder) / "data")) as store:
            with contextlib.suppress(ImageError):
                fetch_docker(store, DockerArchiveReference(path), policy=POLICY)
            left = [name for name in files_of(store) if name.startswith("tmp/")]
            assert left == []
            assert bool(store.images()) == bool(files_of(store))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, len(_LAYOUT) - 1), st.binary(min_size=1, max_size=30))
def test_a_damaged_manifest_of_a_layout_is_fetched_or_refused(at: int, piece: bytes) -> None:
    image = docker_image()
    manifest = _LAYOUT[:at] + piece + _LAYOUT[at + len(piece) :]
    described = {"digest": digest_of(manifest), "size": len(manifest)}
    with tempfile.TemporaryDirectory() as folder:
        layout = write_layout(Path(folder) / "layout", image)
        (layout / "blobs" / digest_of(manifest).replace(":", "/")).write_bytes(manifest)
        (layout / "index.json").write_text(json.dumps({"manifests": [described]}))
        with Store(DataDir(Path(folder) / "data")) as store:
            with contextlib.suppress(ImageError):
                fetch_layout(store, layout)
            assert [name for name in files_of(store) if name.startswith("tmp/")] == []


def test_the_file_system_is_made_as_for_any_image(store: Store, tmp_path: Path) -> None:
    from kvmrkt.images.tree import tree_for

    image = fetched(store, tmp_path, docker_image())
    tree = tree_for(store, image.id)
    listed = subprocess.run(["unsquashfs", "-l", tree], check=True, capture_output=True, text=True)
    assert "squashfs-root/rootfs/bin/app" in listed.stdout.splitlines()


def test_the_manifest_names_the_dockers_digests(store: Store, tmp_path: Path) -> None:
    image = docker_image()
    manifest = json.loads(fetched(store, tmp_path, image).manifest_bytes())
    annotations = {item["name"]: item["value"] for item in manifest["annotations"]}
    assert annotations["appc.io/docker/manifesthash"] == image.digest
    assert annotations["appc.io/docker/imageid"] == image.manifest["layers"][-1]["digest"]
    assert annotations["appc.io/docker/entrypoint"] == '["/bin/app"]'
