"""`tutelage check RECIPE`: look before hours are spent."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tutelage import lang
from tutelage.errors import MismatchError

__all__ = ["check"]


@click.command()
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key of the recipe.")
@click.option("--device", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--trust", is_flag=True, help="Allow the recipe to name Python code, which will be run.")
@click.option("--store", metavar="DIR", help="Where stores of answers lie.  [default: $TUTELAGE_STORE, or the cache]")
@click.option("--contact-sheet", metavar="FILE.png", help="Write 8 examples as the student will see them.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on standard output.")
def check(
    recipe: str,
    overrides: tuple[str, ...],
    device: str | None,
    trust: bool,
    store: str | None,
    contact_sheet: str | None,
    as_json: bool,
) -> None:
    """Look at a RECIPE's data, teacher, student, views and needs, and train nothing.

    One line for each finding; exit code 3 where one of them is a fault.
    """
    from tutelage import recipe as recipes

    parsed = recipes.load(recipe, [*overrides, *([f"device={device}"] if device is not None else [])])
    from tutelage.run.checks import check_recipe

    sheet = None if contact_sheet is None else Path(contact_sheet).expanduser()
    found = check_recipe(parsed, trust=trust, store=store, contact_sheet=sheet)
    click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False) if as_json else lang.say(found.summary()))
    faults = found.of("fault")
    if faults:
        raise MismatchError(
            f"{len(faults)} fault{'s' * (len(faults) > 1)} found in {parsed.name}: "
            + ", ".join(dict.fromkeys(finding.title for finding in faults)),
            fix="mend them before you run it; each says how",
        )
