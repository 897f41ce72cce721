"""`kvmrkt trust`."""

from __future__ import annotations

from typing import Any

import click

from kvmrkt.cli.command import Command, global_options
from kvmrkt.cli.flags import boolean, value
from kvmrkt.errors import EXIT_FAILURE, UsageError


@click.command(
    cls=Command,
    params=[
        click.Argument(["key"], nargs=-1),
        value("--prefix", "Trust the keys for images whose names begin so.", default=""),
        boolean("--root", "Trust the keys for every image."),
        boolean("--insecure-allow-http", "Allow plain http to find and fetch keys."),
        boolean("--skip-fingerprint-review", "Accept keys without asking."),
    ],
    help="Trust keys to sign images: files or URLs, or else those that the prefix itself names.",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> int:
    """Show each key, ask, and say where it was stored."""
    sources: tuple[str, ...] = flags["key"]
    prefix: str = flags["prefix"]
    if not prefix and not flags["root"] and not sources:
        click.echo(ctx.get_help(), err=True)
        return EXIT_FAILURE
    _check_scope(prefix, root=flags["root"], sources=sources)

    from kvmrkt.cli.key_review import terminal_review
    from kvmrkt.config import InsecureOptions
    from kvmrkt.fetching import credentials_of
    from kvmrkt.images.signatures.trust import add_keys, key_locations
    from kvmrkt.images.signatures.trustedkeys import TrustedKeys, check_prefix

    if prefix:
        check_prefix(prefix)
    options = global_options(ctx)
    insecure = InsecureOptions(
        tls=options.insecure.tls,
        pubkey=options.insecure.pubkey,
        http=flags["insecure_allow_http"],
    )
    credentials = credentials_of(options)
    add_keys(
        TrustedKeys(options.local_config, options.system_config),
        sources or key_locations(prefix, insecure=insecure, credentials=credentials),
        prefix=prefix or None,
        insecure=insecure,
        credentials=credentials,
        confirm=terminal_review(),
        skip_review=flags["skip_fingerprint_review"],
        trust_keys_from_https=options.trust_keys_from_https,
        report=click.echo,
        note=lambda text: click.echo(f"pubkey: {text}", err=True),
    )
    return 0


def _check_scope(prefix: str, *, root: bool, sources: tuple[str, ...]) -> None:
    """Refuse to guess for which images keys are to be trusted."""
    if prefix and root:
        raise UsageError("--root and --prefix usage mutually exclusive")
    if not prefix and not root:
        raise UsageError(
            "aborting due to implicit unbounded trust (root domain)",
            hint='give a prefix: kvmrkt trust --prefix "example.com/foo" [PUBKEY];'
            " or, for every image, which is not recommended: kvmrkt trust --root PUBKEY",
        )
    if root and not sources:
        raise UsageError(
            "error determining key location: empty prefix",
            hint="a root key is not looked for: kvmrkt trust --root PUBKEY",
        )
