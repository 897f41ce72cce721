"""`kvmrkt config`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvmrkt.cli.command import GO_BOOL, Command, OptionalValue, global_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmrkt.configuration import Configuration
    from kvmrkt.images.web.credentials import Credential


@click.command(
    cls=Command,
    params=[
        OptionalValue(
            ["--pretty-print"], type=GO_BOOL, default=True, metavar="[=BOOL]", help="Indent it."
        )
    ],
    help="Print the configuration of this host, passwords included.",
)
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> None:
    """Print what all layers together say, an entry for each thing, in the files' own form."""
    import json

    from kvmrkt.configuration import load_configuration

    host = global_options(ctx)
    configuration = load_configuration(host.system_config, host.local_config, host.user_config)
    entries = [{"rktVersion": "v1", **entry} for entry in _entries(configuration)]
    document = {"stage0": entries} if entries else {}
    if not flags["pretty_print"]:
        click.echo(json.dumps(document, separators=(",", ":"), ensure_ascii=False))
    elif not document:
        click.echo("{\n}")  # as rkt did
    else:
        click.echo(json.dumps(document, indent="\t", ensure_ascii=False))


def _entries(configuration: Configuration) -> Iterator[dict[str, Any]]:
    import msgspec

    for domain, credential in sorted(configuration.credentials.hosts.items()):
        yield {"rktKind": "auth", "domains": [domain], **_credential(credential)}
    for registry, login in sorted(configuration.credentials.registries.items()):
        words = {"user": login.user, "password": login.password}
        yield {"rktKind": "dockerAuth", "registries": [registry], "credentials": words}
    paths = {"data": configuration.data, "stage1-images": configuration.stage1_images}
    told = {key: f"{path}" for key, path in paths.items() if path is not None}
    own = (
        ("paths", told),
        ("stage1", msgspec.to_builtins(configuration.stage1)),
        ("images", msgspec.to_builtins(configuration.limits)),
        ("kvm", msgspec.to_builtins(configuration.kvm)),
    )
    for kind, content in own:
        known = {key: value for key, value in (content or {}).items() if value is not None}
        if known:
            yield {"rktKind": kind, **known}


def _credential(credential: Credential) -> dict[str, Any]:
    from kvmrkt.images.web.credentials import BearerToken, Login

    if isinstance(credential, Login):
        words = {"user": credential.user, "password": credential.password}
        return {"type": "basic", "credentials": words}
    if isinstance(credential, BearerToken):
        return {"type": "oauth", "credentials": {"token": credential.token}}
    return {
        "type": "aws",
        "credentials": {
            "accessKeyID": credential.access_key_id,
            "secretAccessKey": credential.secret_access_key,
            "awsRegion": credential.region,
        },
    }
