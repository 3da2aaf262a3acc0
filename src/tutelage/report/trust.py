"""Whether a student's confidence can be believed, and how closely it follows its teacher, its mistakes included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tutelage.report import figures, numbers, parts, tables, trustcharts
from tutelage.report.markup import Safe, join, tag
from tutelage.report.measure import of_questions

Report = Mapping[str, Any]
_STANTON = (
    "High agreement is not higher accuracy: a student may follow its teacher more closely and be right less often "
    "(Stanton et al., 2021)."
)
_MOST_ROWS = 12  # a longer table scrolls in its card
_MOST_ACROSS = 4
_PARTS = (("test", "test part"), ("train", "training part"))


def calibration(report: Report) -> Safe | None:
    """The section about confidence: reliability, risk against coverage, ROC, and what one temperature mends.

    None where the report holds no points to draw.
    """
    drawn = report.get("drawn")
    if not drawn or not drawn["models"] or of_questions(report):
        return None
    cards = [card for group in _groups(report) for card in _curves(report, group)]
    temperatures = _temperatures(report)
    lead = "A model that says 90 % should be right nine times in ten."
    if temperatures is not None:
        lead += (
            " Where it is not, one temperature fitted on the validation part often mends it, and what that alone mends "
            "is nothing that distillation should be credited with."
        )
    return parts.section("Can its confidence be believed?", lead, tag("div", cards, temperatures, class_="pair-of"))


def _groups(report: Report) -> list[list[str]]:
    """The drawn models by student, the teacher with each: a chart compares a few lines, not all there are."""
    drawn = report["drawn"]["models"]
    by_student: dict[str, list[str]] = {}
    for model in report["models"]:
        if model["name"] in drawn and model["role"] != "teacher":
            by_student.setdefault(model.get("student", ""), []).append(model["name"])
    teacher = [model["name"] for model in report["models"] if model["role"] == "teacher" and model["name"] in drawn]
    return [[*teacher, *names] for names in by_student.values()] or [teacher]


def _curves(report: Report, names: Sequence[str]) -> list[Safe | None]:
    drawn = report["drawn"]
    models = {name: drawn["models"][name] for name in names}
    n = f"n = {drawn['n']:,}, {_seeds(models)}"
    bins = max((model["reliability"] for model in models.values()), key=len)
    legend = figures.legend(report, names)
    reliability = parts.figure(
        "Confidence against accuracy",
        legend + trustcharts.reliability(report, names),
        f"{n} pooled. One dot is one of {numbers.plural(len(bins), 'bin')} of equal size (about {bins[0]['n']:,} "
        "answers), its line Wilson's 95 % interval; under the dotted line a model is too sure of itself. Below: how "
        "its answers spread over confidence.",
        _reliability_table(models),
    )
    risk = parts.figure(
        "Errors among the answers it is surest of",
        legend + trustcharts.risk_coverage(report, names),
        f"{n}, mean over seeds. Share of wrong answers when only the surest are kept; lower is better, and a curve "
        "that rises says that confidence tells right from wrong.",
        _points_table(models, "risk_coverage", ("coverage", "risk"), ("Coverage", "error rate")),
    )
    if any(model["roc"] is None for model in models.values()):
        return [reliability, risk]
    roc = parts.figure(
        "One class against the rest",
        legend + trustcharts.roc(report, names),
        f"{n}, mean over seeds and classes of the ROC curve{_areas(report, names)}. The lower axis is stretched at its "
        "left end, so chance, the dotted line, is bent.",
        _points_table(models, "roc", ("false_positive", "true_positive"), ("False positives", "true positives")),
    )
    return [reliability, risk, roc]


def _seeds(models: Mapping[str, Report]) -> str:
    return numbers.plural(max(model["seeds"] for model in models.values()), "seed")


def _areas(report: Report, names: Sequence[str]) -> str:
    rows = {model["name"]: model["metrics"].get("macro_auc") for model in report["models"]}
    areas = [f"{name} {rows[name]['value']:.3f}" for name in names if rows.get(name)]
    return f", macro AUC: {', '.join(areas)}" if areas else ""


def _reliability_table(models: Mapping[str, Report]) -> Safe:
    rows = [
        [
            name,
            numbers.count(item["n"]),
            f"{numbers.percent(item['low'], 2)} to {numbers.percent(item['high'], 2)}",
            numbers.percent(item["confidence"], 2),
            numbers.percent(item["accuracy"]["value"], 2),
            numbers.interval(item["accuracy"]),
        ]
        for name, model in models.items()
        for item in model["reliability"]
    ]
    return tables.table(["Model", "Answers", "Confidence from", "Mean", "Accuracy", "95 % CI"], rows)


def _points_table(models: Mapping[str, Report], key: str, fields: tuple[str, str], words: tuple[str, str]) -> Safe:
    """About ten points of each curve: a page needs no hundred."""
    rows = []
    across, up = fields
    for name, model in models.items():
        points = list(zip(model[key][across], model[key][up], strict=True))
        chosen = sorted({round(step * (len(points) - 1) / 10) for step in range(11)})
        rows += [[name, *(numbers.percent(value, 2) for value in points[index])] for index in chosen]
    return tables.table(["Model", words[0], words[1].capitalize()], rows)


def _temperatures(report: Report) -> Safe | None:
    """NLL and ECE of every model before and after its temperature."""
    fitted = [model for model in report["models"] if "temperature" in model["metrics"]]
    if not fitted:
        return None
    rows = []
    for model in fitted:
        found = model["metrics"]
        rows.append(
            [
                tag("span", model["name"], class_=f"key {figures.colour(report, model['name'])}"),
                f"{found['temperature']['value']:.2f}",
                *(f"{found[key]['value']:.3f}" for key in ("nll", "nll_scaled")),
                *(numbers.percent(found[key]["value"]) for key in ("ece", "ece_scaled")),
            ]
        )
    head = ["", "T", "NLL", "after", "ECE", "after"]
    note = (
        f"n = {report['data']['totals']['test']:,}, means over {numbers.plural(len(report['seeds']), 'seed')}. Above 1 "
        "a temperature makes a model less sure, below 1 surer; it changes no answer, so accuracy stays."
    )
    table = tables.table(head, rows, classes="sticky")
    title = tag("h3", "Before and after one temperature")
    return tag(
        "div", title, tag("div", table, class_="wide"), tag("p", tables.text(note), class_="note"), class_="card"
    )


def fidelity(report: Report) -> Safe | None:
    """The section about agreement with the teacher, beyond that of the same student without one.

    None where the report did not measure it, or no arm has a baseline.
    """
    found = report.get("fidelity")
    if not found or not found["arms"]:
        return None
    arms = found["arms"]
    shown = next((arm for arm in arms if arm["name"] == report["headline"]), arms[0])
    charts = [_by_confidence(report, group) for group in _families(arms)]
    return parts.section(
        "How closely it follows the teacher",
        f"{_said(shown)} {_copied(shown)} {_STANTON}",
        tag("div", _table(report, arms), tag("p", tables.text(_note(shown)), class_="note"), class_="card wide"),
        tag("div", charts, class_="pair-of", style="margin-top:16px"),
        parts.more("How these numbers were computed", _methods(found["methods"])),
    )


def _note(arm: Report) -> str:
    """What the table counts, and where its intervals come from."""
    if arm["test"]["agreement"]["basis"] == "examples":
        how = "single run: intervals are a paired bootstrap over examples, by class, and say nothing of other seeds"
    else:
        how = "95 % intervals are paired t by seed, under them a paired bootstrap over examples, by class"
    sizes = [f"{arm[part]['n']:,} examples of the {words}" for part, words in _PARTS if arm[part] is not None]
    seeds = numbers.plural(arm["test"]["agreement"]["difference"]["seeds"], "seed")
    return (
        f"n = {' and '.join(sizes)}, {seeds}. In small print the same student without the teacher, against which lifts "
        f"are; {how}."
    )


def _said(arm: Report) -> str:
    share = arm["test"]["agreement"]
    gap = share["difference"]
    start = f"‘{arm['name']}’ names the teacher's class on {numbers.percent(share['arm']['value'])} of the test part"
    if share["direction"] == "none":
        return f"{start}, no measurable difference from ‘{arm['against']}’ ({_gap(gap)})."
    return f"{start} ({_gap(gap)}, against ‘{arm['against']}’, which learned without the teacher)."


def _copied(arm: Report) -> str:
    """What became of the teacher's mistakes, in words that claim no more than the interval does."""
    errors, copied = arm["test"]["teacher_errors"], arm["test"]["copied_errors"]
    if copied is None:
        return "The teacher made no mistake that could have been copied."
    start = (
        f"Of the teacher's {numbers.plural(errors, 'wrong answer')} it repeats "
        f"{numbers.percent(copied['arm']['value'])} ({_gap(copied['difference'])})"
    )
    ends = {
        "above": "it copied errors of its teacher.",
        "below": "it avoids errors of its teacher better than the student without one.",
        "none": "no measurable difference from the student without a teacher.",
    }
    return f"{start}: {ends[copied['direction']]}"


