"""What `list` and `status` say about a pod; the field names are those of rkt's api/v1."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from kvmrkt.errors import PodError
from kvmrkt.pods.directory import parse_number
from kvmrkt.pods.open_folder import read_at, time_ns_at
from kvmrkt.pods.records import AppRecord, decode_app_record
from kvmrkt.pods.shown_manifest import ShownManifest, ShownVolume, read_shown_manifest
from kvmrkt.pods.states import ENDED, PodState

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmrkt.pods.directory import PodDirectory
    from kvmrkt.pods.shown_manifest import ShownApp

_T = TypeVar("_T")

_WITH_NETWORKS = ENDED | {PodState.RUNNING}
_BEFORE_RUN = frozenset(
    {PodState.EMBRYO, PodState.PREPARING, PodState.ABORTED_PREPARE, PodState.PREPARED}
)
_NO_MANIFEST = ShownManifest()
_NO_RECORD = AppRecord()
_READ_ATTEMPTS = 5


class NetInfo(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One entry of `net-info.json`."""

    net_name: str
    net_conf: str = ""
    plugin_path: str = ""
    if_name: str = ""
    ip: str = ""
    args: str = ""
    mask: str = ""

    def __str__(self) -> str:
        """As the column NETWORKS shows it."""
        return f"{self.net_name}:{'ip6' if ':' in self.ip else 'ip4'}={self.ip}"


class MountStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """A volume in an app."""

    name: str
    container_path: str
    host_path: str = ""
    read_only: bool = False


class AppStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One app; `state` is unknown, created, running or exited; times are nanoseconds."""

    name: str
    state: str
    created_at: int | msgspec.UnsetType = msgspec.UNSET
    started_at: int | msgspec.UnsetType = msgspec.UNSET
    finished_at: int | msgspec.UnsetType = msgspec.UNSET
    exit_code: int | msgspec.UnsetType = msgspec.UNSET
    oom_kills: int | msgspec.UnsetType = msgspec.UNSET
    """Ours: how many of its processes the guest's kernel killed for want of memory."""
    image_id: str
    mounts: tuple[MountStatus, ...] | msgspec.UnsetType = msgspec.UNSET
    user_annotations: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    user_labels: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class PodStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One pod; times are seconds."""

    uuid: str = msgspec.field(name="name")
    state: PodState
    networks: tuple[NetInfo, ...] | msgspec.UnsetType = msgspec.UNSET
    app_names: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    apps: tuple[AppStatus, ...] | msgspec.UnsetType = msgspec.UNSET
    created_at: int | msgspec.UnsetType = msgspec.UNSET
    started_at: int | msgspec.UnsetType = msgspec.UNSET
    pid: int | msgspec.UnsetType = msgspec.UNSET
    user_annotations: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    user_labels: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class PodFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a pod; `status` is the part that JSON shows."""

    status: PodStatus
    created_ns: int | None
    started_ns: int | None
    pid: int | None


class PodLine(NamedTuple):
    """What the table of `list` says about a pod: no more, a thousand of them are read."""

    uuid: str
    state: PodState
    apps: tuple[ShownApp, ...]
    networks: tuple[NetInfo, ...]
    created_ns: int | None
    started_ns: int | None


def read_pod(pod: PodDirectory) -> PodFacts:
    """Read a pod that others may be moving; raises PodError if it is damaged or gone."""
    return _read_in_place(pod, _read)


def read_line(pod: PodDirectory) -> PodLine:
    """The same, for the table."""
    return _read_in_place(pod, _read_line)


def _read_in_place(pod: PodDirectory, read: Callable[[int, str, PodState], _T]) -> _T:
    for _ in range(_READ_ATTEMPTS):
        fd, state = pod.open()
        try:
            facts = read(fd, pod.uuid, state)
        finally:
            os.close(fd)
        if pod.is_there():
            return facts  # it was all the time: nothing was deleted under our hands
    raise PodError(f'cannot read pod "{pod.uuid}": it keeps moving')


