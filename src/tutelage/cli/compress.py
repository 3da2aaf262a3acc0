"""`tutelage compress`: a trained model made smaller, with what that costs before anything learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tutelage import lang
from tutelage.errors import InputError

__all__ = ["compress"]


@click.command()
@click.argument("model", metavar="RUN[:ARM]|RECIPE[:STUDENT]")
@click.option("--weights", metavar="FILE", help="A safetensors file for the student of RECIPE.")
@click.option("--seed", type=int, metavar="N", help="Whose student of the run.  [default: the first seed]")
@click.option("--prune", type=float, metavar="SHARE", help="Cut until this share is left.")
@click.option(
    "--of", type=click.Choice(["multiply_adds", "parameters"]), default="multiply_adds", show_default=True,
    help="What the share of --prune is of.",
)  # fmt: skip
@click.option(
    "--by", type=click.Choice(["magnitude", "taylor", "random"]), default="magnitude", show_default=True,
    help="How --prune tells importance.",
)  # fmt: skip
@click.option("--unstructured", is_flag=True, help="Let --prune set single weights to zero, not cut whole channels.")
@click.option("--rank", type=float, metavar="SHARE", help="Lower ranks until this share of the parameters is left.")
@click.option("--energy", is_flag=True, help="Let the share of --rank be of each layer's squared singular values.")
@click.option("--layers", metavar="HOW", help="Leave blocks out: every=2, average=2 or keep=0,2,4.")
@click.option(
    "--finetune", type=int, default=0, show_default=True, metavar="EPOCHS", help="Then learn from what it was."
)
@click.option(
    "--out", default="compressed", show_default=True, metavar="DIR", help="The folder for the file and facts."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key of RECIPE.")
@click.option("--trust", is_flag=True, help="Allow Python code that the recipe names, to build the model.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def compress(
    model: str, weights: str | None, seed: int | None, overrides: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Make a trained model smaller: prune it, lower its rank, leave blocks out.

    \b
      tutelage compress runs/first:distilled --prune 0.5 --finetune 5
      tutelage compress recipe.yaml --weights model.safetensors --rank 0.5

    RUN: the student of one arm of a finished run, of the headline by default. RECIPE with --weights: a model that
    tutelage need not have trained; the recipe says what it is and which data it knows.

    What is written can begin a student of a recipe: student.weights. To compare ways to learn from there, or sizes, run
    a recipe with `prune`, `rank` or `layers` under its student instead.
    """
    if weights is None and Path(model).suffix in (".yaml", ".yml", ".json"):
        raise InputError("a recipe has no weights", given=model, fix="add --weights FILE, or name a run's folder")
    if weights is None and overrides:
        raise InputError("--set is for recipes, and this is a run", given=", ".join(overrides))
    if weights is not None and seed is not None:
        raise InputError("--seed is for runs, and --weights is one model", given=seed)

    from tutelage.run.compressing import Compressing, compress_run, compress_weights

    out, finetune, trust, quiet = (options.pop(name) for name in ("out", "finetune", "trust", "quiet"))
    how = Compressing(_shrink(**options), out, finetune, trust, quiet)
    if weights is None:
        done = compress_run(model, how, seed=seed)
    else:
        from tutelage import recipe as recipes

        name, colon, student = model.rpartition(":")
        several = bool(colon) and not Path(model).exists()
        recipe = recipes.load(name if several else model, list(overrides))
        done = compress_weights(recipe, weights, how, student=student if several else None)
    click.echo(json.dumps(done.to_json(), indent=2, ensure_ascii=False) if as_json else lang.say(done.summary()))


def _shrink(
    *, prune: float | None, of: Any, by: Any, unstructured: bool, rank: float | None, energy: bool, layers: str | None
) -> Any:
    from tutelage.compress import Prune, Rank, Shrink

    if prune is None and (unstructured or of != "multiply_adds" or by != "magnitude"):
        raise InputError("--of, --by and --unstructured belong to --prune", fix="add --prune SHARE, such as 0.5")
    if rank is None and energy:
        raise InputError("--energy belongs to --rank", fix="add --rank SHARE, such as 0.9")
    return Shrink(
        None if layers is None else _blocks(layers),
        None if prune is None else Prune(prune, of, by, "unstructured" if unstructured else "structured"),
        None if rank is None else Rank(rank, "energy" if energy else "parameters"),
    )


def _blocks(text: str) -> Any:
    from tutelage.compress import Thin

    key, equals, value = text.partition("=")
    try:
        numbers = [int(one) for one in value.split(",")]
    except ValueError:
        numbers = []
    if not equals or key not in ("every", "average", "keep") or not numbers or (key != "keep" and len(numbers) > 1):
        raise InputError("--layers says which blocks stay", given=text, expected="every=2, average=2 or keep=0,2,4")
    if key == "keep":
        return Thin(keep=numbers)
    return Thin(every=numbers[0]) if key == "every" else Thin(average=numbers[0])
