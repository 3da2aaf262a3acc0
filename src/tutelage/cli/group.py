"""A group of commands that tells the nearest name of a mistyped one, and speaks the user's language."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

import click

from tutelage import lang
from tutelage.errors import InputError, nearest

__all__ = ["Commands", "language_option"]


class Formatter(click.HelpFormatter):
    """A help page whose texts are translated where they are laid out."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, prefix or lang.after(lang.say("Usage:")))

    def write_heading(self, heading: str) -> None:
        self.write(f"{'':>{self.current_indent}}{lang.say(f'{heading}:')}\n")

    def write_text(self, text: str) -> None:
        if lang.language() != "en":
            text = "\n\n".join(_paragraph(part) for part in re.split(r"\n\s*\n", text))
        super().write_text(text)

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl([(name, lang.say(text)) for name, text in rows], col_max, col_spacing)


def _paragraph(text: str) -> str:
    """One paragraph of a help text; what is laid out by hand keeps its lines."""
    if text.startswith("\b"):
        if (said := lang.say(text)) != text:
            return f"\b\n{said.strip()}"
        lines = text.split("\n")
        return "\n".join([lines[0], *(line if line.startswith("  ") else lang.say(line) for line in lines[1:])])
    return lang.say(" ".join(text.split()))


class Context(click.Context):
    """A context whose help pages speak the user's language."""

    formatter_class = Formatter


def _speak(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        lang.speak(lang.parse(value))
    elif wanted := os.environ.get(lang.VARIABLE):
        lang.parse(wanted, where=lang.VARIABLE)


def language_option() -> click.Option:
    """`--lang`, which stands before the verb or after it."""
    words = "The language of messages and pages: en or zh.  [default: $TUTELAGE_LANG, or en]"
    return click.Option(["--lang"], expose_value=False, is_eager=True, callback=_speak, metavar="LANG", help=words)


class Commands(click.Group):
    """Commands, with a suggestion for a mistyped one, and a choice of language for each."""

    context_class = Context

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params.append(language_option())

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        cmd.context_class = Context
        if not isinstance(cmd, Commands):
            cmd.params.append(language_option())
        super().add_command(cmd, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if lang.language() == "en":
            super().format_commands(ctx, formatter)
            return
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            assert command is not None
            first = inspect.cleandoc(command.help or "").partition("\n\n")[0]
            rows.append((name, lang.say(" ".join(first.split())).partition("。")[0]))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

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