def _read_line(folder: int, uuid: str, state: PodState) -> PodLine:
    return PodLine(
        uuid,
        state,
        _manifest(folder).apps,
        _networks(folder, uuid) if state in _WITH_NETWORKS else (),
        time_ns_at(folder, "pod-created"),
        time_ns_at(folder, "pid") if state not in _BEFORE_RUN else None,
    )


def _manifest(folder: int) -> ShownManifest:
    text = read_at(folder, "pod")
    return _NO_MANIFEST if text is None else read_shown_manifest(text)


def _read(folder: int, uuid: str, state: PodState) -> PodFacts:
    manifest = _manifest(folder)
    created_ns = time_ns_at(folder, "pod-created")
    has_run = state not in _BEFORE_RUN  # `pid` is written a moment before
    started_ns = time_ns_at(folder, "pid") if has_run else None
    pid = parse_number(read_at(folder, "pid")) if has_run else None
    networks = _networks(folder, uuid) if state in _WITH_NETWORKS else ()
    apps = tuple([_app(folder, state, app, manifest, created_ns) for app in manifest.apps])
    status = PodStatus(
        uuid=uuid,
        state=state,
        networks=networks or msgspec.UNSET,
        app_names=tuple([app.name for app in apps]) or msgspec.UNSET,
        apps=apps or msgspec.UNSET,
        created_at=msgspec.UNSET if created_ns is None else created_ns // 1_000_000_000,
        started_at=msgspec.UNSET if started_ns is None else started_ns // 1_000_000_000,
        pid=_or_unset(pid if state is PodState.RUNNING else None),
        user_annotations=manifest.user_annotations or msgspec.UNSET,
        user_labels=manifest.user_labels or msgspec.UNSET,
    )
    return PodFacts(
        status=status,
        created_ns=created_ns,
        started_ns=started_ns,
        pid=pid,
    )


def _networks(folder: int, uuid: str) -> tuple[NetInfo, ...]:
    text = read_at(folder, "net-info.json")
    if not text:
        return ()
    try:
        return msgspec.json.decode(text, type=tuple[NetInfo, ...])
    except msgspec.MsgspecError as error:
        raise PodError(f'cannot read the networks of pod "{uuid}": {error}') from error


def _app(
    folder: int, state: PodState, app: ShownApp, manifest: ShownManifest, created_ns: int | None
) -> AppStatus:
    text = read_at(folder, f"status/{app.name}")
    record = (text and decode_app_record(text)) or _NO_RECORD
    return AppStatus(
        name=app.name,
        state=_app_state(state, record),
        created_at=_or_unset(created_ns),
        started_at=_or_unset(record.started_ns),
        finished_at=_or_unset(record.finished_ns),
        exit_code=_or_unset(record.code),
        oom_kills=record.oom_kills or msgspec.UNSET,
        image_id=app.image.id,
        mounts=_mounts(app, manifest) or msgspec.UNSET,
        user_annotations=app.app.user_annotations or msgspec.UNSET,
        user_labels=app.app.user_labels or msgspec.UNSET,
    )


def _app_state(state: PodState, record: AppRecord) -> str:
    """An app of a pod that is over has ended, however little was written down about it."""
    if record.finished_ns is not None or record.code is not None or state in ENDED:
        return "exited"
    if state is PodState.RUNNING:
        return "created" if record.started_ns is None else "running"
    return "created" if state is PodState.PREPARED else "unknown"


def _mounts(app: ShownApp, manifest: ShownManifest) -> tuple[MountStatus, ...]:
    if not app.mounts:
        return ()
    volumes = {volume.name: volume for volume in manifest.volumes}
    mounts = []
    for mount in app.mounts:
        volume = mount.app_volume or volumes.get(mount.volume) or ShownVolume(mount.volume)
        mounts.append(MountStatus(mount.volume, mount.path, volume.source, volume.read_only))
    return tuple(mounts)


def _or_unset(value: int | None) -> int | msgspec.UnsetType:
    return msgspec.UNSET if value is None else value
