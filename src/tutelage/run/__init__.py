"""Executing a job in a folder: teacher, cohorts, judgement; the same call again goes on where the last one stopped."""

from tutelage.run.caching import build_store, estimate_store, repair_store
from tutelage.run.checks import Checked, check_recipe
from tutelage.run.compare import Comparison, compare_runs
from tutelage.run.execute import Run, execute, run_recipe
from tutelage.run.iterate import iterate
from tutelage.run.iteration import Iteration
from tutelage.run.personal import personalise
from tutelage.run.python import distill
from tutelage.run.students import load_student
from tutelage.run.usertable import Personal

__all__ = [
    "Checked",
    "Comparison",
    "Iteration",
    "Personal",
    "Run",
    "build_store",
    "check_recipe",
    "compare_runs",
    "distill",
    "estimate_store",
    "execute",
    "iterate",
    "load_student",
    "personalise",
    "repair_store",
    "run_recipe",
]
