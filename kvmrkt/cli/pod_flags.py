"""What is in a pod, and where it comes from: the flags that `run` and `prepare` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from kvmrkt.cli.app_flags import APP_FLAGS, MOUNT, app_request
from kvmrkt.cli.command import FILE_PATH, require_root
from kvmrkt.cli.flags import boolean, flag_table, path, repeated, value
from kvmrkt.cli.grammar import Words, sort_words
from kvmrkt.cli.pull_flags import pull_flags, pull_policy
from kvmrkt.errors import ManifestError, UsageError, describe
from kvmrkt.pods.request import PodRequest

if TYPE_CHECKING:
    from pathlib import Path

    from kvmrkt.appc.pod_manifest import PodManifest
    from kvmrkt.preparing import PrepareOptions
    from kvmrkt.stage1.image import Stage1Choice

STAGE1_KINDS: tuple[Literal["path", "name", "hash", "url", "from-dir"], ...] = (
    "path", "name", "hash", "url", "from-dir",
)  # fmt: skip

POD_FLAGS: list[click.Option] = [
    repeated("--volume", "Give the pod a volume.", "NAME,kind=host|empty,..."),
    MOUNT,
    repeated("--port", "Lead a port of the host to an app's.", "NAME:[HOSTIP:]HOSTPORT"),
    repeated("--set-env", "Set a variable in every app.", "NAME=VALUE"),
    click.Option(
        ["--set-env-file"], type=FILE_PATH, multiple=True, metavar="FILE",
        help="Set a file's variables in every app; --set-env wins over it.",
    ),
    boolean("--inherit-env", "Pass on kvmrkt's own variables; the images' win over them."),
    path("--pod-manifest", "Take this pod manifest; its images must be in the store."),
    boolean("--no-overlay", "Has no effect: apps never use the host's overlay filesystem."),
    boolean("--private-users", "Not available: a pod's users are its own anyway.", hidden=True),
    *pull_flags("new"),
    *(value(f"--stage1-{kind}", f"Choose the stage1 image by {kind}.") for kind in STAGE1_KINDS),
]  # fmt: skip

_MAX_MANIFEST_BYTES = 1 << 22


class PodCommand(click.Command):
    """A command for root whose words rkt's grammar sorts before click sees them.

    The sorted words are in `ctx.meta["words"]`, for `pod_request`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse who may not, sort the words, and parse the pod's."""
        if "--help" in args[: args.index("--") if "--" in args else None]:
            click.echo(self.get_help(ctx))
            ctx.exit()
        require_root()
        words = sort_words(args, flag_table(self.params), flag_table(APP_FLAGS))
        ctx.meta["words"] = words
        return super().parse_args(ctx, words.pod)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The pod's flags, then an app's."""
        with formatter.section("Flags of the pod"):
            formatter.write_dl(_help_records(self.params, ctx))
        with formatter.section("Flags of the app whose image stands before"):
            formatter.write_dl(_help_records(APP_FLAGS, ctx))


def _help_records(
    parameters: list[click.Parameter] | list[click.Option], ctx: click.Context
) -> list[tuple[str, str]]:
    return [record for option in parameters if (record := option.get_help_record(ctx))]


def pod_request(words: Words, flags: dict[str, Any]) -> PodRequest:
    """What the command line asks for; raises UsageError for what can be seen to be wrong."""
    _check_private_users(flags)
    if flags["pod_manifest"] is not None:
        _check_conflicts(words, flags)
        return PodRequest(manifest=_read_manifest(flags["pod_manifest"]))
    apps = tuple(app_request(app) for app in words.apps)
    if not apps:
        raise UsageError("must provide at least one image or specify the pod manifest")

    from kvmrkt.cli.environment_flags import inherited_environment, pod_environment
    from kvmrkt.cli.network_flags import parse_port
    from kvmrkt.cli.volume_flags import parse_mount, parse_volume
    from kvmrkt.pods.compose import check_mounts

    request = PodRequest(
        apps=apps,
        volumes=tuple(parse_volume(text) for text in flags["volume"]),
        mounts=tuple(parse_mount(text) for text in flags["mount"]),
        ports=tuple(parse_port(text) for text in flags["port"]),
        inherited_environment=inherited_environment() if flags["inherit_env"] else (),
        environment=pod_environment(flags["set_env"], flags["set_env_file"]),
    )
    check_mounts(request)
    return request


def _check_private_users(flags: dict[str, Any]) -> None:
    if not flags["private_users"]:
        return
    hint = "leave it out: a pod's users exist in its own machine only"
    if not flags["no_overlay"]:
        raise UsageError(
            "cannot use both overlay and user namespace: not implemented yet", hint=hint
        )
    raise UsageError("--private-users is not supported by the kvm stage1", hint=hint)


def _check_conflicts(words: Words, flags: dict[str, Any]) -> None:
    conflicting = (
        "volume", "mount", "port", "set_env", "set_env_file", "inherit_env", "store_only",
        "no_store",
    )  # fmt: skip
    given = any(flags[name] for name in conflicting)
    if words.apps or given or flags["pull_policy"] != "new":
        raise UsageError("conflicting flags set with --pod-manifest (see --help)")


def _read_manifest(file: Path) -> PodManifest:
    from kvmrkt.appc.pod_manifest import parse_pod_manifest

    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"error reading pod manifest: {describe(error)}") from None
    if len(content) > _MAX_MANIFEST_BYTES:
        raise UsageError(f"pod manifest {file} is larger than {_MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = parse_pod_manifest(content)
    except ManifestError as error:
        raise UsageError(f"error unmarshaling pod manifest {file}") from error
    if not manifest.apps:
        raise UsageError("pod must contain at least one application")
    return manifest


def prepare_options(flags: dict[str, Any]) -> PrepareOptions:
    """Where the images are to come from; raises UsageError for flags that contradict."""
    from kvmrkt.preparing import PrepareOptions

    return PrepareOptions(stage1=_stage1_choice(flags), pull_policy=pull_policy(flags))


def _stage1_choice(flags: dict[str, Any]) -> Stage1Choice:
    from kvmrkt.stage1.image import Stage1Choice

    given = [kind for kind in STAGE1_KINDS if flags[f"stage1_{kind.replace('-', '_')}"]]
    if len(given) > 1:
        raise UsageError(
            f"flags --stage1-{given[0]} and --stage1-{given[1]} are mutually exclusive"
        )
    if not given:
        return Stage1Choice("default", "")
    return Stage1Choice(given[0], flags[f"stage1_{given[0].replace('-', '_')}"])
