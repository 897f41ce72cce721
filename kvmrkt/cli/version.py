"""`kvmrkt version`."""

from __future__ import annotations

import os
import sys

import click

from kvmrkt import __version__
from kvmrkt.appc.types import APPC_VERSION
from kvmrkt.cli.command import Command


@click.command(cls=Command, help="Print versions.")
def command() -> None:
    """rkt's two lines, then ours."""
    system = os.uname()
    click.echo(f"kvmrkt Version: {__version__}")
    click.echo(f"appc Version: {APPC_VERSION}")
    click.echo(f"Python Version: {'.'.join(map(str, sys.version_info[:3]))}")
    click.echo(f"OS/Arch: {system.sysname.lower()}/{system.machine}")
