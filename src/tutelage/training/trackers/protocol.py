"""What tutelage asks of a tracker, and what it tells every one of them in the same words."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tutelage.errors import MissingExtraError

__all__ = ["Tracker", "client", "flat", "headline", "numbers_of", "run_name", "series"]

_LONGEST = 400  # characters of a fact; MLflow's limit for a parameter lies between 500 and 6,000, by version
_MOST_LISTED = 20


class Tracker(Protocol):
    """A place that keeps the curves of runs. Its client is imported when it is made, and not before.

    Every method may raise whatever its client raises; see `Trackers`, which lets training go on.
    """

    def begin(self, name: str, facts: Mapping[str, str], recipe: str) -> str:
        """Take up the tracker's run that belongs to this folder, or start one; says where a person finds it.

        Args:
            name: of the run.
            facts: what `flat` made of the run's facts.
            recipe: the recipe as text.
        """
        ...

    def reached(self, arm: str, seed: int) -> int:
        """The last training step of which the tracker has a row of this arm and seed; -1 for none."""
        ...

    def epoch(self, arm: str, seed: int, row: Mapping[str, float]) -> None:
        """Keep one row: `step` and `epoch`, which are axes, and finite numbers by name. All of it or nothing."""
        ...

    def final(self, numbers: Mapping[str, float], words: Mapping[str, str]) -> None:
        """Keep what the run came to: twice is as once.

        Args:
            numbers: what `headline` found in the report.
            words: `verdict`, and the path of the page as `report`.
        """
        ...

    def close(self) -> None:
        """Let go of the run; without `final` before it, the run was interrupted."""
        ...


def client(module: str, package: str, extra: str) -> Any:
    """Import a tracker's own client.

    Raises:
        MissingExtraError: `package` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(package, extra, purpose=f"report.trackers: {extra}") from error


def series(arm: str, seed: int) -> str:
    """`distilled/seed-0`: the part of a name before `/val_accuracy`."""
    return f"{arm}/seed-{seed}"


def run_name(facts: Mapping[str, Any], folder: str) -> str:
    """A name by which a person knows a run again: the recipe's and the folder's."""
    return f"{facts['recipe']} ({folder})" if facts.get("recipe") else folder


def numbers_of(row: Mapping[str, float | None]) -> dict[str, float]:
    """The finite numbers of a row: no two trackers agree on what to draw for the others."""
    return {key: float(value) for key, value in row.items() if value is not None and math.isfinite(value)}


def flat(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts as text under one level of names: `{"data": {"source": "digits"}}` -> `{"data.source": "digits"}`."""
    found: dict[str, str] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": text for name, text in flat(value).items()}
        elif isinstance(value, Sequence) and not isinstance(value, str):
            text = ", ".join(map(str, value)) if len(value) <= _MOST_LISTED else f"{len(value):,}"
            found[key] = text[:_LONGEST]
        else:
            found[key] = str(value)[:_LONGEST]
    return found


def headline(report: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a report that fit in a table of runs.

        test/<model>/<metric>                       every metric on the test part, the mean over seeds
        test/<model>/parameters, file_bytes         where they are known
        test/<model>/p50_ms                         at the first batch size that was timed
        gain/<arm>, gain/<arm>/ci_low, …/ci_high    accuracy against the baseline of the arm, a fraction of 1

    Args:
        report: as `tutelage.evaluation.scorecard` describes it.
    """
    found: dict[str, float | None] = {}
    for model in report["models"]:
        place = f"test/{model['name']}"
        found |= {f"{place}/{metric}": estimate["value"] for metric, estimate in model["metrics"].items()}
        found |= {f"{place}/{key}": model[key] for key in ("parameters", "file_bytes") if model.get(key)}
        if model.get("latency"):
            found[f"{place}/p50_ms"] = model["latency"][0]["p50_ms"]
    for item in report["comparisons"]:
        place, gain = f"gain/{item['name']}", item["difference"]
        found |= {place: gain["value"], f"{place}/ci_low": gain["ci_low"], f"{place}/ci_high": gain["ci_high"]}
    return numbers_of(found)
