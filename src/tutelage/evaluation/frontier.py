"""Which models are worth having: those that no other beats in accuracy and in what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]  # one of the report's models


def frontier(models: Sequence[Row]) -> dict[str, Any]:
    """The points of accuracy against size and against time, and which of them stand on the edge.

    A point is on the edge if no other has at least its accuracy at most its cost, with one of the two strictly better.
    Values decide, not intervals: two points whose crosses overlap may trade places in another run. Models whose size or
    time is unknown are not on that edge and push nobody off it; times count only at one batch size and thread number.

    Args:
        models: rows of the report, the teacher among them.

    Returns:
        `{"batch", "threads", "points"}`: at which the times were taken (None where nothing was timed), and for every
        model `{name, student, method, compression, role, accuracy, parameters, file_bytes, multiply_adds, p50_ms,
        on_size, on_latency}`. The accuracy has its interval over seeds, and that over test examples with a single run.
    """
    setting = next(((row["batch"], row["threads"]) for model in models for row in model["latency"]), (None, None))
    points = [_point(model, setting) for model in models]
    accuracy = [point["accuracy"]["value"] for point in points]
    size = _edge(accuracy, [point["file_bytes"] or None for point in points])
    time = _edge(accuracy, [point["p50_ms"] and point["p50_ms"]["value"] for point in points])
    return {
        "batch": setting[0],
        "threads": setting[1],
        "points": [
            point | {"on_size": small, "on_latency": fast}
            for point, small, fast in zip(points, size, time, strict=True)
        ],
    }


def _point(model: Row, setting: tuple[int | None, int | None]) -> dict[str, Any]:
    times = next((row for row in model["latency"] if (row["batch"], row["threads"]) == setting), None)
    over_seeds = model["metrics"]["accuracy"]
    return {
        **{key: model[key] for key in ("name", "student", "method", "compression", "role")},
        "accuracy": model["accuracy_items"] if over_seeds["ci_low"] is None else over_seeds,
        "parameters": model["parameters"],
        "file_bytes": model["file_bytes"],
        "multiply_adds": model["multiply_adds"] or None,
        "p50_ms": None
        if times is None
        else {"value": times["p50_ms"], "ci_low": times["ci_low_ms"], "ci_high": times["ci_high_ms"]},
    }


def _edge(accuracy: Sequence[float], cost: Sequence[float | None]) -> list[bool]:
    """Which points no other beats: after sorting by cost, those that are better than everything cheaper.

    Of points of one cost only the most accurate count, and several that are alike in both stand together.
    """
    known = sorted((one, -value, index) for index, (value, one) in enumerate(zip(accuracy, cost, strict=True))
                   if one is not None)  # fmt: skip
    found, best, last = [False] * len(accuracy), float("-inf"), None
    for one, negative, index in known:
        if -negative > best:
            best, last = -negative, (one, negative)
        found[index] = (one, negative) == last
    return found
