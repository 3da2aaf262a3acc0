"""The options that commands which run recipes have in common, and what they mean."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tutelage.errors import InputError

__all__ = ["how_to_run", "place", "typed", "what_to_run"]

Command = Callable[..., Any]


def what_to_run(**settings: Any) -> Callable[[Command], Command]:
    """`--out`, with its help page's words as `help=`, and `--set`."""

    def add(command: Command) -> Command:
        command = click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key: train.epochs=3."
        )(command)
        return click.option("--out", type=str, **settings)(command)

    return add


def how_to_run(command: Command) -> Command:
    """`--overwrite`, `--trust`, `--store`, `--json` and `--quiet`."""
    for option in (
        click.option("--quiet", "-q", is_flag=True, help="Show no progress."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."),
        click.option(
            "--store", metavar="DIR", help="Where stores of answers lie.  [default: $TUTELAGE_STORE, or the cache]"
        ),
        click.option("--trust", is_flag=True, help="Allow the recipe to name Python code, which will be run."),
        click.option("--overwrite", is_flag=True, help="Remove what an earlier run left in the folder."),
    ):
        command = option(command)
    return command


def place(out: str | None, usual: str) -> Path:
    """The folder that `--out` names, or else the usual one below runs/.

    Raises:
        InputError: it is empty.
    """
    if out is not None and not out.strip():
        raise InputError("--out is empty", expected="a folder, for instance runs/first")
    return Path("runs") / usual if out is None else Path(out)


def typed() -> str:
    """The command as typed, so that messages and reports can say how to repeat it."""
    return shlex.join(["tutelage", *sys.argv[1:]])
