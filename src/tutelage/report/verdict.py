"""The outcome in plain words, from the report alone. A bad result is worded as plainly as a good one.

A gain is claimed only where its interval lies wholly above 0. With two seeds or more that interval is the paired t by
seed; with one it is the one over test examples, and the words say "single run".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.report import numbers
from tutelage.report.measure import of_questions, taught, untaught

SIGNIFICANT = 0.05
_MOST_SENTENCES = 3
_OUTCOMES = {
    "gain": "gained from distillation",
    "worse": "got worse",
    "none": "showed no measurable gain",
    "unsure": "differed, but not after Holm's correction,",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to say first, and in which tone: gain, none, worse, or unknown where nothing was compared."""

    tone: str
    cost: str
    claims: tuple[str, ...]  # what distillation added
    rest: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        return (self.cost, *self.claims, *self.rest)

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    def to_json(self) -> dict[str, Any]:
        return {"tone": self.tone, "sentences": list(self.sentences)}


def verdict(report: Mapping[str, Any]) -> Verdict:
    """The verdict of a report object (see `tutelage.evaluation.scorecard`)."""
    gains, family = taught(report), len(report["comparisons"])
    first = next((item for item in gains if item["name"] == report["headline"]), None)
    warnings = tuple(item["text"] for item in report["warnings"])
    claims = [gain_sentence(item, family) for item in gains] if len(gains) <= _MOST_SENTENCES else _grouped(gains)
    if not gains:
        claims = ["Nothing can be said about what distillation itself added: there was nothing to compare."]
    claims += _without_a_teacher(report)
    rest = [_overlap(report)] if of_questions(report) else [_worst_class(report), _calibration(report)]
    if warnings:
        rest.append(f"Warnings: {len(warnings)}.")
    return Verdict(
        first["decision"] if first else "unknown", cost_sentence(report), tuple(claims), tuple(rest), warnings
    )


def cost_sentence(report: Mapping[str, Any]) -> str:
    """How much of the teacher is left, and what that saves."""
    models = {model["name"]: model for model in report["models"]}
    teacher, student = models["teacher"], models[report["headline"]]
    summary, accuracy = report["summary"], student["metrics"]["accuracy"]
    single = "; single run" if accuracy["ci_low"] is None else ""
    figures = f"({numbers.spread(accuracy)} vs {teacher['metrics']['accuracy']['value'] * 100:.1f}{single})"
    name = "Student" if len(report["models"]) <= 3 else f"Student ‘{student['name']}’"
    if summary["retained"] is None:
        kept = f"{name} had a teacher without a single right answer {figures}"
    else:
        verb = "keeps" if summary["retained"]["value"] < 1 else "reaches"
        share = numbers.percent(summary["retained"]["value"])
        kept = f"{name} {verb} {share} of the teacher's accuracy {figures}"
        if of_questions(report):
            kept = f"{name} {verb} {share} of the teacher's exact match {figures}"
    parts = [kept]
    if summary["size_ratio"] is not None:
        parts.append(numbers.against(summary["size_ratio"], "smaller", "larger", "about the same size"))
    if summary["speed_ratio"] is not None:
        threads = numbers.plural(student["latency"][0]["threads"], "thread")
        speed = numbers.against(summary["speed_ratio"], "faster", "slower", "about as fast")
        parts.append(f"{speed} (p50, {threads})")
    return ", ".join(parts) + "."


def gain_sentence(item: Mapping[str, Any], family: int) -> str:
    """What distillation itself added to one student: a gain, nothing measurable, or harm.

    Args:
        item: one of the report's comparisons.
        family: how many there are, of which Holm's correction is.
    """
    difference, single = item["difference"], item["basis"] == "examples"
    claim = {
        "gain": "distillation itself added {} over",
        "none": "there is no measurable gain from distillation: {} against",
        "worse": "distillation made the student worse: {} against",
    }[item["decision"]].format(numbers.points(difference["value"], numbers.decimals(difference)))
    claim = f"in this single run, {claim}" if single else claim
    claim = f"‘{item['name']}’: {claim}" if family > 1 else claim[0].upper() + claim[1:]
    return f"{claim} the same student without a teacher ({_evidence(item)}){_doubt(item, family)}."


def _evidence(item: Mapping[str, Any]) -> str:
    difference, basis = item["difference"], item["basis"]
    evidence = f"95 % CI {numbers.points_interval(difference)}"
    if basis == "folds":
        return evidence + f" over {item['folds']} folds, which share most of what they learn from"
    seeds = numbers.plural(difference["seeds"], "seed")
    return evidence + (" over test examples only" if basis == "examples" else f", {seeds}, paired")


def _without_a_teacher(report: Mapping[str, Any]) -> list[str]:
    """What arms gained or lost that listened to nobody, and whether a teacher did more than they."""
    items, family = untaught(report), len(report["comparisons"])
    moved = [item for item in items if item["decision"] != "none"]
    if len(moved) > _MOST_SENTENCES:
        each = "; ".join(
            f"‘{item['name']}’ {numbers.points(item['difference']['value'], numbers.decimals(item['difference']))} "
            f"({numbers.points_interval(item['difference'])})"
            for item in moved
        )
        found = [f"Without a teacher, {len(moved)} of {len(items)} other arms differ from their baselines: {each}."]
    else:
        found = [_untaught_sentence(item, family) for item in moved]
    return found + _as_good(report, [item["name"] for item in items if item["decision"] == "gain"])


