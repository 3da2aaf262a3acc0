"""`tutelage export`: a student as a file that runs without tutelage, compared with its model before it is kept."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tutelage import lang
from tutelage.errors import InputError

__all__ = ["export"]


@click.command()
@click.argument("model", metavar="RUN[:ARM]|RECIPE[:STUDENT]")
@click.option("--seed", type=int, metavar="N", help="Whose student of the run.  [default: the first seed]")
@click.option("--weights", metavar="FILE", help="A safetensors file for the student of RECIPE.")
@click.option(
    "--format", "formats", default="onnx", show_default=True, metavar="NAME[,NAME…]",
    help="safetensors, onnx, onnx-int8, torch or others that are installed.",
)  # fmt: skip
@click.option("--out", metavar="DIR", help="The folder for the files.  [default: exports/ beside the model]")
@click.option(
    "--max-drop", type=float, default=0.005, show_default=True, metavar="X",
    help="The accuracy that a file may lose, as a share.",
)  # fmt: skip
@click.option(
    "--calibrate", type=int, default=256, show_default=True, metavar="N",
    help="Training examples that the ranges of 8-bit formats come from.",
)  # fmt: skip
@click.option("--trust", is_flag=True, help="Allow Python code that the recipe names, to build the model.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def export(
    model: str,
    seed: int | None,
    weights: str | None,
    formats: str,
    out: str | None,
    max_drop: float,
    calibrate: int,
    trust: bool,
    as_json: bool,
) -> None:
    """Write a model as files that run without tutelage.

    \b
      tutelage export runs/first:distilled --format onnx,onnx-int8
      tutelage export recipe.yaml --weights model.safetensors

    RUN: the student of one arm of a finished run, of the headline by default. RECIPE with --weights: a model that
    tutelage need not have trained; the recipe says what it is and which data it knows.

    Every file is loaded again and compared with its model on real examples, in batches of several sizes. One that
    answers otherwise is not kept: exit code 4, after the others are written.
    """
    from tutelage.run.exporting import How, export_run, export_weights

    named = [one.strip() for one in formats.split(",") if one.strip()]
    how = How(named, max_drop, calibrate, out, trust, quiet=False)
    how.check()
    if weights is None:
        if Path(model).suffix in (".yaml", ".yml", ".json"):
            raise InputError("a recipe has no weights", given=model, fix="add --weights FILE, or name a run's folder")
        found = export_run(model, how, seed=seed)
    else:
        if seed is not None:
            raise InputError("--seed is for runs, and --weights is one model", given=seed)
        from tutelage import recipe as recipes

        name, colon, student = model.rpartition(":")
        several = bool(colon) and not Path(model).exists()
        found = export_weights(
            recipes.load(name if several else model), weights, how, student=student if several else None
        )
    told = found.to_json()
    click.echo(json.dumps(told, indent=2, ensure_ascii=False) if as_json else lang.say(found.summary()))
    found.check()
