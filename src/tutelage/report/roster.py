"""The main table where a run has many models: one row for each, formats of a file below the arm they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.report import numbers
from tutelage.report.figures import colour
from tutelage.report.markup import Safe, tag
from tutelage.report.measure import of_questions
from tutelage.report.tables import file_cell, parameters_cell, plain_cell, share_cell, stacked, table

Report = Mapping[str, Any]

__all__ = ["roster"]


def roster(report: Report) -> Safe:
    """Models down, the measures that most ask for across."""
    compared = {item["name"]: item for item in (*report["comparisons"], *report.get("compressions", ()))}
    timed = sorted({item["batch"] for model in report["models"] for item in model["latency"]})[:1]
    questions = of_questions(report)
    head = ["Model", "Exact match ↑" if questions else "Accuracy ↑", "Difference"]
    head += ["F1 ↑"] if questions else ["NLL ↓", "ECE ↓"]
    head += ["Agrees", "Parameters", "File"]
    head += [f"p50, batch {batch}" for batch in timed]
    rows = []
    for model in report["models"]:
        cells = [
            share_cell(model, "accuracy"),
            _difference(compared.get(model["name"])),
            *([share_cell(model, "f1")] if questions else [plain_cell(model, "nll"), share_cell(model, "ece")]),
            share_cell(model, "agreement"),
            stacked("") if model["of"] else parameters_cell(model),
            file_cell(model),
            *(_time(model, batch) for batch in timed),
        ]
        rows.append([_name(report, model), *cells])
    return table(head, rows, classes="roster")


def _name(report: Report, model: Report) -> Safe:
    """The name in its colour; a format of an arm's file stands under the arm, by its own name alone."""
    if model["of"]:
        return tag("small", f"as {model['compression']}", title=model["name"])
    name = tag("span", model["name"], class_=f"key {colour(report, model['name'])}")
    return tag("span", name, tag("small", f" {model['describes']}") if model["describes"] else None)


def _difference(item: Report | None) -> Safe:
    """The paired difference: of a distilled arm against its own scratch, of a format against what it was made from."""
    if item is None:
        return stacked(numbers.MISSING)
    difference = item["difference"]
    ends = "" if difference["ci_low"] is None else numbers.points_interval(difference)
    return stacked(numbers.points(difference["value"], numbers.decimals(difference)), ends, item["against"])


def _time(model: Report, batch: int) -> Safe:
    row = next((item for item in model["latency"] if item["batch"] == batch), None)
    if row is None:
        return stacked("" if model["of"] else numbers.MISSING)
    ratio = None if model["role"] == "teacher" else row["speed_ratio"]
    below = "" if ratio is None else numbers.against(ratio, "faster", "slower", "as fast")
    return stacked(numbers.milliseconds(row["p50_ms"]), below)
