"""The words of a report that are names and stay as they are in every language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["names_in"]


def names_in(report: Mapping[str, Any]) -> frozenset[str]:
    """Classes, models, the recipe, the data: a class called `File` is not a file."""
    models = report.get("models", ())
    found = {str(name) for name in report.get("classes", ())}
    found |= {str(model[key]) for model in models for key in ("name", "describes", "student") if model.get(key)}
    found |= {str(report[key].get("name")) for key in ("recipe", "data") if key in report}
    return frozenset(found)
