"""The report's rows of models: means over seeds, the runs behind them, and how each compares with the teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tutelage.evaluation.judged import Arm, Judged, ModelScore, Timed
from tutelage.evaluation.lineup import TEACHER, Lineup
from tutelage.evaluation.robust import robust_row
from tutelage.evaluation.significance import over_seeds, wilson

_RATIOS = (
    ("parameter_ratio", "parameters"),
    ("size_ratio", "file_bytes"),
    ("multiply_add_ratio", "multiply_adds"),
)

# How far metrics go that are no shares; all of them start at 0.
_MOST = {"nll": math.inf, "nll_scaled": math.inf, "divergence": math.inf, "temperature": math.inf, "brier": 2.0}


def model_rows(
    lineup: Lineup,
    judged: Mapping[str, Sequence[Judged]],
    found: Mapping[str, Sequence[ModelScore]],
    n: int,
    latency: Mapping[str, Sequence[Timed]],
) -> list[dict[str, Any]]:
    """The teacher first, then the arms in the order of the recipe.

    Args:
        lineup: the arms.
        judged: name of model or arm -> its models.
        found: likewise, what they scored.
        n: test examples.
        latency: likewise, times by batch size.
    """
    reference = found[TEACHER][0].metrics["accuracy"]
    facts = [(_teacher(), TEACHER), *((arm, lineup.role(arm)) for arm in lineup.arms)]
    rows = [_row(arm, role, judged[arm.name], found[arm.name], reference, n) for arm, role in facts]
    return [_relative(row, rows[0], latency) for row in rows]


def _teacher() -> Arm:
    return Arm(TEACHER, (), distilled=False)


def _row(
    arm: Arm, role: str, judged: Sequence[Judged], found: Sequence[ModelScore], reference: float, n: int
) -> dict[str, Any]:
    """One row of the main table: the mean over seeds, and each run behind it."""
    shared = [key for key in found[0].metrics if all(key in run.metrics for run in found)]
    sizes = {"temperature": len(np.asarray(judged[0].val_logits))} if "temperature" in shared else {}
    means = {
        key: over_seeds([run.metrics[key] for run in found], sizes.get(key, n)).within(0.0, _MOST.get(key, 1.0))
        for key in shared
    }
    accuracy = means["accuracy"]
    robust = robust_row([model.robust for model in judged])
    return {
        "name": arm.name,
        "role": role,
        "describes": arm.describes,
        "student": arm.student,
        "method": arm.method,
        "of": arm.of,
        "compression": arm.compression,
        "distilled": arm.distilled,
        "seeds": [model.seed for model in judged if model.seed is not None],
        "metrics": {key: estimate.to_json() for key, estimate in means.items()},
        "accuracy_items": wilson(min(1.0, accuracy.value), n, seeds=len(judged)).to_json(),
        "retained": accuracy.scaled(1 / reference).to_json() if reference else None,
        **{key: max(getattr(model, key) for model in judged) for _, key in _RATIOS},
        **({} if robust is None else {"robust": robust}),
        "runs": [_run(run, model) for run, model in zip(found, judged, strict=True)],
    }


def _run(run: ModelScore, model: Judged) -> dict[str, Any]:
    return asdict(run) | ({} if model.robust is None else {"robust": dict(model.robust)})


def _relative(
    row: dict[str, Any], teacher: Mapping[str, Any], latency: Mapping[str, Sequence[Timed]]
) -> dict[str, Any]:
    """Add how much smaller and faster than the teacher a model is; times count only at equal threads and batch."""
    reference = {(item.batch, item.threads): item.p50_ms for item in latency.get(TEACHER, ())}
    times = []
    for item in latency.get(row["name"], ()):
        base = reference.get((item.batch, item.threads))
        times.append({**item.to_json(), "speed_ratio": None if base is None else base / item.p50_ms})
    ratios = {ratio: teacher[key] / row[key] if teacher[key] and row[key] else None for ratio, key in _RATIOS}
    return {**row, **ratios, "latency": times}
