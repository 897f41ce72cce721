"""`kvmrkt image`: the group of commands about images in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import (
    GO_BOOL,
    GO_DURATION,
    Command,
    OptionalValue,
    global_options,
    note,
    note_error,
)
from kvmrkt.cli.fetch import fetch
from kvmrkt.cli.group import PrefixGroup
from kvmrkt.cli.image_list import image_list
from kvmrkt.cli.image_unpack import export, extract, render
from kvmrkt.cli.image_verify import image_verify
from kvmrkt.cli.json_output import reformat
from kvmrkt.errors import ImageNotFoundError, ManifestError, UsageError

if TYPE_CHECKING:
    from kvmrkt.paths import DataDir


@click.group(cls=PrefixGroup, invoke_without_command=True, help="Work on the images in the store.")
@click.pass_context
def image(ctx: click.Context) -> None:
    """Print the help when no command is given."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@click.command(cls=Command, help="Remove images from the store, by ID or by name.")
@click.argument("images", nargs=-1, metavar="IMAGE...")
@click.pass_context
def remove(ctx: click.Context, /, images: tuple[str, ...]) -> None:
    """Remove what is found; what is not is said, and, as with rkt, no failure."""
    from kvmrkt.appc.types import KEY_DIGITS, shorten_image_id
    from kvmrkt.images.find import find_in_store
    from kvmrkt.images.store import Store

    if not images:
        raise UsageError("must provide at least one image ID")
    removed = 0
    with Store(global_options(ctx).data) as store:
        for text in images:
            try:
                found = find_in_store(store, text)
                store.remove(found.id)
            except ImageNotFoundError as error:
                note_error("", error)
                continue
            removed += 1
            key = shorten_image_id(found.id, KEY_DIGITS)
            click.echo(f'successfully removed aci for image: "{key}"')
    if removed:
        note(f"{removed} image(s) successfully removed")


@click.command(
    cls=Command,
    params=[OptionalValue(["--pretty-print"], type=GO_BOOL, default=True, help="Indent the JSON.")],
    help="Print the manifest of an image in the store.",
)
@click.argument("image_text", metavar="IMAGE")
@click.pass_context
def cat_manifest(ctx: click.Context, /, image_text: str, **flags: Any) -> None:
    """Print the manifest as JSON, unknown fields and all."""
    from kvmrkt.images.find import find_in_store
    from kvmrkt.images.store import Store

    with Store(global_options(ctx).data) as store:
        data = find_in_store(store, image_text).manifest_bytes()
    click.echo(reformat(data, pretty=flags["pretty_print"]))


@click.command(
    cls=Command,
    params=[
        click.Option(
            ["--grace-period"],
            type=GO_DURATION,
            default="24h",
            show_default=True,
            metavar="DURATION",
            help="Keep images and temporary files used within this time.",
        )
    ],
    help="Remove images not used for a while, and files nobody needs.",
)
@click.pass_context
def collect(ctx: click.Context, /, **flags: Any) -> None:
    """Print what is removed: trees, images, temporary and orphaned files."""
    from kvmrkt.images.gc import collect_garbage
    from kvmrkt.images.locks import locked
    from kvmrkt.images.store import Store

    data = global_options(ctx).data
    removed = 0
    with Store(data) as store, locked(data.prepare_lock):
        trees, images = _in_use(data)
        for kind, name in collect_garbage(store, flags["grace_period"], trees, images):
            if kind == "tree":
                click.echo(f'removed treestore "{name}"')
            elif kind == "image":
                removed += 1
                click.echo(f'successfully removed aci for image: "{name}"')
            else:
                click.echo(f'removed {kind} "{name}"')
    note(f"{removed} image(s) successfully removed")


def _in_use(data: DataDir) -> tuple[set[str], set[str]]:
    """The tree IDs and image IDs that pods on this host refer to."""
    from kvmrkt.appc.pod_manifest import parse_pod_manifest
    from kvmrkt.pods.lookup import walk
    from kvmrkt.pods.machine_record import read_machine

    trees: set[str] = set()
    images: set[str] = set()
    for pod in walk(data):
        written = pod.read_pod_manifest()
        try:
            apps = parse_pod_manifest(written).apps if written else []
        except ManifestError as error:
            note_error(f'pod "{pod.uuid}"', error)
            continue
        for app in apps:
            images.add(app.image.id)
            tree = pod.read_file(f"appsinfo/{app.name}/treeStoreID")
            if tree is not None:
                trees.add(tree.decode(errors="replace").strip())
        if (machine := read_machine(pod)) is not None:
            images.add(machine.stage1)
    return trees, images


image.add_command(image_list, "list")
image.add_command(remove, "rm")
image.add_command(cat_manifest, "cat-manifest")
image.add_command(collect, "gc")
image.add_command(fetch, "fetch")
image.add_command(export, "export")
image.add_command(extract, "extract")
image.add_command(render, "render")
image.add_command(image_verify, "verify")
for _name, _command in image.commands.items():
    _command.name = _name
