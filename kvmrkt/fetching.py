"""From a host's options and configuration to its image store and what may come into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmrkt.configuration import ImageLimits, load_configuration
from kvmrkt.images.policy import FetchPolicy, Progress, PullPolicy, no_progress
from kvmrkt.images.signatures.trustedkeys import TrustedKeys
from kvmrkt.images.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmrkt.config import GlobalOptions
    from kvmrkt.configuration import Configuration
    from kvmrkt.images.signatures.trust import Review
    from kvmrkt.images.web.credentials import Credentials
    from kvmrkt.stage1.image import Stage1Sources


def open_store(host: GlobalOptions) -> Store:
    """The host's image store, with the limits of its configuration.

    Raises ConfigError for a faulty file, StoreError if the store cannot be opened.
    """
    configured = _configuration(host, "images.d").limits
    if configured == ImageLimits():
        return Store(host.data)
    from kvmrkt.images.tar import Limits

    usual = Limits()
    limits = Limits(
        entries=configured.max_entries or usual.entries,
        path_bytes=configured.max_path_bytes or usual.path_bytes,
        expanded_bytes=configured.max_expanded_bytes or usual.expanded_bytes,
    )
    return Store(host.data, limits=limits)


def stage1_sources(host: GlobalOptions) -> Stage1Sources:
    """Where the host's stage1 images are. ConfigError for a faulty file."""
    from kvmrkt.stage1.image import IMAGES_FOLDER, Stage1Sources

    configured = _configuration(host, "paths.d", "stage1.d")
    folder = configured.stage1_images or host.system_config / IMAGES_FOLDER
    return Stage1Sources(folder, configured.stage1)


def credentials_of(host: GlobalOptions) -> Credentials:
    """Who the host is to web servers and registries. ConfigError for a faulty file."""
    return _configuration(host, "auth.d").credentials


def fetch_policy(
    host: GlobalOptions,
    pull: PullPolicy,
    *,
    report: Callable[[str], None],
    confirm: Callable[[Review], bool] | None = None,
    progress: Progress = no_progress,
) -> FetchPolicy:
    """What the host's options and configuration allow. ConfigError for a faulty file."""
    configuration = _configuration(host, "auth.d", "images.d")
    usual = FetchPolicy()
    return FetchPolicy(
        insecure=host.insecure,
        pull=pull,
        credentials=configuration.credentials,
        keys=TrustedKeys(host.local_config, host.system_config, report),
        trust_keys_from_https=host.trust_keys_from_https,
        confirm=confirm,
        max_download_bytes=configuration.limits.max_download_bytes or usual.max_download_bytes,
        report=report,
        progress=progress,
    )


def _configuration(host: GlobalOptions, *folders: str) -> Configuration:
    """What some of the folders say: who may use the store may not read every password."""
    return load_configuration(
        host.system_config, host.local_config, host.user_config, folders=folders
    )
