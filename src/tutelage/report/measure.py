"""What the models of a run are judged by, in words: accuracy, or exact match where answers are places of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]

__all__ = ["judged_by", "of_questions", "taught", "untaught"]


def of_questions(report: Report) -> bool:
    """Whether the two tasks of a run are the places where answers start and end."""
    return bool((report.get("tasks") or {}).get("questions"))


def judged_by(report: Report) -> str:
    """As captions begin with it."""
    return "Exact match" if of_questions(report) else "Test accuracy"


def taught(report: Report) -> list[Report]:
    """The comparisons of arms that listened to somebody."""
    other = _others(report)
    return [item for item in report["comparisons"] if item["name"] not in other]


def untaught(report: Report) -> list[Report]:
    """The comparisons of arms that learned without a teacher, in another way than the baseline."""
    other = _others(report)
    return [item for item in report["comparisons"] if item["name"] in other]


def _others(report: Report) -> set[str]:
    return {model["name"] for model in report["models"] if model["role"] == "other"}
