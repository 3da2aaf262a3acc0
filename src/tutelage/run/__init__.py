"""Executing a job in a folder: teacher, cohorts, judgement; the same call again goes on where the last one stopped."""

from tutelage.run.execute import Run, execute, run_recipe
from tutelage.run.python import distill
from tutelage.run.students import load_student

__all__ = ["Run", "distill", "execute", "load_student", "run_recipe"]
