"""MLflow: a SQLite file below `<run>/trackers/mlflow`, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

from tutelage.errors import InputError
from tutelage.files import read_json, write_json
from tutelage.training.trackers.protocol import client, series

__all__ = ["MLflow"]

# What the user's environment says counts; where it is silent, nothing is reported to MLflow's makers, and a server that
# has gone away costs seconds, not the minutes of MLflow's own seven tries.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
_EXPERIMENT = "tutelage"
_LONGEST = 5000  # characters of a tag that every version and server takes
_MOST = 1000  # numbers in one request, by MLflow's rules


@final
class MLflow:
    """Every number is a metric of one MLflow run, `distilled/seed-0/val_accuracy`, over training steps.

    `<run>/trackers/mlflow.json` says which run that is; how far it came is asked of MLflow.

    Args:
        home: `<run>/trackers`.

    Raises:
        MissingExtraError: mlflow, or what it needs for SQLite, is not installed.
    """

    def __init__(self, home: Path) -> None:
        for key, value in _SETTINGS.items():
            os.environ.setdefault(key, value)
        self._mlflow = client("mlflow", "mlflow-skinny", "mlflow")
        self._entities = client("mlflow.entities", "mlflow-skinny", "mlflow")
        self._remote = bool(self._mlflow.is_tracking_uri_set())
        if not self._remote:
            for package in ("sqlalchemy", "alembic"):
                client(package, package, "mlflow")
        self._home = home
        self._client: Any = None
        self._run = ""
        self._ended = False

    def begin(self, name: str, facts: Mapping[str, str], recipe: str) -> str:
        uri = self._mlflow.get_tracking_uri() if self._remote else self._database()
        with _warnings_only():
            self._client = self._mlflow.MlflowClient(uri)
            self._run = self._taken_up(uri) or self._new(uri, name, facts, recipe)
        shown = "the server of MLFLOW_TRACKING_URI" if self._remote else uri
        return f"{shown}, run {self._run}"

    def reached(self, arm: str, seed: int) -> int:
        history = self._client.get_metric_history(self._run, f"{series(arm, seed)}/epoch")
        return max((int(metric.step) for metric in history), default=-1)

    def epoch(self, arm: str, seed: int, row: Mapping[str, float]) -> None:
        place = series(arm, seed)
        self._log({f"{place}/{key}": value for key, value in row.items() if key != "step"}, int(row["step"]))

    def final(self, numbers: Mapping[str, float], words: Mapping[str, str]) -> None:
        tags = {"mlflow.note.content": words["verdict"], "tutelage.report": words["report"]}
        if "tutelage.report" not in self._client.get_run(self._run).data.tags:
            self._log(numbers, 0)
            for key, text in tags.items():  # after the numbers, for they say that all is there
                self._client.set_tag(self._run, key, text[:_LONGEST])
        self._ended = True

    def close(self) -> None:
        if self._run:
            self._client.set_terminated(self._run, "FINISHED" if self._ended else "KILLED")

    def _database(self) -> str:
        path = (self._home / "mlflow" / "mlflow.db").absolute()
        if set(str(path)) & set("?#%"):
            raise InputError(
                "MLflow cannot address a database in a folder with `?`, `#` or `%` in its name", given=str(path)
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # where that is impossible, MLflow would try for minutes
        return f"sqlite:///{path}"

    def _taken_up(self, uri: str) -> str | None:
        """The run that an earlier process began at the same place, running again; None if there is none."""
        memory = self._home / "mlflow.json"
        known = read_json(memory) if memory.is_file() else {}
        if known.get("place") != self._place(uri):
            return None
        run = str(known["run_id"])
        self._client.update_run(run, status="RUNNING")
        return run

    def _new(self, uri: str, name: str, facts: Mapping[str, str], recipe: str) -> str:
        run = self._client.create_run(self._experiment(), run_name=name, tags={"tutelage.recipe": recipe[:_LONGEST]})
        for key, text in facts.items():
            self._client.log_param(run.info.run_id, key, text)
        write_json(self._home / "mlflow.json", {"place": self._place(uri), "run_id": run.info.run_id})
        return str(run.info.run_id)

    def _experiment(self) -> str:
        if chosen := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return chosen
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        where = None if self._remote else str((self._home / "mlflow" / "artifacts").absolute())
        return str(self._client.create_experiment(name, artifact_location=where))

    def _place(self, uri: str) -> str:
        """Where a run is, without the password that an address may hold; the run's folder may be moved."""
        return hashlib.sha256(uri.encode()).hexdigest()[:16] if self._remote else "folder"

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(key, value, now, step) for key, value in numbers.items()]
        for first in range(0, len(metrics), _MOST):
            self._client.log_batch(self._run, metrics=metrics[first : first + _MOST])


@contextlib.contextmanager
def _warnings_only() -> Iterator[None]:
    """MLflow and Alembic tell of every table that they make."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
