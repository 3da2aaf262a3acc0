"""`tutelage crossval RECIPE`: the same comparison k times, each with another fold as its test part."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tutelage import lang

__all__ = ["crossval"]


@click.command()
@click.argument("recipe")
@click.option("--folds", type=click.IntRange(2, 999), default=5, show_default=True, help="Into how many parts.")
@click.option("--out", type=str, help="The folder, exactly as typed.  [default: runs/<name of the recipe>-crossval]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key: train.epochs=3.")
@click.option("--overwrite", is_flag=True, help="Remove what an earlier run left in the folder.")
@click.option("--trust", is_flag=True, help="Allow the recipe to name Python code, which will be run.")
@click.option("--store", metavar="DIR", help="Where stores of answers lie.  [default: $TUTELAGE_STORE, or the cache]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def crossval(
    recipe: str,
    folds: int,
    out: str | None,
    overrides: tuple[str, ...],
    overwrite: bool,
    trust: bool,
    store: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run a RECIPE once for every fold of its data, and report on all answers together.

    Every example is in a test part once, answered by a student that never saw it, so small sets give narrower
    intervals. A test part that the data brings along is left out, for the end.
    """
    from tutelage import recipe as recipes

    parsed = recipes.load(recipe, list(overrides))
    place = Path("runs") / f"{parsed.name}-crossval" if out is None else Path(out)

    from tutelage.report import numbers
    from tutelage.run.crossval import cross_validate

    found = cross_validate(
        parsed, place, folds=folds, trust=trust, overwrite=overwrite, quiet=quiet, store=store,
        command=f"tutelage crossval {recipe} --folds {folds} --out {place}",
    )  # fmt: skip
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
