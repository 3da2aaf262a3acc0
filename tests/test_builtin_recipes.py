"""The recipes that come along: each is run, small, on data that is always there, and has a page that knows its arms."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from tutelage.recipe import Recipe, builtin_recipes, load
from tutelage.run import run_recipe

PAGES = Path(__file__).parent.parent / "docs" / "recipes"
NAMES = list(builtin_recipes())
# The founding articles' systems, each with a page that says what was left out and what was measured.
WITH_PAGE = ["ensemble-to-one", "mobilenet", "shrink-cnn", "three-transfers"]


def small(name: str) -> Recipe:
    """A built-in recipe with nothing changed but its data, and how long everything takes."""
    recipe = load(name)
    teachers = [f"teachers.{key}" for key in recipe.teachers] if recipe.teachers else ["teacher"]
    changes = ["seeds=[0]", "data.source=digits", "data.limit=64", "data.test=0.1", "train.epochs=1"]
    changes += [f"{teacher}.train.epochs=1" for teacher in teachers]
    return load(name, [*changes, "report.latency=false", "report.bootstrap=100"])


def numbers(value: Any) -> list[float]:
    """All numbers anywhere in a report."""
    if isinstance(value, dict):
        return [found for inner in value.values() for found in numbers(inner)]
    if isinstance(value, list):
        return [found for inner in value for found in numbers(inner)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("name", WITH_PAGE)
def test_a_recipe_runs_from_teacher_to_report(name: str, tmp_path: Path) -> None:
    recipe = small(name)
    assert recipe.arms == load(name).arms
    run_recipe(recipe, tmp_path / "run", store=tmp_path / "store", quiet=True)
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    students = recipe.students or {"": recipe.student}
    arms = {f"{student}.{arm}".lstrip(".") for student in students for arm in recipe.arms}
    written = {f"{arm}.{form}" for arm in arms for form in recipe.compress}
    assert {model["name"] for model in report["models"]} == {"teacher"} | arms | written
    for model in report["models"]:
        assert {"accuracy", "macro_recall", "macro_f1", "macro_auc"} <= set(model["metrics"])
        assert model["name"] == "teacher" or 0 < model["parameters"] < report["models"][0]["parameters"]
    assert all(math.isfinite(number) for number in numbers(report))
    # Every arm that has a teacher is held against the same student without one.
    taught = {name for name, terms in recipe.arms.items() if any(term.loss != "cross_entropy" for term in terms)}
    held = {comparison["name"]: comparison["against"] for comparison in report["comparisons"]}
    for arm in arms:
        student, dot, method = arm.rpartition(".")
        assert method not in taught or held[arm] == f"{student}{dot}scratch"


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_valid_and_takes_one_thread(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    # On two cores the two threads of a small net wait for one another as soon as anything else runs.
    assert recipe.threads == 1


@pytest.mark.parametrize("name", WITH_PAGE)
def test_a_page_knows_every_arm_and_shows_the_command(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert f"tutelage run {name}" in page
    for arm in load(name).arms:
        assert f"`{arm}`" in page or f".{arm}`" in page, f"docs/recipes/{name}.md is silent about {arm}"
    assert f"({name}.md)" in (PAGES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", WITH_PAGE)
def test_a_command_on_a_page_changes_keys_that_exist(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    typed = re.findall(rf"tutelage (?:run|iterate|crossval) {name}\b.*", page)
    assert typed
    for line in typed:
        changes = re.findall(r"--set (?:'([^']*)'|(\S+))", line)
        load(name, [quoted or bare for quoted, bare in changes])
