"""`tutelage crossval RECIPE`: the same comparison k times, each with another fold as its test part."""

from __future__ import annotations

import json
from typing import Any

import click

from tutelage import lang
from tutelage.cli.options import how_to_run, place, typed, what_to_run

__all__ = ["crossval"]


@click.command()
@click.argument("recipe")
@click.option("--folds", type=click.IntRange(2, 999), default=5, show_default=True, help="Into how many parts.")
@what_to_run(help="The folder, exactly as typed.  [default: runs/<name of the recipe>-crossval]")
@how_to_run
def crossval(recipe: str, folds: int, out: str | None, overrides: tuple[str, ...], as_json: bool, **how: Any) -> None:
    """Run a RECIPE once for every fold of its data, and report on all answers together.

    Every example is in a test part once, answered by a student that never saw it, so small sets give narrower
    intervals. A test part that the data brings along is left out, for the end.
    """
    from tutelage import recipe as recipes

    parsed = recipes.load(recipe, list(overrides))
    folder = place(out, f"{parsed.name}-crossval")

    from tutelage.report import numbers
    from tutelage.run.crossval import cross_validate

    found = cross_validate(parsed, folder, folds=folds, command=typed(), **how)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    lines = [found.summary()]
    for item in found.report["folds"]["comparisons"]:
        each = ", ".join(numbers.points(value, 1, unit=False) for value in item["per_fold"])
        lines.append(
            f"fold by fold: ‘{item['name']}’ − ‘{item['against']}’ {each} pp; 95 % CI over folds "
            f"{numbers.points_interval(item['difference'])}"
        )
    click.echo(lang.say("\n".join(lines)))
