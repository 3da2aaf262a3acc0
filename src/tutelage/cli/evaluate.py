"""`tutelage eval`: what the students of a run score on other data, or what saved predictions of any tool are worth."""

from __future__ import annotations

import json
from typing import Any

import click

from tutelage import lang
from tutelage.errors import InputError

__all__ = ["evaluate"]

_OF_RUNS = {"path": None, "part": "test", "out": None, "trust": False}
_OF_FILES = {
    "against": None, "task": None, "val": None, "against_val": None, "metric": None, "max_drop": None, "k": 10,
    "resamples": 10_000,
}  # fmt: skip


@click.command("eval")
@click.argument("run", metavar="RUN[:ARM]|FILE")
@click.argument("source", required=False)
@click.option("--path", metavar="PATH", help="Where the data lies, for sources that need it.")
@click.option("--part", default="test", show_default=True, help="train, val, test or all.")
@click.option("--out", metavar="DIR", help="Keep what every student answered here, one .npz each.")
@click.option("--trust", is_flag=True, help="Allow Python code that the run's recipe names, to build its students.")
@click.option("--against", metavar="OTHER", help="Hold FILE against these predictions, row by row, met by id.")
@click.option(
    "--task", metavar="TASK", help="classification, multilabel, regression or retrieval.  [default: by the arrays]"
)
@click.option("--val", metavar="VAL", help="Validation predictions that choose FILE's threshold or temperature.")
@click.option("--against-val", metavar="VAL", help="Those that choose OTHER's.")
@click.option("--metric", metavar="NAME", help="The metric that decides.  [default: the task's own]")
@click.option(
    "--max-drop",
    type=float,
    metavar="X",
    help="Exit with 4 if FILE is shown to be worse than OTHER by more than X, with 95 % confidence: percentage points "
    "for metrics that are shares, else the metric's own unit.",
)
@click.option("--k", type=int, default=10, show_default=True, help="For retrieval: the first K items are looked at.")
@click.option("--resamples", type=int, default=10_000, show_default=True, help="Of the bootstrap over test examples.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def evaluate(run: str, source: str | None, as_json: bool, **options: Any) -> None:
    """Score students on other data, or predictions that any tool saved.

    \b
      tutelage eval runs/digits:distilled folder --path photos
      tutelage eval new.npz --against old.npz --max-drop 1

    RUN and SOURCE: ask every student of one arm of a finished run about labelled data, a source as in a recipe. Classes
    are met by their names. Choose nothing by what this says of a test part: that is what validation is for.

    FILE, an .npz or .csv with answers and what is true: score it without any model. Differences are FILE − OTHER.
    """
    from tutelage.run.predicted import is_file

    if is_file(run):
        _refuse(options, _OF_RUNS, "is for runs, and this is a file of predictions")
        if source is not None:
            raise InputError(
                "a file of predictions needs no source of data", given=source, fix="to compare: --against OTHER"
            )
        _score(run, as_json, **{name: options[name] for name in _OF_FILES})
        return
    _refuse(options, _OF_FILES, "is for files of predictions (.npz, .csv), and this is a run")
    if source is None:
        raise InputError(
            f"what should the students in {run} be asked about?", expected="a source as in a recipe: digits, folder, …"
        )
    from tutelage.run.evaluate import evaluate_run

    done = evaluate_run(run, source, **{name: options[name] for name in _OF_RUNS})
    click.echo(_json(done.to_json()) if as_json else lang.say(done.summary()))


def _score(file: str, as_json: bool, *, against: str | None, **asked: Any) -> None:
    from tutelage.run.predictions import Asked, evaluate_predictions

    found = evaluate_predictions(file, against, Asked(**asked))
    click.echo(_json(found.to_json()) if as_json else lang.say(found.summary()))
    found.check()


def _json(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=2, ensure_ascii=False)


def _refuse(options: dict[str, Any], names: dict[str, Any], why: str) -> None:
    """An option that would do nothing here is a mistake."""
    for name, usual in names.items():
        if options[name] != usual:
            raise InputError(f"--{name.replace('_', '-')} {why}", given=options[name])
