"""From the pod manifest to the agent's PodSpec, and the messages both sides agree on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvmrkt.appc.image_manifest import App, EventHandler, Isolator, MountPoint
from kvmrkt.appc.pod_manifest import Mount, PodManifest, RuntimeApp, RuntimeImage, Volume
from kvmrkt.config import InsecureOptions
from kvmrkt.errors import ManifestError
from kvmrkt.stage1.kvm.agent import EVENTS, Hello
from kvmrkt.stage1.kvm.applog import decode_record, format_line
from kvmrkt.stage1.kvm.podspec import PodSpec, Terminal
from kvmrkt.stage1.kvm.translate import Streams, translate

UUID = "7b6a4c1e-0000-4000-8000-000000000000"
PROTOCOL = Path(__file__).resolve().parents[1] / "protocol"


def a_pod(*images: str, **app: Any) -> PodManifest:
    whole = App(**{"user": "0", "group": "0", "exec": ["/x"], **app})
    return PodManifest(
        apps=[
            RuntimeApp(name=f"app{n}", image=RuntimeImage(id=image), app=whole)
            for n, image in enumerate(images)
        ]
    )


def test_apps_of_one_image_share_its_disk() -> None:
    done = translate(a_pod("i", "j", "i"), UUID)
    assert [app.disk for app in done.spec.apps] == ["image0", "image1", "image0"]
    assert done.image_ids == {"image0": "i", "image1": "j"}
    assert [disk.serial for disk in done.spec.disks] == ["image0", "image1", "scratch"]


def test_rkts_default_capabilities_are_kept_and_all_only_on_request() -> None:
    assert len(translate(a_pod("i"), UUID).spec.apps[0].capabilities) == 14
    lax = InsecureOptions(capabilities=True, paths=True)
    app = translate(a_pod("i"), UUID, insecure=lax).spec.apps[0]
    assert len(app.capabilities) > 30
    assert not app.protect_paths


def test_limits_and_handlers_reach_the_agent() -> None:
    app = translate(
        a_pod(
            "i",
            isolators=[
                Isolator("resource/memory", {"limit": "64Mi"}),
                Isolator("resource/cpu", {"limit": "1500m"}),
            ],
            event_handlers=[EventHandler("pre-start", ["/pre"]), EventHandler("post-stop", ["/p"])],
        ),
        UUID,
    ).spec.apps[0]
    assert (app.limits.memory_bytes, app.limits.cpu_millis) == (64 << 20, 1500)
    assert (app.pre_start, app.post_stop) == ((("/pre",),), (("/p",),))


def test_a_mount_is_read_only_when_its_volume_or_its_mount_point_is() -> None:
    pod = a_pod("i", mount_points=[MountPoint("a", "/a", read_only=True)])
    app = msgspec.structs.replace(
        pod.apps[0], mounts=[Mount("v", "/a"), Mount("w", "/b"), Mount("v", "/c")]
    )
    volumes = [
        Volume(name="v", kind="empty", mode="0700"),
        Volume(name="w", kind="host", source="/s", read_only=True),
    ]
    done = translate(msgspec.structs.replace(pod, apps=[app], volumes=volumes), UUID)
    assert [mount.read_only for mount in done.spec.apps[0].mounts] == [True, True, False]
    assert [(f.name, f.source, f.read_only) for f in done.folders] == [("w", Path("/s"), True)]


def test_interactive_streams_name_their_ports() -> None:
    terminal = Terminal(30, 100, "xterm")
    tty = translate(a_pod("i"), UUID, streams=Streams("tty", terminal)).spec.apps[0]
    assert tty.ports == ("app.app0.tty",)
    piped = translate(a_pod("i"), UUID, streams=Streams("stream")).spec.apps[0]
    assert piped.ports == ("app.app0.stdin", "app.app0.stdout", "app.app0.stderr")


def test_a_faulty_isolator_names_its_app() -> None:
    pod = a_pod("i", isolators=[Isolator("resource/memory", {"limit": "lots"})])
    with pytest.raises(ManifestError, match='cannot run app "app0"'):
        translate(pod, UUID)


def golden(name: str) -> list[dict[str, Any]]:
    """Messages that the agent's own tests use too."""
    messages: list[dict[str, Any]] = json.loads((PROTOCOL / f"{name}.json").read_text())["messages"]
    return messages


def test_the_fullest_pod_spec_is_the_agents_to_the_last_field() -> None:
    fullest = golden("pod-start")[0]["params"]
    spec = msgspec.json.decode(json.dumps(fullest), type=PodSpec)
    assert json.loads(msgspec.json.encode(spec)) == fullest


def test_every_notification_of_the_agents_is_understood() -> None:
    for message in golden("notifications"):
        if message["method"] == "hello":
            assert msgspec.convert(message["params"], Hello).protocol == 1
        else:
            assert msgspec.convert(message["params"], EVENTS[message["method"]])


def test_every_log_record_of_the_agents_is_shown() -> None:
    records = [
        decode_record(json.dumps(record).encode(), frozenset({"redis"}))
        for record in golden("log-records")
    ]
    shown = [format_line(record) for record in records if not record.end]
    assert shown[0] == "[    0.400000] redis[7]: Ready to accept connections"
    assert shown[1] == "[    0.400000] redis[7]: hi \ufffd"
    assert records[-1].end