def _untaught_sentence(item: Mapping[str, Any], family: int) -> str:
    difference = item["difference"]
    amount = numbers.points(abs(difference["value"]), numbers.decimals(difference)).lstrip("+")
    evidence = _evidence(item)
    if item["basis"] == "examples":
        evidence = f"single run, {evidence}"
    if item["decision"] == "gain":
        said = f"Without a teacher, ‘{item['name']}’ gained {amount} over ‘{item['against']}’ ({evidence})"
    else:
        said = f"Without a teacher, ‘{item['name']}’ lost {amount} against ‘{item['against']}’ ({evidence})"
    return f"{said}{_doubt(item, family)}."


def _as_good(report: Mapping[str, Any], gained: Sequence[str]) -> list[str]:
    """Of each student the arm that gained most without a teacher, where no distilled one did better."""
    found = []
    for student in dict.fromkeys(model["student"] for model in report["models"] if model["name"] in gained):
        own = [model for model in report["models"] if model["student"] == student]
        alone = max((model for model in own if model["name"] in gained), key=_accuracy)
        best = max((model for model in own if model["role"] == "distilled"), key=_accuracy, default=None)
        if best is not None and _accuracy(alone) >= _accuracy(best):
            found.append(
                f"‘{alone['name']}’ did at least as well as the best distilled arm, ‘{best['name']}’ "
                f"({numbers.percent(_accuracy(alone))} and {numbers.percent(_accuracy(best))}): such a gain needs no "
                "teacher."
            )
    return found


def _accuracy(model: Mapping[str, Any]) -> float:
    return float(model["metrics"]["accuracy"]["value"])


def _overlap(report: Mapping[str, Any]) -> str:
    """Of questions, what share of the true answers' tokens was named."""
    models = {model["name"]: model["metrics"]["f1"] for model in report["models"]}
    ours, theirs = numbers.spread(models[report["headline"]]), f"{models['teacher']['value'] * 100:.1f}"
    gains = report["tasks"]["joint"]["comparisons"]
    item = next((one for one in gains if one["measure"] == "f1" and one["name"] == report["headline"]), None)
    if item is None or "folds" in report:  # whose interval would not know that folds overlap
        return f"F1: {ours} vs {theirs} of the teacher."
    gap = item["difference"]
    amount = numbers.points(gap["value"], numbers.decimals(gap))
    return f"F1: {ours} vs {theirs} of the teacher, {amount} against ‘{item['against']}’ ({_evidence(item)})."


def _grouped(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Many students in a few sentences: who gained, who did not, who got worse."""
    groups: dict[str, list[Mapping[str, Any]]] = {words: [] for words in _OUTCOMES.values()}
    for item in items:
        sure = item["decision"] == "none" or item["p_adjusted"] <= SIGNIFICANT
        groups[_OUTCOMES[item["decision"] if sure else "unsure"]].append(item)
    single = "In this single run, of" if items[0]["basis"] == "examples" else "Of"
    found = []
    for words, group in groups.items():
        if group:
            each = "; ".join(
                f"‘{item['name']}’ {numbers.points(item['difference']['value'], numbers.decimals(item['difference']))} "
                f"({numbers.points_interval(item['difference'])})"
                for item in group
            )
            found.append(
                f"{single} {len(items)} distilled students {len(group)} {words} against themselves without a teacher: "
                f"{each}."
            )
    return found


def _doubt(item: Mapping[str, Any], family: int) -> str:
    """Why a difference that its own interval shows may still be chance."""
    if item["decision"] == "none":
        return ""
    doubts = []
    if family > 1 and item["p_adjusted"] > SIGNIFICANT:
        doubts.append(f"it does not survive Holm's correction for {family} comparisons")
    beside = item["by_example"]
    if beside["ci_low"] <= 0 <= beside["ci_high"]:
        doubts.append(f"over test examples alone the interval is {numbers.points_interval(beside)}, which holds 0")
    return f"; but {' and '.join(doubts)}" if doubts else ""


def _worst_class(report: Mapping[str, Any]) -> str:
    worst = report["summary"]["worst_class"]
    if worst["cost"] >= 0:
        return "No class does worse than with the teacher."
    examples = numbers.plural(worst["n"], "test example")
    return f"Worst class against the teacher: {numbers.points(worst['cost'])} (‘{worst['class']}’, {examples})."


def _calibration(report: Mapping[str, Any]) -> str:
    values, baseline = report["summary"]["ece"], report["baseline"]
    after = numbers.percent(values[report["headline"]])
    if baseline is None or baseline == report["headline"]:
        return f"Calibration: ECE {after}."
    return f"Calibration: ECE {values[baseline] * 100:.1f} → {after} (without → with the teacher)."
