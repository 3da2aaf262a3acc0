"""`tutelage compare RUN RUN …`: finished runs against the first one, from their saved answers."""

from __future__ import annotations

import json

import click

from tutelage import lang
from tutelage.errors import InputError

__all__ = ["compare"]


@click.command()
@click.argument("first")
@click.argument("others", nargs=-1, required=True, metavar="SECOND [MORE]...")
@click.option(
    "--max-drop",
    type=float,
    metavar="POINTS",
    help="Exit with 4 if an accuracy is shown to be more than POINTS percentage points below that of FIRST: if the "
    "upper end of the 95 % interval of (other − FIRST) lies below −POINTS.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="With --max-drop: exit with 4 unless it is shown to be good enough, that is, unless the lower end of the "
    "interval lies above −POINTS.",
)
@click.option("--resamples", type=int, default=10_000, show_default=True, help="Of the bootstrap over test examples.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def compare(
    first: str, others: tuple[str, ...], max_drop: float | None, strict: bool, resamples: int, as_json: bool
) -> None:
    """Hold finished runs against the run FIRST, on the test examples that all were judged on.

    \b
    A run is named by its folder, or by folder:arm:
      tutelage compare runs/before runs/after
      tutelage compare runs/digits:scratch runs/digits:distilled --max-drop 1

    Without an arm it is the one that the run's report is about. Nothing is asked of any model again. With several
    runs the p-values are adjusted by Holm; the intervals, and so the gate, are those of each comparison alone.
    """
    if strict and max_drop is None:
        raise InputError("--strict says how to judge --max-drop, which is missing", expected="--max-drop POINTS")
    from tutelage.run.compare import compare_many

    found = compare_many(first, others, max_drop=max_drop, strict=strict, resamples=resamples)
    if as_json:
        click.echo(json.dumps([one.to_json() for one in found], indent=2, ensure_ascii=False, allow_nan=False))
    else:
        click.echo("\n\n".join(lang.say(one.summary()) for one in found))
    for one in found:
        one.check()
