"""A pod added to a network by its chain of plug-ins, and deleted from it once, however it ends.

How far a chain got is written down in the pod's directory before each call of ADD and after each of
DEL: what plug-ins keep outlives a reboot, and so must this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kvmrkt.errors import HostError
from kvmrkt.faults import reach
from kvmrkt.net.cni.chain import plugin_config
from kvmrkt.net.cni.namespace import is_namespace, namespace_path
from kvmrkt.net.cni.plugin import Attachment, call_plugin, find_plugin
from kvmrkt.net.conf import Chain

if TYPE_CHECKING:
    from kvmrkt.pods.directory import PodDirectory


class Progress(msgspec.Struct):
    """Everything that DEL needs."""

    network: str
    cni_version: str
    plugins: list[dict[str, Any]]
    interface: str
    arguments: str
    path: list[str]
    values: dict[str, Any]
    started: int = 0
    """How many plug-ins of the chain may have something to undo."""
    result: dict[str, Any] | None = None

    @property
    def chain(self) -> Chain:
        """The chain's configuration."""
        return Chain(self.network, self.cni_version, tuple(self.plugins))

    def attachment(self, uuid: str, namespace: str) -> Attachment:
        """What every call says."""
        return Attachment(uuid, namespace, self.interface, self.arguments, tuple(self.path))


def add(pod: PodDirectory, name: str, progress: Progress) -> dict[str, Any] | None:
    """Call ADD along the chain; returns its result. HostError for the first plug-in that fails.

    The namespace exists, and the pod's resources list the call `name`.
    """
    attachment = progress.attachment(pod.uuid, str(namespace_path(pod.uuid)))
    for number, plugin in enumerate(progress.plugins):
        program = find_plugin(plugin["type"], attachment.path)
        progress.started = number + 1
        _write(pod, name, progress)
        config = plugin_config(progress.chain, plugin, progress.values, progress.result)
        result = call_plugin(program, "ADD", attachment, config)
        reach("plugin-called")
        progress.result = result if result is not None else progress.result
    _write(pod, name, progress)
    return progress.result


def delete(pod: PodDirectory, name: str) -> None:
    """Call DEL, last plug-in first, for each that ADD was called of; each once. HostError."""
    text = pod.read_file(_file(name))
    if text is None:
        return
    try:
        progress = msgspec.json.decode(text, type=Progress)
    except msgspec.MsgspecError as error:
        raise HostError(f"{pod.path / _file(name)} is damaged: {error}") from None
    path = namespace_path(pod.uuid)
    attachment = progress.attachment(pod.uuid, str(path) if is_namespace(path) else "")
    while progress.started:
        plugin = progress.plugins[progress.started - 1]
        program = find_plugin(plugin["type"], attachment.path)
        config = plugin_config(progress.chain, plugin, progress.values, progress.result)
        call_plugin(program, "DEL", attachment, config)
        progress.started -= 1
        _write(pod, name, progress)


def _file(name: str) -> str:
    return f"cni-{name}.json"


def _write(pod: PodDirectory, name: str, progress: Progress) -> None:
    pod.write_file(_file(name), msgspec.json.encode(progress))
