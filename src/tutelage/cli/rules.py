"""`tutelage rules RUN|RECIPE`: a teacher as a handful of rules that a person can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tutelage import lang
from tutelage.cli.options import what_to_run
from tutelage.cli.synthesize import _teacher as teacher_of
from tutelage.errors import InputError

if TYPE_CHECKING:
    from tutelage.recipe import Recipe

__all__ = ["rules"]


@click.command()
@click.argument("name", metavar="RUN|RECIPE")
@click.option("--leaves", type=click.IntRange(2, 4096), default=16, show_default=True, help="How many rules at most.")
@click.option("--depth", type=click.IntRange(1), help="How many questions a rule asks at most.  [default: any number]")
@click.option(
    "--least", type=click.IntRange(1), default=10, show_default=True, help="Training rows that a rule is true of."
)
@click.option(
    "--seeds", type=click.IntRange(2), default=5, show_default=True, help="Redrawn training parts, for an interval."
)
@click.option("--unit", "units", multiple=True, metavar="COLUMN=UNIT", help="The unit of a column: distance=km.")
@what_to_run(default="rules", show_default=True, help="The folder for rules.json, rules.txt and rules.py.")
@click.option("--overwrite", is_flag=True, help="Replace rules that are there.")
@click.option("--trust", is_flag=True, help="Allow the recipe to name Python code, which will be run.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def rules(
    name: str,
    leaves: int,
    depth: int | None,
    least: int,
    seeds: int,
    units: tuple[str, ...],
    out: str,
    overrides: tuple[str, ...],
    overwrite: bool,
    trust: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Distil the teacher of a RUN or a RECIPE into few rules, and say what they are worth.

    \b
      tutelage rules runs/flights --leaves 8 --unit distance=miles

    A small tree is grown towards the teacher's probabilities, on what students read: a table, words, pictures. Beside
    it one of the same size is grown towards the labels; the test part compares the two. A recipe's teacher is trained
    first, or found in the cache.
    """
    target = Path(out).expanduser()
    if (target / "rules.json").exists() and not overwrite:
        raise InputError(f"{target} holds rules already", fix="choose another folder with --out, or add --overwrite")
    named = dict(_unit(one) for one in units)
    recipe = _recipe(name, overrides)

    from tutelage.rules import distil_rules
    from tutelage.training import make_device

    with teacher_of(recipe, trust=trust, quiet=quiet) as (job, hand):
        own = job.teaching
        told = own.splits if job.teacher.members else own.for_teacher.splits
        found = distil_rules(
            own.splits, hand.judged, leaves=leaves, depth=depth, least=least, seeds=seeds, resamples=job.resamples,
            units=named, asked=told, device=make_device(job.device, precision=job.train.precision).device,
        )  # fmt: skip
    files = found.write(target)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    click.echo(lang.say(found.summary()))
    click.echo(lang.say("written to " + ", ".join(map(str, files))))


def _unit(said: str) -> tuple[str, str]:
    column, sign, unit = said.partition("=")
    if not (column and sign and unit):
        raise InputError("--unit is a column and its unit", given=said, expected="for instance --unit distance=km")
    return column, unit


def _recipe(name: str, overrides: tuple[str, ...]) -> Recipe:
    """A recipe; that of a run with the teachers that it kept."""
    from tutelage import recipe as recipes

    home = Path(name).expanduser()
    if not home.is_dir():
        return recipes.load(name, list(overrides))

    from tutelage.run.saved import finished_arm, recipe_of

    finished_arm(home)  # which says what is missing of a run
    recipe = recipe_of(home)
    changes = list(overrides)
    for title, spec in recipe.trusted.items():
        file = home.resolve() / "teacher" / f"{'-'.join(filter(None, ['teacher', title]))}.safetensors"
        if spec.train is not None and file.is_file():
            key = f"teachers.{title}" if title else "teacher"
            changes = [f"{key}.weights={json.dumps(str(file))}", f"{key}.train=null", *changes]
    return recipes.from_mapping(recipe.model_dump(mode="json"), changes)
