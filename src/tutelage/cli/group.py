"""A group of commands that tells the nearest name of a mistyped one."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from tutelage.errors import InputError, nearest

__all__ = ["Commands"]


class Commands(click.Group):
    """Commands, with a suggestion for a mistyped one."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader went away (`tutelage methods | head`): nobody's fault. Click would exit with 1.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise InputError(f"no command `{args[0]}`", fix=nearest(args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)
