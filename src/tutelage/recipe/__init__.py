"""Recipes: a file that says everything about a run, read strictly and written out whole.

Importing this room imports no torch, so that a mistyped key is told at once.
"""

from tutelage.recipe.combining import Combine
from tutelage.recipe.dataset import Data, ViewsSpec
from tutelage.recipe.learners import Student
from tutelage.recipe.learning import Stop, Train
from tutelage.recipe.loading import builtin_recipes, from_mapping, from_text, load, store_settings, train_settings
from tutelage.recipe.moving import ScheduleSpec
from tutelage.recipe.overrides import apply_overrides
from tutelage.recipe.problems import check_names
from tutelage.recipe.reader import Tree
from tutelage.recipe.schema import (
    RESUMABLE,
    SCRATCH,
    Recipe,
    Report,
    Store,
    Teacher,
    TermSpec,
    resumable,
)
from tutelage.recipe.writing import diff, dump, json_schema

__all__ = [
    "RESUMABLE",
    "SCRATCH",
    "Combine",
    "Data",
    "Recipe",
    "Report",
    "ScheduleSpec",
    "Stop",
    "Store",
    "Student",
    "Teacher",
    "TermSpec",
    "Train",
    "Tree",
    "ViewsSpec",
    "apply_overrides",
    "builtin_recipes",
    "check_names",
    "diff",
    "dump",
    "from_mapping",
    "from_text",
    "json_schema",
    "load",
    "resumable",
    "store_settings",
    "train_settings",
]
