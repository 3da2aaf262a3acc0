"""From a file, a built-in name or a Python mapping to a recipe, with everything that is wrong told at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from tutelage.errors import InputError, RecipeError, nearest
from tutelage.recipe import problems
from tutelage.recipe.kinds import Section
from tutelage.recipe.learning import Train
from tutelage.recipe.overrides import apply_overrides, from_plain
from tutelage.recipe.reader import Tree, read_file, read_text
from tutelage.recipe.schema import Recipe, Store

S = TypeVar("S", bound=Section)

_SUFFIXES = (".yaml", ".yml", ".json")


def load(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: the name of a built-in recipe, or the path of a file; `./digits` is always a path.
        overrides: texts `key=value` with dotted keys, as `--set` takes them; the later wins.

    Raises:
        RecipeError: the recipe is wrong; every problem of it is in the message.
        InputError: there is no such file, or it is not text.
    """
    return _check(apply_overrides(_read(source), overrides))


def from_text(text: str, name: str = "recipe") -> Recipe:
    """Read a recipe from text, such as `dump` writes; `name` is what messages call it.

    Raises:
        RecipeError: the recipe is wrong; every problem of it is in the message.
    """
    return _check(read_text(text, name))


def from_mapping(mapping: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Make a recipe from what a file would hold, given as a Python mapping.

    Raises:
        RecipeError: the recipe is wrong; every problem of it is in the message.
    """
    return _check(apply_overrides(from_plain(mapping), overrides))


def train_settings(mapping: Mapping[str, Any]) -> Train:
    """The `train` part of a recipe alone, for callers who have everything else in hand.

    Raises:
        RecipeError: a key or a value is wrong; all of them are in the message.
    """
    return _validated(Train, from_plain(mapping), ("train",))


def store_settings(mapping: Mapping[str, Any] | str) -> Store:
    """The `teacher.store` part of a recipe alone.

    Raises:
        RecipeError: a key or a value is wrong; all of them are in the message.
        InputError: it is no mapping.
    """
    if isinstance(mapping, str):
        raise InputError("no such store", given=mapping, expected='"auto", or keys such as {"views": 4}')
    return _validated(Store, from_plain(mapping), ("teacher", "store"))


def builtin_recipes() -> dict[str, str]:
    """The recipes that come along, by name, with the first line of each."""
    lines = {name: text.read_text("utf-8").partition("\n")[0] for name, text in _builtin_files().items()}
    return {name: line.lstrip("# ") for name, line in lines.items()}


def _check(tree: Tree) -> Recipe:
    tree.places.seeds_by_chance = tree.values.get("seeds", ()) is None
    return _validated(Recipe, tree).placed(tree.places)


def _validated(section: type[S], tree: Tree, within: tuple[str, ...] = ()) -> S:
    """A tree as a part of a recipe, or everything that is wrong with it."""
    try:
        made = section.model_validate(tree.values)
    except ValidationError as error:
        raise RecipeError(problems.all_problems(tree, error, within)) from error
    if tree.problems:
        raise RecipeError(problems.all_problems(tree, None))
    return made


def _builtin_files() -> dict[str, Traversable]:
    folder = resources.files("tutelage").joinpath("recipes")
    files = {file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")}
    return dict(sorted(files.items()))


def _read(source: str | Path) -> Tree:
    if isinstance(source, str) and (file := _builtin_files().get(source)) is not None:
        return read_text(file.read_text("utf-8"), file.name)
    if not str(source):
        raise InputError("no recipe was named", fix=f"built-in recipes: {', '.join(_builtin_files())}")
    path = Path(source).expanduser()
    try:
        missing, folder = not path.exists(), path.is_dir()
    except (OSError, ValueError):  # ValueError: a NUL in the path; reading it says so
        missing = folder = False
    if folder:
        inside = _recipes_in(path)
        fix = f"did you mean {inside[0]}?" if len(inside) == 1 else f"it holds {', '.join(map(str, inside[:5]))}"
        raise InputError(f"{path} is a folder, not a recipe", fix=fix if inside else "name a file in it")
    if missing:
        raise InputError(f"no such recipe: {source}", fix=_nearest_file(str(source), path))
    return read_file(path, name=str(source))


def _recipes_in(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in islice(folder.iterdir(), 1000) if file.suffix in _SUFFIXES)
    except OSError:
        return []


def _nearest_file(given: str, path: Path) -> str:
    """A file beside the one that is missing, or in a folder beside the folder that is missing, or a built-in recipe."""
    folders = [path.parent]
    if not path.parent.is_dir() and path.parent.parent.is_dir():
        folders = [folder for folder in islice(path.parent.parent.iterdir(), 200) if folder.is_dir()]
    files = [str(file) for folder in folders for file in _recipes_in(folder)]
    if close := difflib.get_close_matches(given, files, n=1, cutoff=0.7):
        return f"did you mean {close[0]}?"
    known = list(_builtin_files())
    fix = nearest(path.name.removesuffix(".yaml"), known)
    return fix if fix.startswith("did you mean") else f"built-in recipes: {', '.join(known)}"
