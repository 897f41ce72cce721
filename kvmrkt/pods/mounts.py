"""Which volume is mounted where: rkt's rules for a pod's apps, one after the other."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.appc.pod_manifest import Mount, Volume
from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    from kvmrkt.appc.image_manifest import ImageManifest, MountPoint
    from kvmrkt.appc.pod_manifest import PodManifest, RuntimeApp

INITIALIZED_ANNOTATION = "kvmrkt.io/pod/initialized-volumes"
"""A pod manifest's list of empty volumes, by name and with commas, that begin with what the image
of the one app that mounts them has at that path."""

_DOCKER = "appc.io/docker/"


class VolumePlan:
    """The volumes of a pod, and what is learned of them while each app's mounts are matched."""

    def __init__(self, pod: PodManifest) -> None:
        """The volumes that the pod has before; UsageError if two have one name."""
        self.volumes: dict[str, Volume] = {}
        self.warnings: list[str] = []
        for volume in pod.volumes:
            if volume.name in self.volumes:
                raise UsageError(f'the volume "{volume.name}" is given twice')
            self.volumes[volume.name] = volume
        self.initialized = sorted(initialized_volumes(pod) & set(self.volumes))
        """The names of volumes that begin with what their image has."""

    def matched(self, app: RuntimeApp, image: ImageManifest) -> list[Mount]:
        """The app's mounts, and those of its mount points that none of them covers.

        Of two mounts at one path the first counts; an outer mount comes before the ones inside
        it. UsageError for a mount of a volume that the pod does not have.
        """
        chosen: dict[str, Mount] = {}
        for mount in app.mounts:
            path = clean(mount.path)
            if path not in chosen:
                chosen[path] = Mount(self._volume_of(app, mount), path)
        for point in app.app.mount_points if app.app else ():
            path = clean(point.path)
            if path not in chosen:
                name = (
                    point.name
                    if point.name in self.volumes
                    else self._implicit(
                        app,
                        point,
                        from_docker=any(
                            item.name.startswith(_DOCKER) for item in image.annotations
                        ),
                    )
                )
                chosen[path] = Mount(name, path)
        return [mount for _, mount in sorted(chosen.items())]

    def _volume_of(self, app: RuntimeApp, mount: Mount) -> str:
        """The name under which the pod has the volume of a mount."""
        if mount.app_volume is None:
            if mount.volume not in self.volumes:
                raise dangling(mount.path, mount.volume)
            return mount.volume
        name = mount.app_volume.name
        if self.volumes.get(name, mount.app_volume) != mount.app_volume:
            name = f"{app.name}-{name}"
        own = msgspec.structs.replace(mount.app_volume, name=name)
        if self.volumes.setdefault(name, own) != own:
            raise UsageError(f'app "{app.name}" has two different volumes "{name}"')
        return name

    def _implicit(self, app: RuntimeApp, point: MountPoint, *, from_docker: bool) -> str:
        name = f"{app.name}-{point.name}"
        while name in self.volumes:
            name += "-empty"
        self.warnings.append(
            f'warning: no volume specified for mount point "{point.name}", implicitly creating an '
            '"empty" volume. This volume will be removed when the pod is garbage-collected.'
        )
        if from_docker:
            self.warnings.append(
                "Docker converted image, initializing implicit volume with data contained at the "
                f'mount point "{point.name}".'
            )
            self.initialized.append(name)
        self.volumes[name] = Volume(name=name, kind="empty", mode="0755", uid=0, gid=0)
        return name


def initialized_volumes(manifest: PodManifest) -> frozenset[str]:
    """The names of the empty volumes that begin with what their image has at their path."""
    return frozenset((manifest.annotation(INITIALIZED_ANNOTATION) or "").split(",")) - {""}


def dangling(path: str, volume: str) -> UsageError:
    """The error for a mount of a volume that the pod does not have."""
    return UsageError(
        f'dangling mount point "{path}": volume "{volume}" not found',
        hint=f"add --volume {volume},kind=host,source=FOLDER",
    )


def clean(path: str) -> str:
    """An absolute path without doubled or trailing slashes."""
    return "/" + posixpath.normpath(path).lstrip("/")
