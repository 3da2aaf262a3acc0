"""`tutelage iterate RECIPE`: evaluate, adjust, distil again, until a target is reached."""

from __future__ import annotations

import json
from typing import Any

import click

from tutelage.cli.options import how_to_run, place, typed, what_to_run
from tutelage.lang.markdown import say_markdown

__all__ = ["iterate"]


@click.command()
@click.argument("recipe")
@click.option(
    "--target",
    type=float,
    required=True,
    metavar="X",
    help="What the mean over seeds must reach on the validation part: a share such as 0.95, or nats.",
)
@click.option(
    "--adjust",
    multiple=True,
    required=True,
    metavar="KEY=V,V,…",
    help="A key with its values, the cheapest first: train.epochs=5,10,20. May be given again for other keys.",
)
@click.option("--order", default="together", show_default=True, metavar="ORDER", help="together or each.")
@click.option(
    "--metric",
    default="accuracy",
    show_default=True,
    metavar="NAME",
    help="accuracy, macro_precision, macro_recall, macro_f1 or agreement, at least; nll, brier, ece or divergence, at "
    "most.",
)
@click.option("--arm", metavar="ARM", help="Whose students.  [default: the first arm that listens to the teacher]")
@what_to_run(help="The folder, exactly as typed.  [default: runs/<name of the recipe>-iterate]")
@how_to_run
def iterate(
    recipe: str, adjust: tuple[str, ...], out: str | None, overrides: tuple[str, ...], as_json: bool, **asked: Any
) -> None:
    """Run a RECIPE again and again with other values, until its students reach a target.

    \b
      tutelage iterate digits --target 0.95 --adjust student.args.width=8,16,32

    Round k takes the k-th values, in a folder of its own; a list that has ended keeps its last value. With --order each
    every combination is a round, the last key changing fastest. Rounds stop at the first that reaches the target: with
    sizes written from small to large, that is the smallest student that passes.

    The validation part decides, never the test part, whose figures are shown for the chosen round alone. Where no round
    reaches the target the best is named, and the exit code is 4. The same command goes on after a stop; values may be
    added behind those that were tried.
    """
    from tutelage import recipe as recipes

    parsed = recipes.load(recipe, list(overrides))
    folder = place(out, f"{parsed.name}-iterate")

    from tutelage.run.iterate import iterate as run_rounds
    from tutelage.run.rounds import parse_adjust

    found = run_rounds(parsed, folder, adjust=parse_adjust(adjust), command=typed(), **asked)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        click.echo(say_markdown(found.summary()))
    found.check()
