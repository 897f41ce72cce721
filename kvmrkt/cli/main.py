"""The entry point: global flags, the table of commands, and what a failure looks like.

Nothing but click is imported before a command is known: `--help` and completion stay quick.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from kvmrkt.cli.flags import boolean, flag_table, path, value
from kvmrkt.cli.grammar import hoist_global_flags, place_leading_flags
from kvmrkt.cli.group import PrefixGroup
from kvmrkt.cli.report import report_error, report_traceback
from kvmrkt.errors import EXIT_FAILURE, KvmrktError, UsageError
from kvmrkt.lean_imports import own_process

EXIT_NO_COMMAND = 2

COMMANDS = {
    "app": ("kvmrkt.cli.app:app", "Work on the apps of a running pod"),
    "cat-manifest": ("kvmrkt.cli.cat_manifest:command", "Print the manifest of a pod"),
    "completion": ("kvmrkt.cli.completion:command", "Print a completion script for a shell"),
    "config": ("kvmrkt.cli.config_command:command", "Print the configuration"),
    "cp": ("kvmrkt.cli.cp:command", "Copy files into or out of an app of a running pod"),
    "doctor": ("kvmrkt.cli.doctor:command", "Check everything this host needs to run pods"),
    "enter": ("kvmrkt.cli.enter:command", "Run a command inside an app of a running pod"),
    "export": ("kvmrkt.cli.export:command", "Export an app from an exited pod to an ACI file"),
    "fetch": ("kvmrkt.cli.fetch:fetch", "Fetch images and store them"),
    "gc": ("kvmrkt.cli.gc:command", "Remove what ended pods left"),
    "image": ("kvmrkt.cli.image:image", "Work on the images in the store"),
    "list": ("kvmrkt.cli.list:command", "List pods"),
    "logs": ("kvmrkt.cli.logs:command", "Print what the apps of a pod wrote"),
    "port-forward": (
        "kvmrkt.cli.port_forward:command",
        "Forward a port of this host to one of a running pod",
    ),
    "prepare": ("kvmrkt.cli.prepare:command", "Prepare a pod for run-prepared"),
    "rm": ("kvmrkt.cli.rm:command", "Remove pods that have ended"),
    "run": ("kvmrkt.cli.run:command", "Run images in a pod"),
    "run-prepared": ("kvmrkt.cli.run_prepared:command", "Run a prepared pod"),
    "status": ("kvmrkt.cli.status:command", "Show the state of a pod"),
    "stop": ("kvmrkt.cli.stop:command", "Stop pods"),
    "trust": ("kvmrkt.cli.trust:command", "Trust a key for image verification"),
    "version": ("kvmrkt.cli.version:command", "Print versions"),
}

GONE = {
    "api-service": (
        "rkt's gRPC service is not part of kvmrkt",
        "list and status print JSON with --format=json; Python programs have kvmrkt.Host",
    ),
}
"""Commands of rkt that there will not be: why, and what there is instead."""

GROUPS = frozenset({"app", "image"})
"""The commands that have commands of their own."""

GLOBAL_FLAGS = [
    boolean("--debug", "Say more; show causes one to a line, and tracebacks."),
    path("--dir", "The data directory, by default /var/lib/kvmrkt."),
    path("--system-config", "Folder of the vendor's configuration, by default /usr/lib/kvmrkt."),
    path("--local-config", "Folder of the host's configuration, by default /etc/kvmrkt."),
    path("--user-config", "Folder of the user's configuration."),
    value(
        "--insecure-options",
        "What to be lax about: a comma list of image, tls, http, pubkey, capabilities, paths, "
        "seccomp, jail, ondisk, all-fetch, all-run, all.",
        default="none",
        show_default=True,
    ),
    boolean("--trust-keys-from-https", "Trust keys found over https without asking."),
]


class CommandTable(PrefixGroup):
    """The table's commands, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, for help."""
        return sorted(COMMANDS)

    def load(self, name: str) -> click.Command:
        """Import the command."""
        module, _, attribute = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        command.name = name
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As any group, but who asks for what rkt had is told what there is instead."""
        if args[0] in GONE:
            message, hint = GONE[args[0]]
            raise UsageError(f"{args[0]}: {message}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The summaries come from the table: help imports no command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.command(cls=CommandTable, params=list(GLOBAL_FLAGS), invoke_without_command=True)
@click.pass_context
def root(ctx: click.Context, /, **flags: Any) -> None:
    """Run App Container pods, each in a virtual machine of its own."""
    if ctx.invoked_subcommand is None:
        click.echo("kvmrkt: missing command", err=True)
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_NO_COMMAND)
    from kvmrkt.config import GlobalOptions, parse_insecure_options

    flags["insecure"] = parse_insecure_options(flags.pop("insecure_options"))
    if flags["dir"] is not None:
        flags["dir"] = flags["dir"].resolve()
    # a flag that was not given leaves the default, which is the options' own business
    ctx.obj = GlobalOptions(**{name: word for name, word in flags.items() if word is not None})


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Run one command line and end the process with its status."""
    gc.disable()  # most commands end before there is anything worth collecting
    own_process()
    words = list(sys.argv[1:] if words is None else words)
    status = run(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # nothing is left to do that the interpreter's own end would


def run(words: list[str]) -> int:
    """Run one command line and return its exit status; never raises."""
    debug = any(word in ("--debug", "--debug=true") for word in words)
    try:
        hoisted, own = hoist_global_flags(words, flag_table(GLOBAL_FLAGS))
        own = place_leading_flags(own, COMMANDS, GROUPS)
        result = root.main(args=[*hoisted, *own], prog_name="kvmrkt", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        return EXIT_FAILURE
    except KvmrktError as error:
        report_error(error, debug=debug)
        return error.exit_status
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the flush at the end must not fail again
        return EXIT_FAILURE
    except Exception as error:
        report_traceback(error, debug=debug)
        return EXIT_FAILURE
