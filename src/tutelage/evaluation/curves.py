"""Training logs of several seeds as one line with a band: the mean, and the span from least to greatest seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

Record = Mapping[str, float | None]


def clean(record: Record) -> dict[str, float | None]:
    """A training record without the numbers that JSON cannot hold."""
    return {key: value if value is None or math.isfinite(value) else None for key, value in record.items()}


def bands(curves: Mapping[str, Sequence[Sequence[Record]]]) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Metric -> arm -> points {epoch, mean, low, high, seeds}, for every number in the log.

    Args:
        curves: arm -> one list of records for each seed; a record has an `epoch`.
    """
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for name, several in curves.items():
        for record in (clean(record) for curve in several for record in curve):
            for key, value in record.items():
                if key != "epoch" and value is not None:
                    epochs = found.setdefault(key, {}).setdefault(name, {})
                    epochs.setdefault(int(record["epoch"] or 0), []).append(float(value))
    return {
        key: {
            name: [
                {"epoch": epoch, "mean": float(np.mean(v)), "low": min(v), "high": max(v), "seeds": len(v)}
                for epoch, v in sorted(epochs.items())
            ]
            for name, epochs in by_arm.items()
        }
        for key, by_arm in found.items()
    }
