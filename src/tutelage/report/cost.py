"""What the models cost: tables of time, size, memory and energy, and the frontier that they span with accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tutelage.evaluation.energy import energy_of
from tutelage.report import figures, numbers, parts, plane, tables
from tutelage.report.markup import Safe, tag
from tutelage.report.measure import judged_by, of_questions

Report = Mapping[str, Any]
Energy = Mapping[str, Any]  # {joules, source, words}
_ESTIMATE = "estimate"
_MOST_SHOWN = 12  # models in a table that is not folded
_ALL_NAMED = 8  # points of a chart in which each has its name


def cost(report: Report) -> Safe | None:
    """The section "What it costs"; None where nothing was timed and nothing spans a frontier."""
    batches = sorted({item["batch"] for model in report["models"] for item in model["latency"]})
    drawn = frontier(report)
    if not batches and drawn is None:
        return None
    cards = [_card(report, batch) for batch in batches]
    timed = (
        "Times were taken in turns on one machine's CPU, so that what slows one model slows all; the small numbers are "
        "95 % intervals. Memory is that of the weights and of one call; energy is that of 1,000 examples."
    )
    lead = timed if batches else "Nothing was timed in this run."
    return parts.section("What it costs", lead, drawn, cards, _note(report, batches))


def _card(report: Report, batch: int) -> Safe:
    """The table of one batch size, folded where there are very many models."""
    table = _batch(report, batch)
    if len(report["models"]) > _MOST_SHOWN:
        return parts.more(f"Every model at batch {batch}", tag("div", table, class_="card wide"))
    return tag("div", tag("h3", f"Batch {batch}"), table, class_="card wide", style="margin-top:16px")


def frontier(report: Report) -> Safe | None:
    """Accuracy against file size and against time, the models that no other beats joined; None without such points."""
    found = report.get("frontier") or {"points": []}
    points: Sequence[Report] = found["points"]
    cards = [
        _plane(report, [point for point in points if point["file_bytes"]], plane.SIZE, "on_size"),
        _plane(report, [point for point in points if point["p50_ms"]], plane.TIME, "on_latency"),
    ]
    shown = [card for card in cards if card is not None]
    return tag("div", shown, class_="pair-of") if shown else None


def _plane(report: Report, points: Sequence[Report], axis: plane.Axis, edge: str) -> Safe | None:
    if len(points) < 2:
        return None
    bases = {(point["student"], point["method"]): point for point in points if not point["compression"]}
    marks = []
    for point in points:
        base = bases.get((point["student"], point["method"]), point)
        low, value, high = _cost(point, edge)
        accuracy = point["accuracy"]
        marks.append(
            plane.Mark(
                name=point["name"],
                across=(low, value, high),
                up=(accuracy["ci_low"], accuracy["value"], accuracy["ci_high"]),
                shape={"teacher": "triangle", "baseline": "square"}.get(base["role"], "circle"),
                hollow=bool(point["compression"]),
                paint=figures.colour(report, base["name"]),
                on_edge=point[edge],
                named=point[edge] or point["role"] == "teacher" or len(points) <= _ALL_NAMED,
                says=f"{point['name']}: {_accuracy(point)}, {_costs(point, edge)}",
            )
        )
    questions = of_questions(report)
    picture, numbered = plane.draw(marks, replace(axis, up="exact match, %") if questions else axis)
    key = (
        tag("p", [tag("span", f"{number} {name}") for number, name in numbered], class_="legend") if numbered else None
    )
    title = "Accuracy against file size" if edge == "on_size" else "Accuracy against time"
    if questions:
        title = "Exact match against file size" if edge == "on_size" else "Exact match against time"
    return parts.figure(title, [picture, key], _caption(report, points, edge), _points(report, points, edge))


def _cost(point: Report, edge: str) -> tuple[float | None, float, float | None]:
    """What a point costs on one of the two axes, between the ends of its interval."""
    if edge == "on_size":
        return None, point["file_bytes"], None
    return point["p50_ms"]["ci_low"], point["p50_ms"]["value"], point["p50_ms"]["ci_high"]


def _costs(point: Report, edge: str) -> str:
    return numbers.size(point["file_bytes"]) if edge == "on_size" else numbers.milliseconds(point["p50_ms"]["value"])


def _accuracy(point: Report) -> str:
    return numbers.percent(point["accuracy"]["value"], 2)


def _caption(report: Report, points: Sequence[Report], edge: str) -> str:
    several = len(report["seeds"]) > 1
    hollow, exported = any(point["compression"] for point in points), bool(report.get("exports"))
    shapes = {
        "Triangle: the teacher.": any(point["role"] == "teacher" for point in points),
        "Squares: learned without it.": any(point["role"] == "baseline" for point in points),
        "Circles: the other students.": any(point["role"] in ("distilled", "other") for point in points),
        "Hollow: compressed weights.": hollow and not exported,
        "Hollow: the same student in another file.": hollow and exported,
    }
    setting = report["frontier"]
    named = "" if len(points) <= _ALL_NAMED else "; those and the teacher are named"
    timed = (
        f" Time is the median of a call at batch {setting['batch']}, {numbers.plural(setting['threads'], 'thread')}."
        if edge == "on_latency" and setting.get("batch")
        else ""
    )
    return (
        f"{judged_by(report)}, n = {report['data']['totals']['test']:,}, "
        f"{numbers.plural(len(report['seeds']), 'seed')}; crosses are 95 % intervals, of accuracy over "
        f"{'seeds' if several else 'test examples'}.{timed} The line joins the models that no other beats in both, by "
        f"their values{named}. {' '.join(words for words, there in shapes.items() if there)} Points at one place stand "
        "side by side."
    )


def _points(report: Report, points: Sequence[Report], edge: str) -> Safe:
    """All points of one chart as numbers."""
    size = edge == "on_size"
    head = [
        "Model",
        "Exact match" if of_questions(report) else "Accuracy",
        "95 %",
        *(["File", "Parameters", "Multiply-adds"] if size else ["p50", "95 %"]),
        "On the line",
    ]
    rows = []
    for point in points:
        p50 = point["p50_ms"]
        kept = [numbers.count(point["parameters"] or None), numbers.count(point["multiply_adds"])]
        spent = kept if size else [_between(p50["ci_low"], p50["ci_high"])]
        row = [_accuracy(point), numbers.interval(point["accuracy"]), _costs(point, edge), *spent]
        rows.append([point["name"], *row, "yes" if point[edge] else "no"])
    return tables.table(head, rows)


def _batch(report: Report, batch: int) -> Safe:
    """One row for each model: what a call takes at one batch size, and what the model is."""
    rows = [(model, _item(model, batch)) for model in report["models"]]
    energies = [_energy(item) for _, item in rows if item is not None]
    estimated = any(energy["source"] == _ESTIMATE for energy in energies)
    first = next(item for _, item in rows if item is not None)
    under = f"{numbers.plural(first['threads'], 'thread')}, {first['n']:,} calls"
    head = [
        "Model", _head("p50", under), "p90", "p95", _head("Faster", "than the teacher"),
        "Memory", _head("Energy", "1,000 examples" + (f", {_ESTIMATE}" if estimated else "")),
        "Parameters", "Multiply-adds", "File",
    ]  # fmt: skip
    body = [
        [
            tag("span", model["name"], class_=f"key {figures.colour(report, model['name'])}"),
            *_times(item),
            numbers.count(model["parameters"] or None),
            numbers.count(model.get("multiply_adds") or None),
            numbers.size(model["file_bytes"] or None),
        ]
        for model, item in rows
    ]
    return tables.table(head, body, classes="sticky")


def _times(item: Report | None) -> list[Any]:
    """The cells that belong to one batch size."""
    if item is None:
        return [numbers.MISSING] * 6
    rare = item.get("p99_ms")
    energy = _energy(item)
    return [
        _two(numbers.milliseconds(item["p50_ms"]), _between(item["ci_low_ms"], item["ci_high_ms"])),
        numbers.milliseconds(item["p90_ms"]),
        _two(numbers.milliseconds(item.get("p95_ms")), "" if rare is None else f"p99 {numbers.milliseconds(rare)}"),
        _faster(item),
        numbers.size(item.get("peak_bytes")),
        _two(_joules(energy["joules"]), "" if energy["source"] == _ESTIMATE else f"by {energy['source'].upper()}"),
    ]


def _faster(item: Report) -> Any:
    ratio, low, high = (item.get(key) for key in ("speed_ratio", "speed_low", "speed_high"))
    if ratio is None:  # also where the two were timed with other threads
        return numbers.MISSING
    within = "" if low is None or high is None else f"{low:.2f}…{high:.2f}"
    return _two(f"{ratio:.2f}×", within)


def _item(model: Report, batch: int) -> Report | None:
    return next((item for item in model["latency"] if item["batch"] == batch), None)


def _energy(item: Report) -> Energy:
    """As it was measured, or an estimate from the times where it was not."""
    return item.get("energy") or energy_of([item])[0].to_json()


def _note(report: Report, batches: Sequence[int]) -> Safe | None:
    """Where the joules come from, and how many the whole run took."""
    items = [item for model in report["models"] for item in model["latency"]]
    words = list(dict.fromkeys(_energy(item)["words"] for item in items))
    sentences = [f"Energy: {'; '.join(words)}."] if batches else []
    whole = report.get("energy")
    if whole:
        sentences.append(f"The whole run took {_joules(whole['joules'])} ({whole['words']}).")
    return tag("p", tables.text(" ".join(sentences)), class_="note") if sentences else None


def _joules(value: float) -> str:
    """`0.0123 J`, `12.3 kJ`."""
    for unit in ("J", "kJ", "MJ"):
        if value < 1000:
            return f"{numbers.significant(value)}\u00a0{unit}"
        value /= 1000
    return f"{numbers.significant(value)}\u00a0GJ"


def _between(low: float, high: float) -> str:
    return f"{numbers.significant(low)}…{numbers.significant(high)}"


def _two(value: str, below: str) -> Safe:
    return tag("td", tables.text(value), tag("small", tables.text(below)) if below else None)


def _head(title: str, below: str) -> Safe:
    small = tag("small", below, style="display:block;font-weight:400;color:var(--faint);font-size:12px")
    return tag("th", title, small, scope="col")
