"""Where a student got better or worse: recall class by class, and what is mistaken for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.report import numbers
from tutelage.report.figures import colour
from tutelage.report.markup import Safe, tag
from tutelage.report.tables import table, text

Report = Mapping[str, Any]
MOST_ROWS = 40
_MARKS = {"precision": "precision", "recall": "recall", "f1": "F1", "auc": "AUC"}
_SHADES = 10


def classes(report: Report) -> Safe:
    """Recall of every class; beyond 40 classes only those that moved most."""
    rows, key, note = _shown(report)
    names = list(report["confusion"]["models"])
    moved = key == "change"
    title = "Change" if moved else "Against the teacher"
    widest = max((abs(row[key]) for row in rows), default=0.0) or 1.0
    heads = [tag("th", tag("span", name, class_=f"key {colour(report, name)}"), scope="col") for name in names]
    body = [
        [
            row["class"],
            *(numbers.percent(row["recall"][name]) for name in names),
            tag("td", _bar(row[key], widest, starred=moved and row["changed"])),
            tag("td", text(numbers.interval(row["interval"])), class_="nowrap"),
            numbers.count(row["n"]),
        ]
        for row in rows
    ]
    found = table(["Class", *heads, title, f"{names[-1]}, 95 % CI", "n"], body, classes="sticky")
    return found if note is None else tag("div", tag("p", note, class_="note"), found)


def _shown(report: Report) -> tuple[list[Report], str, str | None]:
    """The rows of classes that are shown, by what they are compared, and what to say if they are not all."""
    rows = [row for row in report["per_class"] if row["n"]]
    key = "change" if any(row["change"] is not None for row in report["per_class"]) else "cost"
    if len(rows) <= MOST_ROWS:
        return rows, key, None
    half = MOST_ROWS // 2
    ordered = sorted(rows, key=lambda row: float(row[key]))
    note = f"The {half} classes that lost most and the {half} that gained most, of {len(rows):,}."
    return [*ordered[:half], *ordered[-half:]], key, note


def marks(report: Report) -> Safe | None:
    """Precision, recall, F1 and AUC of the classes above, or nothing where an earlier version left them out."""
    rows, _, _ = _shown(report)
    if not all(mark in row for row in rows for mark in _MARKS):
        return None
    names = list(report["confusion"]["models"])
    heads = [
        tag("th", tag("span", name, class_=f"key {colour(report, name)}"), tag("br"), title, scope="col")
        for title in _MARKS.values()
        for name in names
    ]
    body = [[row["class"], *(_mark(row, mark, name) for mark in _MARKS for name in names)] for row in rows]
    return table(["Class", *heads], body, classes="sticky")


def _mark(row: Report, mark: str, name: str) -> str:
    value = row[mark][name]
    if mark != "auc" or value is None:
        return numbers.percent(value)
    return f"{value:.3f}"


def _bar(value: float, widest: float, *, starred: bool) -> Safe:
    """A difference as a bar to the left or right of a middle line, with its number."""
    width = abs(value) / widest * 50
    left = 50.0 if value > 0 else 50 - width
    bar = tag("i", style=f"left:{left:.1f}%;width:{width:.1f}%", class_="neg" if value < 0 else None)
    star = tag("span", " *", class_="mark", title="survives a false-discovery rate of 5 %") if starred else None
    return tag("div", tag("div", bar, class_="bar"), tag("span", text(numbers.points(value)), star), class_="delta")


def heat(report: Report, name: str) -> Safe:
    """One confusion matrix in percent of the row; what rounds to 0 is left to the eye as an empty cell."""
    rates = report["confusion"]["rates"][name]
    heading = tag("h3", tag("span", name, class_=f"key {colour(report, name)}"))
    return tag("figure", heading, _grid(report, rates, _shade, "heat"))


def heat_difference(report: Report) -> Safe:
    """The headline student minus the baseline, in points: teal is better, so fewer mistakes are teal as well."""
    rates, models = report["confusion"]["difference"], report["confusion"]["models"]
    widest = max(abs(value) for row in rates for value in row) or 1.0

    def cell(value: float, diagonal: bool) -> Safe:
        strength = round(abs(value) / widest * _SHADES * 0.8) / _SHADES
        side = "up" if (value > 0) == diagonal else "down"
        style = f"background:rgb(var(--{side})/{strength:g})" if strength else None
        # A cell is as wide as three figures.
        shown = f"{value * 100:+.{0 if abs(value) >= 0.0995 else 1}f}".replace("-", "−") if abs(value) >= 0.0005 else ""
        return tag("td", shown, style=style)

    heading = tag("h3", f"{models[-1]} − {models[-2]}, points")
    return tag("figure", heading, _grid(report, rates, cell, "heat difference"))


def _shade(value: float, diagonal: bool) -> Safe:
    level = round(value**0.6 * _SHADES)  # mistakes are few, so the scale is stretched where they are
    shown = f"{value * 100:.0f}" if value >= 0.005 else ""
    classes = f"h{level}" + (" d" if diagonal else "")
    return tag("td", shown, class_=classes if level or diagonal else None)


def _grid(report: Report, rates: Sequence[Sequence[float]], cell: Any, classes: str) -> Safe:
    names = report["classes"]
    head = [tag("th", "true ↓ said →", class_="corner")]
    head += [tag("th", tag("span", name), scope="col", title=name) for name in names]
    rows = [
        tag("tr", tag("th", name, scope="row", title=name), [cell(v, i == j) for j, v in enumerate(row)])
        for i, (name, row) in enumerate(zip(names, rates, strict=True))
    ]
    return tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_=classes)


def pairs(report: Report) -> Safe:
    """The most common mistakes of the headline student, and how often the others make them."""
    names = report["confusion"]["models"]
    rows = [
        [
            tag("span", pair["true"], " → ", pair["predicted"]),
            numbers.count(pair["n"]),
            *(numbers.percent(pair["rates"][name]) for name in names),
        ]
        for pair in report["confusion"]["pairs"]
    ]
    return table(["True → said", "n", *names], rows)