def _gap(difference: numbers.Estimate) -> str:
    amount = numbers.points(difference["value"], numbers.decimals(difference))
    if difference["ci_low"] is None:
        return f"{amount}, no interval"
    return f"{amount}, 95 % CI {numbers.points_interval(difference)}"


def _families(arms: Sequence[Report]) -> list[list[Report]]:
    """Arms by the baseline that they share."""
    found: dict[str, list[Report]] = {}
    for arm in arms:
        found.setdefault(arm["against"], []).append(arm)
    return list(found.values())


def _table(report: Report, arms: Sequence[Report]) -> Safe:
    """Measures down; across stands every arm, on the test part and on the training part if that was asked."""
    columns = [(arm, part, words) for arm in arms for part, words in _PARTS if arm[part] is not None]
    if len(columns) > _MOST_ACROSS:
        return _long_table(report, columns)
    head = [tag("th", "Measure")]
    for arm, _, words in columns:
        name = tag("span", arm["name"], class_=f"key {figures.colour(report, arm['name'])}")
        below = tag("span", words, style="display:block;font-weight:400")  # phones hide small print in heads
        head.append(tag("th", name, below, scope="col"))
    rows = []
    for label, hint, cell in _ROWS:
        small = tag("small", f" {hint}") if hint else None
        cells = [cell(arm[part]) for arm, part, _ in columns]
        rows.append(tag("tr", tag("th", label, small, scope="row"), cells))
    width = f"--n:{len(columns)}"
    return tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="main", style=width)


