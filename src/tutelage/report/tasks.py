"""Several tasks side by side: how every model did on each and on all together, and what distillation added there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.report import numbers, parts
from tutelage.report.figures import colour
from tutelage.report.markup import Safe, tag
from tutelage.report.measure import of_questions
from tutelage.report.tables import bounded, stacked, table

Report = Mapping[str, Any]

__all__ = ["ahead", "outputs", "tasks"]

# What a measure of all tasks together is called, of questions and otherwise.
_TOGETHER = {"right": "exact match", "f1": "F1"}


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
    if of_questions(report):
        title, lead, note = "Places of answers", _places(report), None
    else:
        title, lead, note = "Task by task", _lead(report), _note(found)
    return parts.section(
        title,
        lead,
        note,
        tag("div", _accuracies(found, report), class_="card wide"),
        tag("div", gains, class_="card wide") if (gains := _gains(found)) is not None else None,
    )


def _lead(report: Report) -> str:
    found, seeds = report["tasks"], numbers.plural(len(report["seeds"]), "seed")
    return (
        f"Every model answers {len(found['each'])} tasks at once. All other sections are about ‘{found['main']}’. Test "
        f"accuracy, n = {report['data']['totals']['test']:,}, {seeds}. Validation chose the epochs by the mean over "
        "tasks; p-values are adjusted over all tasks together."
    )


def _note(found: Report) -> Safe | None:
    """What the column of all tasks is; None where an earlier version left it out."""
    if "joint" not in found:
        return None
    said = "All right are examples with all tasks right; p-values of that are adjusted by themselves."
    return tag("p", said, class_="note")


def _places(report: Report) -> str:
    """What the numbers of questions are, and are not."""
    first, last = (row["name"] for row in report["tasks"]["each"])
    seeds = numbers.plural(len(report["seeds"]), "seed")
    return (
        f"A model answers a question with two of {len(report['classes']):,} places of its text, ‘{first}’ and "
        f"‘{last}’; place 0 says that there is no answer. Exact match and F1 are of the likeliest pair of places that "
        "is an answer of at most 30 tokens. They count tokens at their places, not words without articles and "
        "punctuation, and know one true answer to each question: both are stricter than the script of SQuAD. n = "
        f"{report['data']['totals']['test']:,}, {seeds}. Validation chose the epochs by the mean over both places; "
        "p-values of exact match and F1 are adjusted together, and those of the places apart from them."
    )


def _columns(found: Report) -> dict[str, str]:
    """Measures of all tasks together, and what they are called."""
    if "joint" not in found:
        return {}
    return dict(_TOGETHER) if found["questions"] else {"right": "all right"}


def _accuracies(found: Report, report: Report) -> Safe:
    """One row for each model, one column for each task, and those of all together."""
    means = {row["name"]: row["accuracy"] for row in found["mean"]}
    together = _columns(found)
    rows: list[list[str]] = []
    for number, model in enumerate(found["each"][0]["models"]):
        name = tag("span", model["name"], class_=f"key {colour(report, model['name'])}")
        own = [task["models"][number]["accuracy"] for task in found["each"]]
        own += [means[model["name"]], *(found["joint"]["models"][number][key] for key in together)]
        rows.append([name, *(stacked(numbers.percent(one["value"]), bounded(one)) for one in own)])
    often = [numbers.percent(task["majority_share"]) for task in found["each"]]
    frequent = "always the most frequent place" if of_questions(report) else "always the most frequent class"
    rows.append([frequent, *often, *[numbers.MISSING] * (1 + len(together))])
    heads = [f"{task['name']} ↑" for task in found["each"]]
    return table(["Model", *heads, "Mean over tasks ↑", *(f"{_capital(name)} ↑" for name in together.values())], rows)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _gains(found: Report) -> Safe | None:
    """What distillation added, arm by arm, task by task and of all together."""
    named = [(task["name"], one) for task in found["each"] for one in task["comparisons"]]
    if "joint" in found:
        together = _columns(found)
        named += [(together[one["measure"]], one) for one in found["joint"]["comparisons"]]
    rows = [
        [
            one["name"],
            task,
            one["against"],
            stacked(
                numbers.points(one["difference"]["value"], numbers.decimals(one["difference"])),
                numbers.points_interval(one["difference"]),
            ),
            numbers.p_value(one["p_adjusted"]),
        ]
        for task, one in named
    ]
    return table(["Arm", "Task", "Against", "Gain", "p, adjusted"], rows) if rows else None


def ahead(report: Report) -> list[str]:
    """What the card says of it: a sentence and a table; nothing where there is one task."""
    found = report.get("tasks")
    if found is None:
        return []
    together = {} if of_questions(report) else _columns(found)  # of questions the table above has them
    head = ["model", *(f"{task['name']}, %" for task in found["each"]), "mean over tasks, %"]
    head += [f"{name}, %" for name in together.values()]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for number, mean in enumerate(found["mean"]):
        own = [task["models"][number]["accuracy"] for task in found["each"]]
        own += [mean["accuracy"], *(found["joint"]["models"][number][key] for key in together)]
        lines.append(f"| {' | '.join([mean['name'], *map(numbers.spread, own)])} |")
    said = f"The student answers {len(found['each'])} tasks at once; the table above is of ‘{found['main']}’.\n"
    if of_questions(report):
        said = (
            "An answer is two places of the text, where it starts and where it ends; by itself each of them is right "
            "this often. Places are tokens, and each question has one true answer, so exact match and F1 are stricter "
            "than those of SQuAD's script.\n"
        )
    return [said, "\n".join(lines) + "\n"]
