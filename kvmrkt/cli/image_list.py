"""`kvmrkt image list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from kvmrkt.cli.command import Command, global_options
from kvmrkt.cli.flags import boolean, value
from kvmrkt.cli.json_output import FORMAT, to_json
from kvmrkt.cli.table import render
from kvmrkt.cli.values import absolute_time, relative_time
from kvmrkt.errors import UsageError

if TYPE_CHECKING:
    from kvmrkt.images.store import Image, Store

_HEADINGS = {
    "id": "ID",
    "name": "NAME",
    "size": "SIZE",
    "importtime": "IMPORT TIME",
    "lastused": "LAST USED",
}
_ORDERS = ("asc", "desc")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class ImageEntry(msgspec.Struct, frozen=True):
    """One image as `--format=json` prints it (rkt's api/v1); times in nanoseconds since 1970."""

    id: str
    name: str
    import_time: int
    last_used_time: int
    size: int


@click.command(
    cls=Command,
    params=[
        value("--fields", "Columns, a comma list.", default=",".join(_HEADINGS), show_default=True),
        value("--sort", "Fields to sort by, a comma list.", default="importtime"),
        value("--order", "asc or desc.", default="asc", show_default=True),
        boolean("--full", "Whole image IDs, exact sizes and times."),
        boolean("--no-legend", "No headings."),
        FORMAT,
    ],
    help="List the images in the store.",
)
@click.pass_context
def image_list(ctx: click.Context, /, **flags: Any) -> None:
    """Print every image in the store, sorted."""
    from kvmrkt.images.store import Store

    fields = _words(flags["fields"], tuple(_HEADINGS), "--fields")
    sort = _words(flags["sort"], tuple(_HEADINGS), "--sort")
    order = _words(flags["order"], _ORDERS, "--order")
    with Store(global_options(ctx).data) as store:
        entries = [_entry(store, image) for image in store.images()]
    for field in reversed(sort):
        entries.sort(key=lambda entry: _sort_key(entry, field), reverse=order[-1] == "desc")
    if flags["format"]:
        click.echo(to_json(entries, flags["format"]))
        return
    rows = [] if flags["no_legend"] else [[_HEADINGS[field] for field in fields]]
    rows += [[_cell(entry, field, full=flags["full"]) for field in fields] for entry in entries]
    click.echo(render(rows), nl=False)


def _words(text: str, known: tuple[str, ...], flag: str) -> list[str]:
    words = text.split(",")
    for word in words:
        if word not in known:
            raise UsageError(
                f'invalid argument "{text}" for {flag}={text}: unknown option "{word}"',
                hint=f"options: {', '.join(known)}",
            )
    return words


def _entry(store: Store, image: Image) -> ImageEntry:
    from kvmrkt.appc.types import KEY_DIGITS, shorten_image_id
    from kvmrkt.images.tree import tree_size_bytes

    version = image.labels.get("version")
    return ImageEntry(
        id=shorten_image_id(image.id, KEY_DIGITS),
        name=image.name if version is None else f"{image.name}:{version}",
        import_time=image.import_time_ns,
        last_used_time=image.last_used_ns,
        size=image.size_bytes + tree_size_bytes(store, image),
    )


def _sort_key(entry: ImageEntry, field: str) -> str | int:
    keys: dict[str, str | int] = {
        "id": entry.id,
        "name": entry.name,
        "size": entry.size,
        "importtime": entry.import_time,
        "lastused": entry.last_used_time,
    }
    return keys[field]


def _cell(entry: ImageEntry, field: str, *, full: bool) -> str:
    if field == "id":
        from kvmrkt.appc.types import LIST_DIGITS, shorten_image_id

        return entry.id if full else shorten_image_id(entry.id, LIST_DIGITS)
    if field == "name":
        return entry.name
    if field == "size":
        return str(entry.size) if full else human_size(entry.size)
    moment_ns = entry.import_time if field == "importtime" else entry.last_used_time
    return absolute_time(moment_ns) if full else relative_time(moment_ns)


def human_size(size_bytes: int) -> str:
    """A size as rkt's library printed it: `7B`, `1.4MiB`, `19MiB`."""
    amount, unit = float(size_bytes), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    rounded = int(amount * 10 + 0.5) / 10
    return (
        f"{rounded:.1f}{_UNITS[unit]}" if unit and rounded < 10 else f"{rounded:.0f}{_UNITS[unit]}"
    )