def _long_table(report: Report, columns: Sequence[tuple[Report, str, str]]) -> Safe:
    """The same with arms down and measures across, for more of them than fit beside each other."""
    head: list[Safe | str] = ["Arm", "Part"]
    head += [tag("th", label, tag("small", f" {hint}") if hint else None, scope="col") for label, hint, _ in _ROWS]
    rows = []
    for arm, part, words in columns:
        name = tag("span", arm["name"], class_=f"key {figures.colour(report, arm['name'])}")
        rows.append([name, words, *(cell(arm[part]) for _, _, cell in _ROWS)])
    return tables.table(head, rows, classes="sticky")


def _cell(value: str, *below: str) -> Safe:
    return tag("td", tables.text(value), [tag("small", tables.text(line)) for line in below if line])


def _share(part: Report, key: str) -> Safe:
    """The arm's share, and in small print that of the student without the teacher."""
    found = part[key]
    if found is None:
        return _cell(numbers.MISSING)
    return _cell(numbers.percent(found["arm"]["value"]), f"without {numbers.percent(found['baseline']['value'])}")


def _lift(part: Report, key: str) -> Safe:
    """The paired difference that decides, its interval, and what the other source of chance says."""
    found = part[key]
    if found is None:
        return _cell(numbers.MISSING)
    gap = found["difference"]
    other = found["by_example"] if found["basis"] == "seeds" else None
    small = "" if other is None or other["ci_low"] is None else f"({numbers.points_interval(other)})"
    interval = "no interval" if gap["ci_low"] is None else numbers.points_interval(gap)
    return _cell(numbers.points(gap["value"], numbers.decimals(gap)), interval, small)


def _plain(part: Report, key: str) -> Safe:
    found = part[key]
    if found is None:
        return _cell(numbers.MISSING)
    text: Callable[[float], str] = numbers.percent if key == "top5_overlap" else lambda value: f"{value:.3f}"
    return _cell(text(found["arm"]["value"]), f"without {text(found['baseline']['value'])}")


_ROWS: list[tuple[str, str, Callable[[Report], Safe]]] = [
    ("Agreement", "", lambda part: _share(part, "agreement")),
    ("Lift", "pp", lambda part: _lift(part, "agreement")),
    ("Where the teacher is right", "", lambda part: _share(part, "agreement_right")),
    ("Teacher's errors repeated", "", lambda part: _share(part, "copied_errors")),
    ("Lift in these", "pp", lambda part: _lift(part, "copied_errors")),
    ("KL from the teacher", "nats", lambda part: _plain(part, "divergence")),
    ("Total variation", "0 to 1", lambda part: _plain(part, "variation")),
    ("Top-5 overlap", "", lambda part: _plain(part, "top5_overlap")),
]


def _by_confidence(report: Report, arms: Sequence[Report]) -> Safe:
    first = arms[0]["test"]
    names = [arms[0]["against"], *(arm["name"] for arm in arms)]
    seeds = numbers.plural(max(arm["test"]["agreement"]["arm"]["seeds"] for arm in arms), "seed")
    rows = [
        [
            f"{numbers.percent(bins[0]['low'], 2)} to {numbers.percent(bins[0]['high'], 2)}",
            numbers.count(bins[0]["n"]),
            numbers.percent(bins[0]["teacher_accuracy"]),
            *(
                f"{numbers.percent(side['value'])} ({numbers.interval(side)})"
                for side in (bins[0]["baseline"], *(item["arm"] for item in bins))
            ),
        ]
        for bins in zip(*(arm["test"]["by_confidence"] for arm in arms), strict=True)
    ]
    return parts.figure(
        "Agreement by the teacher's confidence",
        join(figures.legend(report, names), trustcharts.by_confidence(report, arms)),
        f"n = {first['n']:,}, {seeds} pooled, in {numbers.plural(len(rows), 'bin')} of equal size from the teacher's "
        "least to its most confident answers, with Wilson's 95 % intervals. A lift on the left is taken from answers "
        "of which the teacher itself is unsure.",
        tables.table(["Teacher's confidence", "n", "Teacher right", *names], rows),
    )


def _methods(methods: Mapping[str, str]) -> Safe:
    labels = {
        **tables.LABELS,
        "agreement_right": "Agreement where the teacher is right",
        "variation": "Total variation",
        "top5_overlap": "Top-5 overlap",
        "agreement_by_confidence": "Agreement by confidence",
    }
    rows = [tag("tr", tag("th", labels.get(key, key)), tag("td", text, class_="text")) for key, text in methods.items()]
    return tag("table", tag("tbody", rows))
