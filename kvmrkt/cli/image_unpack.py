"""`kvmrkt image export`, `image extract` and `image render`: an image, out of the store again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import Command, global_options
from kvmrkt.cli.flags import boolean
from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    from kvmrkt.paths import DataDir

_SAFETY = (
    "Nothing of the image can come to lie outside OUTPUT_DIR. For root, files keep their owners,"
    " set-ID bits and device nodes: do not let others into a folder with an image you do not trust."
)


def _folder_flags(verb: str) -> list[click.Parameter]:
    return [
        boolean("--overwrite", "Replace what is at OUTPUT_DIR."),
        boolean("--rootfs-only", f"{verb} the root filesystem alone, as OUTPUT_DIR itself."),
        click.Argument(["image_text"], metavar="IMAGE"),
        click.Argument(["output"], metavar="OUTPUT_DIR"),
    ]


@click.command(
    cls=Command,
    params=[
        boolean("--overwrite", "Replace what is at OUTPUT_ACI_FILE."),
        click.Argument(["image_text"], metavar="IMAGE"),
        click.Argument(["output"], metavar="OUTPUT_ACI_FILE"),
    ],
    help="Write an image in the store to a file, uncompressed.",
)
@click.pass_context
def export(ctx: click.Context, /, image_text: str, output: str, *, overwrite: bool) -> None:
    """Write the image's archive; what it is exported as has the image's ID again."""
    from kvmrkt.fetching import open_store
    from kvmrkt.images.find import find_in_store
    from kvmrkt.images.unpacking.export import copy_archive
    from kvmrkt.images.unpacking.replace import new_file

    with open_store(global_options(ctx)) as store:
        image = find_in_store(store, image_text)
        path = Path(os.path.abspath(output))  # noqa: PTH100 - as Go: links stay
        if not overwrite and os.path.lexists(path):
            raise UsageError("output ACI file exists (try --overwrite)")
        with new_file(path, overwrite=overwrite) as out:
            copy_archive(image, out)


@click.command(
    cls=Command,
    params=_folder_flags("Extract"),
    help=f"Unpack an image in the store into a folder.\n\n{_SAFETY}",
)
@click.pass_context
def extract(ctx: click.Context, /, image_text: str, output: str, **flags: Any) -> None:
    """Unpack the image alone, without the images it depends on."""
    _unpack(ctx, image_text, output, flags, with_dependencies=False)


@click.command(
    cls=Command,
    params=_folder_flags("Render"),
    help="Unpack an image in the store and all it depends on into a folder, as its app would see"
    f" it.\n\n{_SAFETY}",
)
@click.pass_context
def render(ctx: click.Context, /, image_text: str, output: str, **flags: Any) -> None:
    """Unpack what a pod's root filesystem is made of."""
    _unpack(ctx, image_text, output, flags, with_dependencies=True)


def _unpack(
    ctx: click.Context,
    image_text: str,
    output: str,
    flags: dict[str, bool],
    *,
    with_dependencies: bool,
) -> None:
    from kvmrkt.fetching import open_store
    from kvmrkt.images.find import find_in_store
    from kvmrkt.images.unpacking import export as exporting
    from kvmrkt.images.unpacking.replace import new_folder

    unpack = exporting.unpack_closure if with_dependencies else exporting.unpack_image

    options = global_options(ctx)
    with open_store(options) as store:
        image = find_in_store(store, image_text)
        folder = Path(os.path.abspath(output))  # noqa: PTH100 - as Go: links stay
        _check_target(folder, options.data, overwrite=flags["overwrite"])
        with new_folder(folder, overwrite=flags["overwrite"]) as new:
            unpack(store, image, new, rootfs_only=flags["rootfs_only"])


def _check_target(folder: Path, data: DataDir, *, overwrite: bool) -> None:
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise UsageError("output directory exists (try --overwrite)")
    real = folder.resolve()
    if real == Path("/"):
        raise UsageError("this would delete your root filesystem. Refusing.")
    if data.root.resolve().is_relative_to(real):
        raise UsageError(f"this would delete the data directory {data.root}. Refusing.")
