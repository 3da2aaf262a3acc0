"""What came of an iteration: the goal, the rounds side by side, and which of them was chosen.

rounds [{round, values, validation {mean, sd, per_seed, examples, teacher}, reached, parameters, …}]
    -> the first that reached the goal, or else the best by validation; the test figures of that one alone
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tutelage.errors import GateError, InputError, nearest
from tutelage.report import numbers
from tutelage.run.execute import Run, read_report
from tutelage.run.rounds import shown

__all__ = ["METRICS", "Goal", "Iteration", "readme", "result_of"]

FORMAT = "tutelage-iteration-1"
# By which a round may be decided, and whether it must not fall below the target or not exceed it.
METRICS = {
    "accuracy": "at least", "macro_precision": "at least", "macro_recall": "at least", "macro_f1": "at least",
    "agreement": "at least", "nll": "at most", "brier": "at most", "ece": "at most", "divergence": "at most",
}  # fmt: skip
_SHARES = frozenset(name for name, side in METRICS.items() if side == "at least")


@final
@dataclass(frozen=True, slots=True)
class Goal:
    """What a round must reach: a metric on the validation part, as a mean over seeds.

    Args:
        target: a share from 0 to 1 for accuracy, macro_precision, macro_recall, macro_f1 and agreement, which it must
            not fall below; else a number above 0, which nll, brier, ece and divergence must not exceed.
        metric: one of `METRICS`.

    Raises:
        InputError: no such metric, or a target that it cannot have.
    """

    target: float
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InputError(
                f"no metric `{self.metric}` of the validation part", where="--metric", expected=", ".join(METRICS),
                fix=nearest(self.metric, METRICS),
            )  # fmt: skip
        number = isinstance(self.target, (int, float)) and not isinstance(self.target, bool)
        if not number or not 0 < self.target <= (1 if self.share else math.inf) or math.isinf(self.target):
            percent = number and self.share and 1 < self.target <= 100
            raise InputError(
                f"this is no target for {self.metric}", where="--target", given=self.target,
                expected="a share above 0 and at most 1" if self.share else "a number above 0",
                fix=f"did you mean {self.target / 100:g}?" if percent else None,
            )  # fmt: skip

    @property
    def share(self) -> bool:
        return self.metric in _SHARES

    def met(self, value: float) -> bool:
        return value >= self.target if self.share else value <= self.target

    def best(self, values: Sequence[float]) -> int:
        """Which of several values is the best; of equal ones the first."""
        return values.index(max(values) if self.share else min(values))

    def said(self, value: float | None) -> str:
        if value is None:
            return numbers.MISSING
        return numbers.percent(value, 2) if self.share else numbers.significant(value, 4)

    @property
    def asked(self) -> str:
        """`at least 95.00 %`."""
        target = self.said(self.target)
        return f"at least {target}" if self.share else f"at most {target}"

    def spread(self, validation: Mapping[str, Any]) -> str:
        """`93.06 % ± 0.42`: mean and standard deviation over seeds."""
        sd, mean = validation["sd"], self.said(validation["mean"])
        if sd is None:
            return mean
        return f"{mean} ± {sd * 100:.2f}" if self.share else f"{mean} ± {numbers.significant(sd, 2)}"


@final
@dataclass(frozen=True, slots=True)
class Iteration:
    """What came of it; `result` is what `iterate.json` holds."""

    folder: Path
    result: Mapping[str, Any]

    @property
    def reached(self) -> bool:
        """Whether a round reached the target."""
        return bool(self.result["reached"])

    @property
    def run(self) -> Run:
        """The run of the chosen round: the first that reached the target, or else the best by validation."""
        place = self.folder / f"round-{self.result['chosen']}"
        return Run(place, read_report(place / "report.json"))

    def check(self) -> None:
        """Nothing where the target was reached.

        Raises:
            GateError: it was not.
        """
        if not self.reached:
            goal = _goal(self.result)
            best = self.result["rounds"][self.result["chosen"] - 1]
            raise GateError(
                f"no round reached the target: {numbers.plural(len(self.result['rounds']), 'round')} tried",
                given=f"{goal.said(best['validation']['mean'])}, the best, in round {best['round']}",
                expected=f"validation {goal.metric}, {goal.asked}",
                fix="add values behind those that were tried: finished rounds stay as they are",
            )

    def to_json(self) -> dict[str, Any]:
        """For programs: the result with its folder."""
        return {"folder": str(self.folder), **self.result}

    def summary(self) -> str:
        """The outcome, all rounds in a table, and where to read on; Markdown that reads well as it is."""
        report = self.folder / f"round-{self.result['chosen']}" / "report.html"
        warnings = (f"warning: {text}" for text in self.result["warnings"])
        return "\n".join([_outcome(self.result), *_table(self.result), *warnings, f"report: {report}"])


# ---- what came of it -------------------------------------------------------------------------------------------------


def result_of(
    done: Sequence[Mapping[str, Any]], goal: Goal, *, recipe: str, command: str, planned: int
) -> dict[str, Any]:
    """All that `iterate.json` holds. Test figures stand beside the chosen round alone."""
    passed = [row["round"] for row in done if row["reached"]]
    chosen = passed[0] if passed else goal.best([row["validation"]["mean"] for row in done]) + 1
    warnings = []
    if len(done) > 1:
        warnings.append(
            f"The round was chosen among {len(done)} by validation, so its validation score flatters it. Its test "
            "figures had no part in the choice; choosing another round by test figures would spoil them."
        )
    return {
        "format": FORMAT,
        "recipe": recipe,
        "command": command,
        "metric": goal.metric,
        "target": goal.target,
        "direction": METRICS[goal.metric],
        "arm": done[0]["arm"],
        "reached": bool(passed),
        "chosen": chosen,
        "tried": len(done),
        "planned": planned,
        "rounds": [{key: row[key] for key in row if key not in ("arm", "test")} for row in done],
        "test": {"round": chosen, "metrics": done[chosen - 1]["test"]},
        "warnings": warnings,
    }


def _goal(result: Mapping[str, Any]) -> Goal:
    return Goal(result["target"], result["metric"])


def _outcome(result: Mapping[str, Any]) -> str:
    goal, best = _goal(result), result["rounds"][result["chosen"] - 1]
    arm, number, has = result["arm"], best["round"], f"{goal.metric} {goal.spread(best['validation'])}"
    if result["reached"]:
        return f"round {number} reached the target: ‘{arm}’ has validation {has}, asked for {goal.asked}"
    return (
        f"no round reached the target; the best is round {number}: ‘{arm}’ has validation {has}, asked for {goal.asked}"
    )


def _table(result: Mapping[str, Any]) -> list[str]:
    """Every round in a row: values, validation with its spread, outcome, size, and the test figure of the chosen."""
    goal, rounds = _goal(result), result["rounds"]
    keys = list(rounds[0]["values"])
    measured = f"validation {goal.metric}", f"test {goal.metric} (95 % CI)"
    head = ["round", *keys, measured[0], "reached", "parameters", "file", measured[1]]
    teacher = ["teacher", *("" for _ in keys), goal.said(rounds[0]["validation"]["teacher"]), "", "", "", ""]
    body = [teacher] if rounds[0]["validation"]["teacher"] is not None else []
    for row in rounds:
        tested = result["test"]["metrics"][goal.metric] if row["round"] == result["chosen"] else None
        body.append([
            str(row["round"]),
            *(shown(value).replace("|", "\\|") for value in row["values"].values()),
            goal.spread(row["validation"]),
            "yes" if row["reached"] else "no",
            numbers.count(row["parameters"]),
            numbers.size(row["file_bytes"]),
            "" if tested is None else _tested(tested, goal),
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    ruled = [head, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])], *body]
    return ["| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in ruled]


def _tested(estimate: Mapping[str, Any], goal: Goal) -> str:
    """`93.06 % (92.1…94.0)`; one seed has no interval over seeds."""
    ends = numbers.interval(estimate) if goal.share else numbers.interval(estimate, 1.0, 3)
    return goal.said(estimate["value"]) + ("" if estimate["ci_low"] is None else f" ({ends})")


def readme(found: Iteration) -> str:
    """README.md of the folder, as Markdown."""
    result = found.result
    links = [f"- [round {row['round']}](round-{row['round']}/report.html)" for row in result["rounds"]]
    return "\n".join([
        f"# {result['recipe']}: rounds until a target is reached", "",
        _outcome(result), "",
        *_table(result), "",
        "± is the standard deviation over seeds. All numbers are in `iterate.json`; every round has a report:", "",
        *links, "",
        *(f"- warning: {text}" for text in result["warnings"]), "",
        "```console", result["command"], "```", "",
    ])  # fmt: skip
