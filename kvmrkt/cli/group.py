"""Groups of commands with rkt's habits."""

from __future__ import annotations

from typing import Any

import click

from kvmrkt.errors import KvmrktError, UsageError


class PrefixGroup(click.Group):
    """Takes any unique prefix of a command's name; an error learns which command it came from."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or the only one whose name begins so."""
        names = self.list_commands(ctx)
        matches = [name for name in names if name.startswith(cmd_name)]
        if cmd_name in names:
            return self.load(cmd_name)
        return self.load(matches[0]) if len(matches) == 1 else None

    def load(self, name: str) -> click.Command:
        """The command of exactly that name."""
        return self.commands[name]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, but the command is known by its whole name, and errors are rkt's."""
        command = self.get_command(ctx, args[0])
        if command is None:
            raise UsageError(
                f'unknown command "{args[0]}" for "{ctx.command_path}"',
                hint=f"Run '{ctx.command_path} --help' for usage.",
            )
        return command.name, command, args[1:]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KvmrktError as error:
            error.command = error.command or ctx.invoked_subcommand
            raise
