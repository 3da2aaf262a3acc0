"""The tables of the page. Numbers stand in the report already; here they only get digits, units and a place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from tutelage.report import numbers
from tutelage.report.figures import colour
from tutelage.report.markup import Safe, escape, tag
from tutelage.report.measure import of_questions

Report = Mapping[str, Any]
Cell = Any
_RANGE = re.compile(r"(?<=[\d])…(?=[\d+−])")  # where a browser would part the two ends of an interval
LABELS = {
    "accuracy": "Accuracy",
    "f1": "F1 over tokens",
    "all_right": "All tasks right",
    "top5_accuracy": "Top-5 accuracy",
    "hit_rate_10": "Hit rate at 10",
    "ndcg_10": "NDCG at 10",
    "mrr": "Mean reciprocal rank",
    "macro_precision": "Macro precision",
    "macro_recall": "Macro recall",
    "macro_f1": "Macro F1",
    "macro_auc": "Macro AUC",
    "nll": "NLL",
    "brier": "Brier score",
    "ece": "ECE",
    "temperature": "Fitted temperature",
    "nll_scaled": "NLL at the fitted temperature",
    "ece_scaled": "ECE at the fitted temperature",
    "calibration_l2": "Calibration error, debiased",
    "aurc": "AURC",
    "agreement": "Agreement with the teacher",
    "divergence": "KL from the teacher",
    "copied_errors": "Teacher's errors repeated",
}
Row = tuple[str, str, Callable[[Report], Safe]]  # label, hint, cell of a model
_RANKING = [  # share or plain number, metric, label, hint
    ("share", "macro_precision", LABELS["macro_precision"], "↑"),
    ("plain", "macro_auc", LABELS["macro_auc"], "↑"),
    ("share", "aurc", LABELS["aurc"], "↓"),
]
_PLACES = [
    ("share", "top5_accuracy", LABELS["top5_accuracy"], "↑"),
    ("share", "hit_rate_10", LABELS["hit_rate_10"], "↑"),
    ("plain", "ndcg_10", LABELS["ndcg_10"], "0 to 1 ↑"),
    ("plain", "mrr", LABELS["mrr"], "0 to 1 ↑"),
]
_CALIBRATION = [
    ("plain", "brier", LABELS["brier"], "0 to 2 ↓"),
    ("plain", "temperature", LABELS["temperature"], ""),
    ("plain", "nll", LABELS["nll"], "nats ↓"),
    ("plain", "nll_scaled", "at that temperature", "nats ↓"),
    ("share", "ece", LABELS["ece"], "↓"),
    ("share", "ece_scaled", "at that temperature", "↓"),
    ("share", "calibration_l2", LABELS["calibration_l2"], "↓"),
]
_UNITS = ("%", "pp", "ms", "s", "min", "KiB", "MiB", "GiB", "B", "seeds", "seed")


def text(value: str) -> Safe:
    """Escaped text in which no number is parted from its unit at the end of a line."""
    words = value.split(" ")
    glued = words[:1]
    for before, word in pairwise(words):
        tied = before[-1:] == "×" or (before[-1:].isdigit() and word.rstrip(".,;:)") in _UNITS)
        glued.append(("\u00a0" if tied else " ") + word)
    return escape(_RANGE.sub("…\u2060", "".join(glued)))


def table(head: Sequence[Cell], rows: Iterable[Sequence[Cell]], *, classes: str | None = None) -> Safe:
    """A table whose first column names its rows."""
    body = [tag("tr", tag("th", row[0], scope="row"), [_cell(cell) for cell in row[1:]]) for row in rows]
    heads = [cell if _is_cell(cell, "<th") else tag("th", cell, scope="col") for cell in head]
    return tag("table", tag("thead", tag("tr", heads)), tag("tbody", body), class_=classes)


def _is_cell(cell: Cell, opening: str) -> bool:
    return isinstance(cell, Safe) and cell.startswith(opening)


def _cell(cell: Cell) -> Safe:
    return cell if _is_cell(cell, "<td") else tag("td", text(cell) if type(cell) is str else cell)


def stacked(value: str, *below: str) -> Safe:
    """A number with what qualifies it in small print underneath."""
    return tag("td", text(value), [tag("small", text(line)) for line in below if line])


def share_cell(model: Report, key: str) -> Safe:
    estimate = model["metrics"].get(key)
    if estimate is None or (model["role"] == "teacher" and key in ("agreement", "divergence", "copied_errors")):
        return stacked(numbers.MISSING)
    return stacked(numbers.percent(estimate["value"]), bounded(estimate))


def bounded(estimate: numbers.Estimate, scale: float = 100.0, least: int = 1) -> str:
    return "" if estimate["ci_low"] is None else numbers.interval(estimate, scale, least)


def plain_cell(model: Report, key: str) -> Safe:
    """A number that is no share: nats, a score, a temperature."""
    estimate = model["metrics"].get(key)
    if estimate is None or (model["role"] == "teacher" and key == "divergence"):
        return stacked(numbers.MISSING)
    return stacked(f"{estimate['value']:.3f}", bounded(estimate, 1.0, 3))


def main(report: Report) -> Safe:
    """Metrics down, models across: so it fits a phone and grows to the right with more arms."""
    return _across(report, [_quality(report), _fidelity(report), _cost(report)])


def more(report: Report) -> Safe | None:
    """The measures beyond the main ones, or nothing where an earlier version left them out, or they say nothing."""
    groups = [_present(report, group) for group in (_RANKING, _CALIBRATION)]
    # NLL and ECE stand here once more, beside what one temperature makes of them.
    if not any(key not in ("nll", "ece") for group in groups for _, key, _, _ in group):
        return None
    return _across(report, [[_row(*row) for row in group] for group in groups])


def _across(report: Report, groups: Sequence[Sequence[Row]]) -> Safe:
    """Groups of rows as one table with a column for each model."""
    models = report["models"]
    head = [tag("th", "Measure")]
    for model in models:
        words = model["describes"] or ("" if model["role"] != "baseline" else "the same student, without the teacher")
        name = tag("span", model["name"], class_=f"key {colour(report, model['name'])}")
        head.append(tag("th", name, tag("small", words) if words else None, scope="col"))
    rows = []
    for group in groups:
        for index, (label, hint, cell) in enumerate(group):
            edge = "first" if index == 0 else "last" if index == len(group) - 1 else None
            title = tag(
                "th",
                label,
                tag("small", f" {hint}", class_="own" if len(hint) > 8 else None) if hint else None,
                scope="row",
            )
            rows.append(tag("tr", title, [cell(model) for model in models], class_=edge))
    return tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="main", style=f"--n:{len(models)}")


def _row(kind: str, key: str, label: str, hint: str) -> Row:
    return label, hint, partial(share_cell if kind == "share" else plain_cell, key=key)


def _present(report: Report, group: Sequence[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
    return [row for row in group if any(row[1] in model["metrics"] for model in report["models"])]


def _quality(report: Report) -> list[Row]:
    if of_questions(report):
        return [
            ("Exact match", "↑", lambda model: share_cell(model, "accuracy")),
            ("95 % over test examples", "", lambda model: stacked(numbers.interval(model["accuracy_items"]))),
            ("Share of the teacher's", "", retained_cell),
            (LABELS["f1"], "↑", lambda model: share_cell(model, "f1")),
        ]
    top = _present(report, _PLACES)
    return [
        (LABELS["accuracy"], "↑", lambda model: share_cell(model, "accuracy")),
        ("95 % over test examples", "", lambda model: stacked(numbers.interval(model["accuracy_items"]))),
        ("Share of the teacher's", "", retained_cell),
        *(_row(*row) for row in top),
        (LABELS["macro_recall"], "balanced accuracy ↑", lambda model: share_cell(model, "macro_recall")),
        (LABELS["macro_f1"], "↑", lambda model: share_cell(model, "macro_f1")),
        (LABELS["nll"], "nats ↓", lambda model: plain_cell(model, "nll")),
        (LABELS["ece"], "↓", lambda model: share_cell(model, "ece")),
    ]


def retained_cell(model: Report) -> Safe:
    if model["role"] == "teacher" or model["retained"] is None:
        return stacked(numbers.MISSING)
    return stacked(numbers.percent(model["retained"]["value"]), bounded(model["retained"]))


def _fidelity(report: Report) -> list[Row]:
    where = "of where answers start" if of_questions(report) else ""
    rows: list[Row] = [
        (LABELS["agreement"], where, lambda model: share_cell(model, "agreement")),
        (LABELS["divergence"], "nats", lambda model: plain_cell(model, "divergence")),
    ]
    if "copied_errors" in report["models"][0]["metrics"]:
        rows.append((LABELS["copied_errors"], "", lambda model: share_cell(model, "copied_errors")))
    return rows


def _cost(report: Report) -> list[Row]:
    rows: list[Row] = [("Parameters", "", parameters_cell), ("File", "", file_cell)]
    timed = {item["batch"]: item for model in reversed(report["models"]) for item in model["latency"]}
    for batch, item in sorted(timed.items()):
        words = f"batch {batch}, {numbers.plural(item['threads'], 'thread')}, {item['n']:,} calls"
        rows.append(("Latency p50", words, partial(_latency, batch=batch)))
    rows.append(("Runs", "", lambda model: stacked(str(len(model["runs"])))))
    return rows


def parameters_cell(model: Report) -> Safe:
    return stacked(numbers.count(model["parameters"] or None), _fewer(model, "parameter_ratio", "fewer", "more"))


def file_cell(model: Report) -> Safe:
    return stacked(numbers.size(model["file_bytes"] or None), _fewer(model, "size_ratio", "smaller", "larger"))


def _fewer(model: Report, key: str, more: str, less: str) -> str:
    if model["role"] == "teacher" or model[key] is None:
        return ""
    return numbers.against(model[key], more, less, "the same")


def _latency(model: Report, batch: int) -> Safe:
    item = next((item for item in model["latency"] if item["batch"] == batch), None)
    if item is None:
        return stacked(numbers.MISSING)
    known = model["role"] != "teacher" and item["speed_ratio"] is not None
    ratio = numbers.against(item["speed_ratio"], "faster", "slower", "as fast") if known else ""
    edges = f"{numbers.significant(item['ci_low_ms'])}…{numbers.significant(item['ci_high_ms'])}"
    tail = f"p90 {numbers.milliseconds(item['p90_ms'])}"
    return stacked(numbers.milliseconds(item["p50_ms"]), ratio, edges, tail)


def runs(report: Report) -> Safe:
    """Every run on its own."""
    rows, questions = [], of_questions(report)
    for model in report["models"]:
        for run in model["runs"]:
            found = run["metrics"]
            seed = numbers.MISSING if run["seed"] is None else str(run["seed"])
            epoch = numbers.MISSING if run["kept_epoch"] is None else str(run["kept_epoch"])
            keys = ("accuracy", "f1") if questions else ("accuracy", "macro_recall", "ece", "agreement")
            cells = [numbers.percent(found[key], 2) for key in keys]
            if not questions:
                cells.insert(2, f"{found['nll']:.4f}")
            rows.append([model["name"], seed, epoch, *cells])
    measures = ["Exact match", "F1"] if questions else ["Accuracy", "Macro recall", "NLL", "ECE", "Agreement"]
    return table(["Model", "Seed", "Epoch kept", *measures], rows)


def comparisons(report: Report) -> Safe:
    """The paired tests, one column for each distilled student."""
    items = report["comparisons"]
    rows: list[list[Cell]] = [
        ["Difference", *(numbers.points(item["difference"]["value"], 2) for item in items)],
        ["95 % by seed, pp", *(_points(item["by_seed"]) for item in items)],
        ["95 % by test example, pp", *(_points(item["by_example"]) for item in items)],
        [items[0]["p_method"], *(numbers.p_value(item["p"]) for item in items)],
        ["after Holm's correction", *(numbers.p_value(item["p_adjusted"]) for item in items)],
        ["Examples newly right", *(numbers.count(item["newly_right"]) for item in items)],
        ["Examples newly wrong", *(numbers.count(item["newly_wrong"]) for item in items)],
        ["Least detectable with this n", *(numbers.percent(item["minimum_detectable"], 2) for item in items)],
    ]
    seeds = sorted({gain["seed"] for item in items for gain in item["per_seed"]})
    for seed in seeds:
        gains = [{gain["seed"]: gain["difference"] for gain in item["per_seed"]} for item in items]
        rows.append([f"Seed {seed}", *(numbers.points(gain.get(seed), 2) for gain in gains)])
    return table(["", *(f"{item['name']} − {item['against']}" for item in items)], rows)


def folds(report: Report) -> Safe:
    """Of a cross-validation: differences in test accuracy, one column for each fold."""
    found = report["folds"]
    numbered = [f"Fold {number}" for number in range(1, found["count"] + 1)]
    rows = [
        [
            f"{item['name']} − {item['against']}",
            numbers.points(item["difference"]["value"], 2),
            numbers.points_interval(item["difference"]),
            numbers.p_value(item["p"]),
            *(numbers.points(value, 2) for value in item["per_fold"]),
        ]
        for item in found["comparisons"]
    ]
    return table(["", "Mean", "95 % over folds, pp", "p", *numbered], rows)


def _points(estimate: numbers.Estimate | None) -> str:
    return numbers.MISSING if estimate is None else numbers.points_interval(estimate)


def curve(report: Report, metric: str, *, share: bool) -> Safe:
    """One training curve as numbers: mean and span over seeds at every epoch."""
    by_arm = report["curves"][metric]
    points = {name: {point["epoch"]: point for point in series} for name, series in by_arm.items()}

    def cell(name: str, epoch: int) -> str:
        point = points[name].get(epoch)
        if point is None:
            return numbers.MISSING
        scale, digits = (100, 2) if share else (1, 4)
        mean, low, high = (f"{point[key] * scale:.{digits}f}" for key in ("mean", "low", "high"))
        return mean if point["seeds"] == 1 else f"{mean} ({low}…{high})"

    epochs = sorted({epoch for series in points.values() for epoch in series})
    return table(["Epoch", *by_arm], [[str(epoch), *(cell(name, epoch) for name in by_arm)] for epoch in epochs])
