"""What can be told of a recipe before anything is trained: its data, teacher, student, views, needs and settings."""

from tutelage.run.checks.findings import Checked, Finding
from tutelage.run.checks.recipe import check_recipe

__all__ = ["Checked", "Finding", "check_recipe"]
