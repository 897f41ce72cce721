"""From a request and its images to a pod manifest."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from kvmrkt.appc.image_manifest import Annotation, parse_image_manifest
from kvmrkt.appc.pod_manifest import Mount, PodManifest, RuntimeApp, RuntimeImage, Volume
from kvmrkt.cli.volume_flags import parse_mount, parse_volume
from kvmrkt.errors import ManifestError, UsageError
from kvmrkt.pods.compose import ImageFacts, compose
from kvmrkt.pods.mounts import initialized_volumes
from kvmrkt.pods.request import AppRequest, MountRequest, PodRequest
from kvmrkt.stage1.kvm.translate import translate

POINTS = [{"name": "data", "path": "/data"}]


def an_image(name: str = "example.com/web", **app: Any) -> ImageFacts:
    whole = {"exec": ["/bin/web"], "user": "0", "group": "0", **app}
    manifest = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": name, "app": whole}
    return ImageFacts("sha512-" + "a" * 128, parse_image_manifest(json.dumps(manifest).encode()))


def only_app(request: PodRequest, image: ImageFacts) -> Any:
    return compose(request, [image]).manifest.apps[0]


def a_request(**changes: Any) -> PodRequest:
    return PodRequest(apps=(AppRequest(image="web", **changes),))


def test_an_app_is_named_after_the_last_part_of_its_image() -> None:
    assert only_app(a_request(), an_image("example.com/My.Web_2".lower())).name == "my-web-2"


def test_exec_replaces_the_whole_command_and_arguments_are_appended() -> None:
    image = an_image(exec=["/bin/web", "-v"])
    assert only_app(a_request(arguments=("x",)), image).app.exec == ["/bin/web", "-v", "x"]
    assert only_app(a_request(exec="/sh", arguments=("x",)), image).app.exec == ["/sh", "x"]


def test_the_apps_environment_wins_over_the_pods_and_both_over_the_images() -> None:
    image = an_image(environment=[{"name": name, "value": "image"} for name in "ABC"])
    request = PodRequest(
        apps=(AppRequest(image="web", environment=(("A", "app"),)),),
        environment=(("A", "pod"), ("B", "pod")),
    )
    variables = only_app(request, image).app.environment
    assert {item.name: item.value for item in variables} == {"A": "app", "B": "pod", "C": "image"}


def test_limits_on_the_command_line_replace_the_images() -> None:
    isolator = {"name": "resource/memory", "value": {"limit": "1G"}}
    app = only_app(a_request(memory="128M"), an_image(isolators=[isolator])).app
    assert [item.value for item in app.isolators] == [{"request": "128M", "limit": "128M"}]


def test_a_mount_point_takes_the_volume_of_its_name() -> None:
    request = PodRequest(
        apps=(AppRequest(image="web"),), volumes=(parse_volume("data,kind=empty"),)
    )
    app = only_app(request, an_image(mountPoints=POINTS))
    assert [(mount.volume, mount.path) for mount in app.mounts] == [("data", "/data")]


def test_a_mount_point_without_a_volume_gets_an_empty_one_and_a_warning() -> None:
    done = compose(a_request(), [an_image(mountPoints=POINTS)])
    assert [(v.name, v.kind) for v in done.manifest.volumes] == [("web-data", "empty")]
    assert 'no volume specified for mount point "data"' in done.warnings[0]


def test_an_implicit_volume_takes_nobodys_name() -> None:
    request = PodRequest(
        apps=(AppRequest(image="web"),), volumes=(parse_volume("web-data,kind=host,source=/srv"),)
    )
    done = compose(request, [an_image(mountPoints=POINTS)])
    assert [volume.name for volume in done.manifest.volumes] == ["web-data", "web-data-empty"]
    assert done.manifest.apps[0].mounts == [Mount("web-data-empty", "/data")]


def test_paths_are_compared_clean() -> None:
    request = PodRequest(
        apps=(AppRequest(image="web", mounts=(MountRequest("v", "/data"),)),),
        volumes=(parse_volume("v,kind=empty"),),
    )
    points = [{"name": "data", "path": "//data/./"}]
    assert only_app(request, an_image(mountPoints=points)).mounts == [Mount("v", "/data")]


@pytest.mark.parametrize("point", ["data", "other"])
def test_a_mount_point_makes_a_mount_read_only_by_its_path_or_its_volumes_name(point: str) -> None:
    request = PodRequest(
        apps=(AppRequest(image="web", mounts=(MountRequest("data", "/data"),)),),
        volumes=(parse_volume("data,kind=empty"),),
    )
    path = {"data": "/elsewhere", "other": "/data/"}[point]
    points = [{"name": point, "path": path, "readOnly": True}]
    manifest = compose(request, [an_image(mountPoints=points)]).manifest
    (app,) = translate(manifest, "uuid").spec.apps
    assert [mount.read_only for mount in app.mounts if mount.path == "/data"] == [True]


def test_volumes_of_one_app_become_volumes_of_the_pod() -> None:
    def app(name: str, source: str) -> RuntimeApp:
        own = Volume(name="v", kind="host", source=source)
        image = RuntimeImage(id="sha512-" + "a" * 128)
        return RuntimeApp(name, image, mounts=[Mount("v", "/v", app_volume=own)])

    given = PodManifest(apps=[app("a", "/1"), app("b", "/2"), app("c", "/1")])
    manifest = compose(PodRequest(manifest=given), [an_image()] * 3).manifest
    assert [(volume.name, volume.source) for volume in manifest.volumes] == [
        ("v", "/1"), ("b-v", "/2"),
    ]  # fmt: skip
    assert [item.mounts for item in manifest.apps] == [
        [Mount("v", "/v")], [Mount("b-v", "/v")], [Mount("v", "/v")],
    ]  # fmt: skip


def test_what_begins_with_an_images_content_is_remembered_in_the_manifest() -> None:
    image = an_image(mountPoints=POINTS)
    annotation = Annotation("appc.io/docker/imageid", "x")
    docker = ImageFacts(image.id, msgspec.structs.replace(image.manifest, annotations=[annotation]))
    manifest = compose(a_request(), [docker]).manifest
    assert initialized_volumes(manifest) == {"web-data"}
    again = compose(PodRequest(manifest=manifest), [docker])
    assert (initialized_volumes(again.manifest), again.warnings) == ({"web-data"}, ())
    assert initialized_volumes(compose(a_request(), [image]).manifest) == frozenset()


def test_an_apps_own_mount_wins_and_outer_mounts_come_first() -> None:
    request = PodRequest(
        apps=(AppRequest(image="web", mounts=(MountRequest("b", "/x"),)),),
        volumes=(parse_volume("a,kind=empty"), parse_volume("b,kind=empty")),
        mounts=(MountRequest("a", "/x/y"), MountRequest("a", "/x")),
    )
    mounts = only_app(request, an_image()).mounts
    assert [(mount.volume, mount.path) for mount in mounts] == [("b", "/x"), ("a", "/x/y")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Bad Name"}, 'invalid app name "Bad Name"'),
        ({"memory": "16m"}, "memory limit of 1 bytes too low"),
        ({"mounts": (MountRequest("zz", "/x"),)}, r'dangling mount point "/x": volume "zz" not'),
        ({"working_directory": "x"}, "workingDirectory"),
        ({"memory": "much"}, "not a quantity"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, ManifestError), match=message):
        compose(a_request(**changes), [an_image()])


def test_two_apps_of_one_name_are_refused() -> None:
    request = PodRequest(apps=(AppRequest(image="web"), AppRequest(image="web")))
    with pytest.raises(UsageError, match="multiple apps with name web"):
        compose(request, [an_image(), an_image()])


def test_an_isolator_that_nothing_applies_is_reported() -> None:
    image = an_image(isolators=[{"name": "os/unix/sysctl", "value": {}}])
    assert "os/unix/sysctl" in compose(a_request(), [image]).warnings[0]


def test_volumes_are_parsed_as_rkt_did() -> None:
    host = parse_volume("data,kind=host,source=/srv,readOnly=true,recursive=false")
    assert (host.source, host.read_only, host.recursive) == ("/srv", True, False)
    empty = parse_volume("tmp,kind=empty,mode=1777,uid=1,gid=2")
    assert (empty.mode, empty.uid, empty.gid) == ("1777", 1, 2)
    assert parse_mount("volume=a,target=/x/") == MountRequest("a", "/x")


@pytest.mark.parametrize(
    "text",
    [
        "", "data", "data,kind=disk", "data,kind=host", "data,kind=host,source=srv",
        "Bad,kind=empty", "data,kind=empty,mode=9", "data,kind=empty,mode=77777",
        "data,kind=empty,uid=-1", "data,kind=empty,source=/x",
        "data,kind=host,source=/x,readOnly=y",
        "data,kind", "data,kind=empty,gid=4294967296",
    ],
)  # fmt: skip
def test_a_faulty_volume_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_volume(text)


@pytest.mark.parametrize(
    "text", ["", "volume=a", "target=/x", "volume=a,target=x", "volume=a,target=/../x", "a,b,c=d"]
)
def test_a_faulty_mount_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_mount(text)
