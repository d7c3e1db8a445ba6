"""A group whose commands are imported when they are called, so that `--help` and short commands start at once."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

import click

_USAGE_WIDTH = 20  # columns of the longest command name that still gets its help beside it


class Lazy(NamedTuple):
    """Where a command is (`module:attribute`) and the line that the group's help says of it."""

    target: str
    help: str


class LazyGroup(click.Group):
    """Commands by name; an unknown name is answered with the closest one."""

    def __init__(self, *args: object, lazy: Mapping[str, Lazy] | None = None, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # click's own arguments, handed through
        self._lazy = dict(lazy or {})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without a command there is the help, on stderr, and exit code 2: nothing was done."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order in which they were declared: what one needs first comes first."""
        return [*self._lazy, *(name for name in super().list_commands(ctx) if name not in self._lazy)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name].target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        return cast("click.Command", command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of the first argument; an unknown one is a usage error that names the closest."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            raise click.UsageError(f"No such command {name!r}.{did_you_mean(name, self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands and their lines, without importing any of them."""
        rows = []
        for name in self.list_commands(ctx):
            if lazy := self._lazy.get(name):
                rows.append((name, lazy.help))
            elif command := self.get_command(ctx, name):
                rows.append((name, command.get_short_help_str(limit=100)))
        with formatter.section("Commands"):
            formatter.write_dl(rows, col_max=_USAGE_WIDTH)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean web or api?`, or nothing when nothing is close."""
    close = difflib.get_close_matches(word, sorted(known), n=2)
    return f" Did you mean {' or '.join(close)}?" if close else ""
