"""`kvmrkt image verify`."""

from __future__ import annotations

import click

from kvmrkt.cli.command import Command, global_options, note
from kvmrkt.errors import UsageError


@click.command(
    cls=Command,
    help="Check images in the store: archives, signatures, root filesystems.",
)
@click.argument("images", nargs=-1, metavar="IMAGE...")
@click.pass_context
def image_verify(ctx: click.Context, /, images: tuple[str, ...]) -> None:
    """Print what is good; a root filesystem that is not is made anew, the rest is an error."""
    from kvmrkt.appc.types import KEY_DIGITS, shorten_image_id
    from kvmrkt.fetching import open_store
    from kvmrkt.images.find import find_in_store
    from kvmrkt.images.signatures.trustedkeys import TrustedKeys
    from kvmrkt.images.verify import verify_image

    if not images:
        raise UsageError("must provide at least one image ID")
    options = global_options(ctx)
    keys = None
    if not options.insecure.image:
        keys = TrustedKeys(options.local_config, options.system_config, note)
    with open_store(options) as store:
        for text in images:
            image = find_in_store(store, text)
            verdict = verify_image(store, image, keys)
            key = shorten_image_id(image.id, KEY_DIGITS)
            if verdict == "not rendered":
                click.echo(f'image "{text}" not rendered; no verification needed')
                continue
            if verdict == "made anew":
                note(f'the root filesystem of image "{text}" ("{key}") was damaged: made anew')
            click.echo(f'successfully verified checksum for image: "{text}" ("{key}")')
