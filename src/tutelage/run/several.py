"""Runs made of runs: one recipe, one folder, and in it a folder of its own for every run that belongs to it.

    folds    of a cross-validation      rounds    of an iteration

The manifest has a key of this name, and that of one run has neither: so the kinds of folders are told apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tutelage.errors import InputError
from tutelage.files import read_text
from tutelage.recipe import Recipe, diff, dump, from_text, resumable
from tutelage.run.folder import RunFolder

__all__ = ["begin", "kept_folder", "refuse_another"]

_KINDS = ("folds", "rounds", "users")


@contextlib.contextmanager
def kept_folder(
    recipe: Recipe, home: Path, kind: str, *, overwrite: bool, quiet: bool
) -> Iterator[tuple[RunFolder, Recipe]]:
    """Hold the folder of several runs, and the recipe with the seeds that it drew earlier, if it drew any by chance.

    Args:
        recipe: that all of them follow, but for what makes them several.
        home: the folder.
        kind: "folds" or "rounds".
        overwrite, quiet: as for `RunFolder.open`.

    Raises:
        InputError: the folder holds something else.
        DamagedError, BusyError: as `RunFolder.open`.
    """
    text = home / "config.yaml"
    if text.is_file() and not overwrite:
        recipe = recipe.continuing(from_text(read_text(text), str(text)))
    with RunFolder.open(home, overwrite=overwrite, quiet=quiet) as folder:
        refuse_another(folder, kind)
        yield folder, recipe


def begin(folder: RunFolder, recipe: Recipe, facts: Mapping[str, Any]) -> None:
    """Take up what is in the folder, or begin; as `RunFolder.begin`, which says what is refused."""
    place = folder.path / "config.yaml"

    def differences(text: str) -> list[str]:
        return [line for line in diff(from_text(text, str(place)), recipe) if not resumable(line.split(":")[0])]

    folder.begin(dump(recipe), differences, facts)


def refuse_another(folder: RunFolder, kind: str) -> None:
    """Refuse a folder that holds runs of another kind.

    Args:
        folder: held by this process.
        kind: what it should hold: "folds", "rounds", or "run" for an ordinary one.

    Raises:
        InputError: it holds something else.
    """
    found = next((one for one in _KINDS if one in folder.manifest), "run")
    if not folder.manifest or found == kind:
        return
    home = folder.path
    holds = {
        "run": f"{home} holds an ordinary run",
        "folds": f"{home} holds a cross-validation",
        "rounds": f"{home} holds the rounds of an iteration",
        "users": f"{home} holds personal students",
    }
    wanted = {
        "run": "a run, or an empty folder",
        "folds": "a cross-validation, or an empty folder",
        "rounds": "the rounds of an iteration, or an empty folder",
        "users": "personal students, or an empty folder",
    }
    fixes = {
        "run": "choose another folder with --out, or add --overwrite",
        "folds": "go on with `tutelage crossval`, choose another folder with --out, or add --overwrite",
        "rounds": "go on with `tutelage iterate`, choose another folder with --out, or add --overwrite",
        "users": "go on with `tutelage personalise`, choose another folder with --out, or add --overwrite",
    }
    raise InputError(holds[found], expected=wanted[kind], fix=fixes[found])
