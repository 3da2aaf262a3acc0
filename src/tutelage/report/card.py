"""The card that travels with the student: Hugging Face reads its head, people read its body.

Everything in it comes from the report object. What is not known, such as the licence, is said to be unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tutelage.report import facts, numbers
from tutelage.report.verdict import verdict

Report = Mapping[str, Any]
_HUB_METRICS = {"accuracy": "accuracy", "macro_recall": "recall", "macro_f1": "f1"}


def card(report: Report) -> str:
    """README.md of the run folder, as Markdown with a YAML head."""
    said = verdict(report)
    parts = [
        f"---\n{_head(report)}---\n",
        f"# {_plain(report['recipe']['name'])}\n",
        _plain(said.text) + "\n",
        "## Results\n",
        _table(report),
        f"n = {report['data']['totals']['test']:,} test examples of {_plain(report['data']['name'])}, "
        f"{numbers.plural(len(report['seeds']), 'seed')}. ± is half of the 95 % interval over seeds. "
        "All numbers are in `report.json`, with intervals over test examples too; `report.html` shows them.\n",
        "## Load the student\n",
        _fenced(report["load_snippet"], "python"),
        "## Limits\n",
        "\n".join(f"- {_plain(line)}" for line in _limits(report, said.warnings)) + "\n",
        "## Get the same numbers\n",
        _fenced(report["command"], "console"),
        f"<details><summary>The recipe</summary>\n\n{_fenced(report['recipe']['text'], 'yaml')}\n</details>\n",
        "\n".join(f"- {name}: {_plain(value)}" for name, value in facts.rows(report)) + "\n",
    ]
    return "\n".join(parts)


def _head(report: Report) -> str:
    """Metadata that the Hugging Face hub accepts."""
    data, task = report["data"], report["data"]["task"]
    model = next(model for model in report["models"] if model["name"] == report["headline"])
    metrics = [
        {"type": hub, "value": round(model["metrics"][ours]["value"], 6), "name": ours.replace("_", " ")}
        for ours, hub in _HUB_METRICS.items()
    ]
    dataset = {"name": data["name"], "type": data["name"], "split": "test"}
    result = {"task": {"type": task, "name": task.replace("-", " ")}, "dataset": dataset, "metrics": metrics}
    head = {
        "license": "unknown",
        "library_name": "pytorch",
        "pipeline_tag": task,
        "tags": ["knowledge-distillation", "model-compression", "tutelage", task],
        "model-index": [{"name": report["recipe"]["name"], "results": [result]}],
    }
    return str(yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=100))


def _table(report: Report) -> str:
    """The main table in short."""
    times = any(model["latency"] for model in report["models"])
    head = ["model", "accuracy, %", "macro recall, %", "NLL", "ECE, %", "parameters", "file"]
    rows = []
    for model in report["models"]:
        found = model["metrics"]
        row = [_cell(model["name"]), *(numbers.spread(found[key]) for key in ("accuracy", "macro_recall"))]
        row += [f"{found['nll']['value']:.3f}", f"{found['ece']['value'] * 100:.1f}"]
        row += [numbers.count(model["parameters"] or None), numbers.size(model["file_bytes"] or None)]
        if times:
            row.append(numbers.milliseconds(model["latency"][0]["p50_ms"] if model["latency"] else None))
        rows.append(row)
    if times:
        item = next(model["latency"][0] for model in report["models"] if model["latency"])
        head.append(f"p50, batch {item['batch']}, {numbers.plural(item['threads'], 'thread')}")
    lines = [_row(head), _row(["---"] + ["---:"] * (len(head) - 1)), *(_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _limits(report: Report, warnings: Sequence[str]) -> list[str]:
    """What a user of the student must not assume."""
    judged = [row for row in report["per_class"] if row["interval"] is not None]
    weak = sorted(judged, key=lambda row: float(row["recall"][report["headline"]]))[:3]
    names = ", ".join(f"‘{row['class']}’ {numbers.percent(row['recall'][report['headline']])}" for row in weak)
    return [
        f"It knows {numbers.plural(len(report['classes']), 'class')} and names one of them for any input, "
        "also for inputs unlike those it was trained on.",
        f"Weakest classes by recall on the test part: {names}.",
        "It was taught by a model: errors and unfairness of the teacher may have been passed on.",
        "The licences of the teacher and of the data apply; this card does not know them.",
        *warnings,
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Text in which Markdown and HTML find nothing to act on; one line stays one line."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]<>#])", r"\\\1", flat).replace("\\<", "&lt;").replace("\\>", "&gt;")


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"
