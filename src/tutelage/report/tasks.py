"""Several tasks side by side: how every model did on each, and what distillation added there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.report import numbers, parts
from tutelage.report.figures import colour
from tutelage.report.markup import Safe, tag
from tutelage.report.tables import bounded, stacked, table

Report = Mapping[str, Any]

__all__ = ["ahead", "outputs", "tasks"]


def outputs(report: Report) -> list[str]:
    """What each logit stands for: the classes; of several tasks `task: class`, one after the other."""
    found = report.get("tasks")
    if found is None:
        return list(report["classes"])
    return [f"{row['name']}: {name}" for row in found["each"] for name in row["classes"]]


def tasks(report: Report) -> Safe | None:
    """The section of the page; None where there is one task."""
    found = report.get("tasks")
    if found is None:
        return None
    seeds = numbers.plural(len(report["seeds"]), "seed")
    return parts.section(
        "Task by task",
        f"Every model answers {len(found['each'])} tasks at once. All other sections are about ‘{found['main']}’. Test "
        f"accuracy, n = {report['data']['totals']['test']:,}, {seeds}. Validation chose the epochs by the mean over "
        "tasks; p-values are adjusted over all tasks together.",
        tag("div", _accuracies(found, report), class_="card wide"),
        tag("div", gains, class_="card wide") if (gains := _gains(found)) is not None else None,
    )


def _accuracies(found: Report, report: Report) -> Safe:
    """One row for each model, one column for each task."""
    means = {row["name"]: row["accuracy"] for row in found["mean"]}
    rows: list[list[str]] = []
    for number, model in enumerate(found["each"][0]["models"]):
        name = tag("span", model["name"], class_=f"key {colour(report, model['name'])}")
        own = [task["models"][number]["accuracy"] for task in found["each"]]
        cells = [stacked(numbers.percent(one["value"]), bounded(one)) for one in (*own, means[model["name"]])]
        rows.append([name, *cells])
    often = [numbers.percent(task["majority_share"]) for task in found["each"]]
    rows.append(["always the most frequent class", *often, numbers.MISSING])
    return table(["Model", *(f"{task['name']} ↑" for task in found["each"]), "Mean over tasks ↑"], rows)


def _gains(found: Report) -> Safe | None:
    """What distillation added, arm by arm and task by task."""
    rows = [
        [
            one["name"],
            task["name"],
            one["against"],
            stacked(
                numbers.points(one["difference"]["value"], numbers.decimals(one["difference"])),
                numbers.points_interval(one["difference"]),
            ),
            numbers.p_value(one["p_adjusted"]),
        ]
        for task in found["each"]
        for one in task["comparisons"]
    ]
    return table(["Arm", "Task", "Against", "Gain", "p, adjusted"], rows) if rows else None


def ahead(report: Report) -> list[str]:
    """What the card says of it: a sentence and a table; nothing where there is one task."""
    found = report.get("tasks")
    if found is None:
        return []
    head = ["model", *(f"{task['name']}, %" for task in found["each"]), "mean over tasks, %"]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for number, mean in enumerate(found["mean"]):
        own = [task["models"][number]["accuracy"] for task in found["each"]]
        lines.append(f"| {' | '.join([mean['name'], *map(numbers.spread, own), numbers.spread(mean['accuracy'])])} |")
    said = f"The student answers {len(found['each'])} tasks at once; the table above is of ‘{found['main']}’.\n"
    return [said, "\n".join(lines) + "\n"]
