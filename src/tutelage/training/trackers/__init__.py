"""Trackers, for who asks for them: every epoch of every arm and seed goes to TensorBoard, W&B or MLflow as well.

    report.trackers ─► open_trackers ─► Trackers, a listener of the loop
                                           ├─ TensorBoard   event files in the run's folder
                                           ├─ WandB         offline in the run's folder, unless WANDB_MODE says more
                                           └─ MLflow        SQLite in the run's folder, unless MLFLOW_TRACKING_URI

A tracker is a copy for the eye. `metrics.jsonl` and `report.json` stay the truth, so a tracker that fails is said once
and left; and what it has missed is sent when it is there again, since every curve goes through `Trackers.rows`, which
knows how far each tracker came.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, final

from tutelage.errors import InputError, TutelageError, nearest
from tutelage.training.loop import Cohort, Listener, Moment
from tutelage.training.trackers.mlflow import MLflow
from tutelage.training.trackers.protocol import Tracker, flat, headline, numbers_of, run_name
from tutelage.training.trackers.tensorboard import TensorBoard
from tutelage.training.trackers.wandb import WandB

__all__ = ["Tracker", "Trackers", "check_trackers", "open_trackers"]

_KNOWN: Mapping[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


@final
class Trackers(Listener):
    """Several trackers as one listener; without any it does nothing. A context that closes them.

    Args:
        trackers: by the names that a person knows them by; each has begun.
        tell: takes a line for the log: that a tracker failed.
    """

    def __init__(
        self, trackers: Mapping[str, Tracker] | None = None, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self._live = dict(trackers or {})
        self._tell = tell
        self._reached: dict[tuple[str, str, int], int] = {}

    @property
    def names(self) -> list[str]:
        """The trackers that work."""
        return list(self._live)

    def on_start(self, cohort: Cohort, at: Moment) -> None:
        self._cohort(cohort)

    def on_epoch_end(self, cohort: Cohort, at: Moment) -> None:
        self._cohort(cohort)

    def rows(self, arm: str, seed: int, rows: Iterable[Mapping[str, float | None]]) -> None:
        """Send those rows of a curve which a tracker does not have yet; a row has at least `step` and `epoch`."""
        given = [numbers_of(row) for row in rows]
        known = sorted((row for row in given if "step" in row and "epoch" in row), key=lambda row: row["step"])
        self._each(lambda name, tracker: self._send(name, tracker, arm, seed, known))

    def final(self, report: Mapping[str, Any], *, verdict: str, page: Path) -> None:
        """Send what the run came to, and whatever rows a tracker has missed.

        Args:
            report: as `tutelage.evaluation.scorecard` describes it.
            verdict: the outcome in plain words.
            page: where `report.html` lies.
        """
        for arm, seeds in report["training"].items():
            for seed, curve in seeds.items():
                self.rows(arm, int(seed), curve)
        numbers, words = headline(report), {"verdict": verdict, "report": str(page)}
        self._each(lambda _, tracker: tracker.final(numbers, words))

    def close(self) -> None:
        """Let go of every tracker."""
        self._each(lambda _, tracker: tracker.close())
        self._live.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cohort(self, cohort: Cohort) -> None:
        for arm in cohort.arms:
            self.rows(arm.name, cohort.seed, arm.curve)

    def _send(self, name: str, tracker: Tracker, arm: str, seed: int, rows: Sequence[Mapping[str, float]]) -> None:
        key = (name, arm, seed)
        if rows and key not in self._reached:
            self._reached[key] = tracker.reached(arm, seed)
        for row in rows:
            if row["step"] > self._reached[key]:
                tracker.epoch(arm, seed, row)
                self._reached[key] = int(row["step"])

    def _each(self, act: Callable[[str, Tracker], None]) -> None:
        for name, tracker in list(self._live.items()):
            try:
                act(name, tracker)
            except Exception as error:  # whatever a client raises: a copy for the eye is not worth a run
                del self._live[name]
                self._tell(_failed(name, error))
                with contextlib.suppress(Exception):
                    tracker.close()


def check_trackers(names: Iterable[str]) -> None:
    """Refuse trackers that cannot be used, before anything is made.

    Raises:
        InputError: there is no tracker of that name.
        MissingExtraError: its client is not installed; names the extra.
    """
    _made(names, Path())


def open_trackers(
    names: Iterable[str],
    folder: Path,
    facts: Mapping[str, Any],
    *,
    recipe: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> Trackers:
    """Begin with trackers, or take up where a killed run left them; use it as a context.

    Args:
        names: "tensorboard", "wandb", "mlflow"; with none, nothing is imported, made or said.
        folder: the run's; they keep what they need in `<folder>/trackers`.
        facts: of the run, nested as deep as it likes: versions, data, seeds, and the recipe's name as `recipe`.
        recipe: the recipe as text.
        tell: takes lines for the log: where each tracker is, and once if it fails.

    Raises:
        InputError: there is no tracker of that name.
        MissingExtraError: its client is not installed; names the extra.
    """
    live: dict[str, Tracker] = {}
    known = {"folder": str(folder)} | flat(facts)
    for name, tracker in _made(names, folder / "trackers").items():
        try:
            tell(f"tracker {name}: {tracker.begin(run_name(facts, folder.name), known, recipe)}")
            live[name] = tracker
        except Exception as error:
            tell(_failed(name, error))
            with contextlib.suppress(Exception):
                tracker.close()
    return Trackers(live, tell)


def _made(names: Iterable[str], home: Path) -> dict[str, Tracker]:
    made: dict[str, Tracker] = {}
    for name in names:
        if name not in _KNOWN:
            raise InputError("there is no such tracker", where="report.trackers", given=name, fix=nearest(name, _KNOWN))
        made[name] = _KNOWN[name](home)
    return made


def _failed(name: str, error: Exception) -> str:
    text = error.problem.what if isinstance(error, TutelageError) else f"{type(error).__name__}: {error}"
    # Clients like to quote the address of a server, and an address may hold a password.
    said = re.sub(r"//[^/@\s]+@", "//…@", text.strip().splitlines()[0])[:240]
    return f"tracker {name} failed ({said}); the run goes on without it, and metrics.jsonl has every epoch"
