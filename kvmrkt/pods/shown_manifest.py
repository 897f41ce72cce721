"""Of a pod manifest what `list` and `status` show: a thousand of them are to be read in no time.

What is written in a pod's directory was checked when the pod was made (appc/pod_manifest.py).
"""

from __future__ import annotations

import msgspec

from kvmrkt.appc.decode import decode


class _Struct(msgspec.Struct, frozen=True, rename="camel", gc=False):
    pass


class ShownLabel(_Struct, frozen=True):
    """A label of an image."""

    name: str
    value: str


class ShownImage(_Struct, frozen=True):
    """The image of an app."""

    id: str
    name: str = ""
    labels: tuple[ShownLabel, ...] = ()

    def __str__(self) -> str:
        """The name, and the version if there is one, as rkt shows it."""
        for label in self.labels:
            if label.name == "version":
                return f"{self.name}:{label.value}"
        return self.name


class ShownVolume(_Struct, frozen=True):
    """A volume, of the pod or of one app."""

    name: str
    source: str = ""
    read_only: bool = False


class ShownMount(_Struct, frozen=True):
    """A volume in an app."""

    volume: str
    path: str
    app_volume: ShownVolume | None = None


class ShownAppPart(_Struct, frozen=True):
    """Of the part `app` of an app."""

    user_annotations: dict[str, str] = {}
    user_labels: dict[str, str] = {}


class ShownApp(_Struct, frozen=True):
    """An app."""

    name: str
    image: ShownImage
    app: ShownAppPart = ShownAppPart()
    mounts: tuple[ShownMount, ...] = ()


class ShownManifest(_Struct, frozen=True):
    """A pod."""

    apps: tuple[ShownApp, ...] = ()
    volumes: tuple[ShownVolume, ...] = ()
    user_annotations: dict[str, str] = {}
    user_labels: dict[str, str] = {}


_DECODER = msgspec.json.Decoder(ShownManifest)


def read_shown_manifest(text: bytes) -> ShownManifest:
    """What is shown of a pod manifest; raises ManifestError for a damaged one."""
    return decode(text, _DECODER, "pod manifest")
