"""`tutelage eval RUN[:ARM] SOURCE`: what the students of a run score on other data."""

from __future__ import annotations

import json

import click

__all__ = ["evaluate"]


@click.command("eval")
@click.argument("run", metavar="RUN[:ARM]")
@click.argument("source")
@click.option("--path", metavar="PATH", help="Where the data lies, for sources that need it.")
@click.option("--part", default="test", show_default=True, help="train, val, test or all.")
@click.option("--out", metavar="DIR", help="Keep what every student answered here, one .npz each.")
@click.option("--trust", is_flag=True, help="Allow Python code that the run's recipe names, to build its students.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def evaluate(run: str, source: str, path: str | None, part: str, out: str | None, trust: bool, as_json: bool) -> None:
    """Ask every student of one arm of a finished RUN about labelled data: a SOURCE as in a recipe.

    Classes are met by their names. Choose nothing by what this says of a test part: that is what validation is for.
    """
    from tutelage.run.evaluate import evaluate_run

    found = evaluate_run(run, source, path=path, part=part, trust=trust, out=out)
    click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False) if as_json else found.summary())
