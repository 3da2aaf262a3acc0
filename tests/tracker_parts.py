"""Reading back what trackers keep, with TensorBoard's and MLflow's own readers, and W&B's file record by record."""

from __future__ import annotations

import json
import math
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NAMES = ("tensorboard", "wandb", "mlflow")
PARTS = {"tensorboard": ("tensorboard",), "wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
FACTS = {"recipe": "toy", "seeds": [0, 1], "data": {"source": "made", "counts": {"train": 40}}, "classes": ["a"] * 50}
Kept = dict[str, list[tuple[int, Any]]]  # name -> (step, value), in the order of the file


def need(*names: str) -> None:
    for name in names:
        for part in PARTS[name]:
            if find_spec(part) is None:
                pytest.skip(f"the package {part} is not installed")


def settings() -> set[str]:
    """What the environment says to clients, and what tutelage says where it is silent."""
    ours = ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT",
            "WANDB_ERROR_REPORTING")  # fmt: skip
    return {*ours, *(key for key in os.environ if key.startswith(("WANDB_", "MLFLOW_")))}


def made_up(epochs: int, arm: int = 0) -> list[dict[str, float]]:
    return [{"epoch": float(e), "step": 5.0 * e, "val_accuracy": 0.5 + e / 64 + arm / 8} for e in range(1, epochs + 1)]


def estimate(value: float, low: float | None = None) -> dict[str, Any]:
    return {"value": value, "ci_low": low, "ci_high": low and 2 * value - low, "n": 9, "seeds": 1, "method": ""}


def report(training: Mapping[str, Any]) -> dict[str, Any]:
    model = {"name": "distilled", "metrics": {"accuracy": estimate(0.875)}, "parameters": 18, "file_bytes": 0,
             "latency": [{"batch": 1, "p50_ms": 0.5}, {"batch": 8, "p50_ms": 2.0}]}  # fmt: skip
    teacher = {"name": "teacher", "metrics": {"nll": estimate(math.inf)}, "parameters": 0, "file_bytes": 0}
    gain = {"name": "distilled", "difference": estimate(0.25, 0.125)}
    alone = {"name": "other", "difference": estimate(-0.5)}
    return {"models": [teacher, model], "comparisons": [gain, alone], "training": training}


HEADLINE = {
    "test/distilled/accuracy": 0.875, "test/distilled/parameters": 18.0, "test/distilled/p50_ms": 0.5,
    "gain/distilled": 0.25, "gain/distilled/ci_low": 0.125, "gain/distilled/ci_high": 0.375, "gain/other": -0.5,
}  # fmt: skip


def read_tensorboard(folder: Path) -> Kept:
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

    reader = EventMultiplexer(size_guidance={"tensors": 0}).AddRunsFromDirectory(str(folder / "trackers"))
    kept: Kept = {}
    for run, tags in reader.Reload().Runs().items():
        assert run.startswith("tensorboard"), run
        for tag in tags["tensors"]:
            name = f"{run}/{tag}".removeprefix("tensorboard/")
            values = [(event.step, event.tensor_proto) for event in reader.Tensors(run, tag)]
            kept[name] = [
                (step, one.float_val[0] if one.float_val else one.string_val[0].decode()) for step, one in values
            ]
    return kept


def wandb_records(folder: Path) -> list[Any]:
    """The records of the one offline run. Its file may be complete a moment after the client says so."""
    (path,) = (folder / "trackers" / "wandb").glob("offline-run-*/run-*.wandb")
    for _ in range(200):
        records = list(log_records(path.read_bytes()))
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{path} has no end")


def log_records(data: bytes) -> Iterator[Any]:
    """LevelDB's log: 7 bytes of header, then blocks of 32 KiB, whose pieces are whole records or parts of them."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, part = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        part, at = part + data[at + 7 : at + 7 + size], at + 7 + size
        if at <= len(data) and kind in (1, 4):  # whole, or the last part
            yield Record.FromString(part)
            part = b""


def read_wandb(folder: Path) -> Kept:
    kept: Kept = {}
    rows = [record.history.item for record in wandb_records(folder) if record.HasField("history")]
    for number, items in enumerate(rows):
        row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
        assert row["_step"] == number, "W&B's own steps have a gap"
        for key, value in row.items():
            if "/" in key:
                kept.setdefault(key, []).append((int(row["step"]), value))
                kept.setdefault(f"{key.rpartition('/')[0]}/epoch", []).append((int(row["step"]), row["epoch"]))
    # The axes are shared there, so they come once for every number.
    return {key: list(dict.fromkeys(points)) if key.endswith("/epoch") else points for key, points in kept.items()}


def prepare(name: str, folder: Path) -> None:
    """Give MLflow a database without runs: making its tables takes longer than all that is tested with them."""
    if name == "mlflow":
        path = folder / "trackers" / "mlflow" / "mlflow.db"
        path.parent.mkdir(parents=True)
        path.write_bytes(tables())


@cache
def tables() -> bytes:
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/empty.db").search_experiments()
        return Path(folder, "empty.db").read_bytes()


def mlflow_run(folder: Path) -> tuple[Any, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'trackers' / 'mlflow' / 'mlflow.db'}")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return client, run


def read_mlflow(folder: Path) -> Kept:
    client, run = mlflow_run(folder)
    return {
        key: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }


READ: Mapping[str, Callable[[Path], Kept]] = {
    "tensorboard": read_tensorboard, "wandb": read_wandb, "mlflow": read_mlflow
}  # fmt: skip


def curves(kept: Kept) -> Kept:
    return {key: points for key, points in kept.items() if "/seed-" in key}


def expected(curve: list[dict[str, float]], arm: str, seed: int) -> dict[str, Any]:
    names = {key for row in curve for key in row} - {"step"}
    return {
        f"{arm}/seed-{seed}/{key}": [
            (int(row["step"]), pytest.approx(row[key], rel=1e-6))  # TensorBoard keeps float32
            for row in curve
            if math.isfinite(row[key])
        ]
        for key in names
    }
