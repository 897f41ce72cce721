"""What `list` and `status` say about a pod; the field names are those of rkt's api/v1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvmrkt.appc.pod_manifest import parse_pod_manifest
from kvmrkt.errors import PodError
from kvmrkt.pods.records import AppRecord
from kvmrkt.pods.states import ENDED, PodState

if TYPE_CHECKING:
    from kvmrkt.appc.pod_manifest import PodManifest, RuntimeApp, Volume
    from kvmrkt.pods.directory import PodDirectory

_WITH_NETWORKS = ENDED | {PodState.RUNNING}
_BEFORE_RUN = frozenset(
    {PodState.EMBRYO, PodState.PREPARING, PodState.ABORTED_PREPARE, PodState.PREPARED}
)
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
    """All that is known of a pod, for the tables; `status` is the part that JSON shows."""

    status: PodStatus
    image_names: dict[str, str]
    created_ns: int | None
    started_ns: int | None
    pid: int | None


def read_pod(pod: PodDirectory) -> PodFacts:
    """Read a pod that others may be moving; raises PodError if it is damaged or gone."""
    for _ in range(_READ_ATTEMPTS):
        state = pod.state()
        path = pod.path
        facts = _read(pod, state)
        if path.exists():
            return facts
    raise PodError(f'cannot read pod "{pod.uuid}": it keeps moving')


def _read(pod: PodDirectory, state: PodState) -> PodFacts:
    text = pod.read_pod_manifest()
    manifest = None if text is None else parse_pod_manifest(text)
    created_ns = pod.file_time_ns("pod-created")
    has_run = state not in _BEFORE_RUN  # `pid` is written a moment before
    started_ns = pod.file_time_ns("pid") if has_run else None
    pid = pod.read_pid() if has_run else None
    networks = _networks(pod) if state in _WITH_NETWORKS else ()
    apps = () if manifest is None else _apps(pod, state, manifest, created_ns)
    status = PodStatus(
        uuid=pod.uuid,
        state=state,
        networks=networks or msgspec.UNSET,
        app_names=tuple(app.name for app in apps) or msgspec.UNSET,
        apps=apps or msgspec.UNSET,
        created_at=msgspec.UNSET if created_ns is None else created_ns // 1_000_000_000,
        started_at=msgspec.UNSET if started_ns is None else started_ns // 1_000_000_000,
        pid=pid if pid is not None and state is PodState.RUNNING else msgspec.UNSET,
        user_annotations=(manifest and manifest.user_annotations) or msgspec.UNSET,
        user_labels=(manifest and manifest.user_labels) or msgspec.UNSET,
    )
    return PodFacts(
        status=status,
        image_names={} if manifest is None else {a.name: _image_name(a) for a in manifest.apps},
        created_ns=created_ns,
        started_ns=started_ns,
        pid=pid,
    )


def _networks(pod: PodDirectory) -> tuple[NetInfo, ...]:
    text = pod.read_net_info()
    if not text:
        return ()
    try:
        return msgspec.json.decode(text, type=tuple[NetInfo, ...])
    except msgspec.MsgspecError as error:
        raise PodError(f'cannot read the networks of pod "{pod.uuid}": {error}') from error


def _apps(
    pod: PodDirectory, state: PodState, manifest: PodManifest, created_ns: int | None
) -> tuple[AppStatus, ...]:
    volumes = {volume.name: volume for volume in manifest.volumes}
    apps = []
    for app in manifest.apps:
        record = pod.read_app_record(app.name) or AppRecord()
        apps.append(
            AppStatus(
                name=app.name,
                state=_app_state(state, record),
                created_at=_or_unset(created_ns),
                started_at=_or_unset(record.started_ns),
                finished_at=_or_unset(record.finished_ns),
                exit_code=_or_unset(record.code),
                image_id=app.image.id,
                mounts=_mounts(app, volumes) or msgspec.UNSET,
            )
        )
    return tuple(apps)


def _app_state(state: PodState, record: AppRecord) -> str:
    """An app of a pod that is over has ended, however little was written down about it."""
    if record.finished_ns is not None or record.code is not None or state in ENDED:
        return "exited"
    if state is PodState.RUNNING:
        return "created" if record.started_ns is None else "running"
    return "created" if state is PodState.PREPARED else "unknown"


def _mounts(app: RuntimeApp, volumes: dict[str, Volume]) -> tuple[MountStatus, ...]:
    mounts = []
    for mount in app.mounts:
        volume = mount.app_volume or volumes.get(mount.volume)
        source = volume.source or "" if volume is not None else ""
        read_only = volume is not None and volume.read_only
        mounts.append(MountStatus(mount.volume, mount.path, source, read_only))
    return tuple(mounts)


def _image_name(app: RuntimeApp) -> str:
    version = next((label.value for label in app.image.labels if label.name == "version"), None)
    return f"{app.image.name or ''}:{version}" if version else app.image.name or ""


def _or_unset(value: int | None) -> int | msgspec.UnsetType:
    return msgspec.UNSET if value is None else value
