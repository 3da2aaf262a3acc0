"""The files in which a run keeps what its models answered: `eval/<model>.npz`, with ids, logits and labels.

Of several tasks the logits stand side by side, those of the main one first; `labels_<task>` and `classes_<task>` hold
the labels and the names of the classes of each further one.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DamagedError
from tutelage.evaluation import metrics
from tutelage.files import write_bytes

__all__ = ["Kept", "KeptTask", "eval_files", "read_eval_file", "write_eval_file"]

_SUFFIXES = {"test": "", "val": "-val", "train": "-train"}


@final
@dataclass(frozen=True, slots=True, eq=False)
class KeptTask:
    """What one file holds of a further task; rows in the same order."""

    labels: metrics.Ints  # (N,)
    logits: NDArray[np.floating[Any]]  # (N, C of this task)
    classes: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What one file holds; rows in its own order."""

    ids: NDArray[np.int64]  # (N,)
    labels: metrics.Ints  # (N,)
    logits: NDArray[np.floating[Any]]  # (N, C), as they were saved
    tasks: Mapping[str, KeptTask] = field(default_factory=dict)  # the further ones


def eval_files(folder: Path, model: str, seed: int | None) -> dict[str, Path]:
    """test, val, train -> where the answers of one model to that part lie, be they there or not.

    Args:
        folder: of the run.
        model: "teacher", or the name of an arm.
        seed: of the arm's student; None for the teacher.
    """
    name = model if seed is None else f"{model}-seed-{seed}"
    return {part: folder / "eval" / f"{name}{suffix}.npz" for part, suffix in _SUFFIXES.items()}


def write_eval_file(path: Path, kept: Kept) -> None:
    """Write one file, whole or not at all; the same numbers always give the same bytes."""
    buffer = io.BytesIO()
    logits = kept.logits
    if kept.tasks:
        logits = np.concatenate([logits, *(task.logits for task in kept.tasks.values())], axis=1)
    further: dict[str, Any] = {f"labels_{name}": task.labels for name, task in kept.tasks.items()}
    further |= {f"classes_{name}": np.array(task.classes) for name, task in kept.tasks.items()}
    np.savez(buffer, ids=kept.ids, logits=logits, labels=kept.labels, **further)
    write_bytes(path, buffer.getvalue())


def read_eval_file(path: Path, classes: int) -> Kept:
    """Read one file, and check that it holds what a run writes.

    Args:
        path: the .npz.
        classes: C, how many classes the run has, those of its main task.

    Raises:
        DamagedError: it is missing, damaged, or holds something else.
    """
    try:
        # Opened here: numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            ids, logits, labels = (np.asarray(saved[name]) for name in ("ids", "logits", "labels"))
            further = {key: np.asarray(saved[key]) for key in saved.files if "_" in key}
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"ids are {ids.dtype} {ids.shape}")
        if not np.issubdtype(logits.dtype, np.floating):
            raise ValueError(f"logits are {logits.dtype}")
        logits, tasks = _tasks(logits, classes, further)
        width, truth = metrics.as_logits(logits, ids.size).shape[1], metrics.as_labels(labels, classes)
        if truth.shape != ids.shape or width != classes:
            raise ValueError(f"ids {ids.shape}, labels {truth.shape}, logits {logits.shape}, {classes} classes")
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedError(
            f"{path} is not what a run wrote",
            given=" ".join(str(error).split())[:200] or type(error).__name__,
            expected=f"an .npz with ids (N,), logits (N, {classes}) and labels (N,)",
            fix="restore the file from a copy, or run again",
        ) from error
    return Kept(ids.astype(np.int64), truth, logits, tasks)


def _tasks(
    logits: NDArray[Any], classes: int, further: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[Any], dict[str, KeptTask]]:
    """The main task's logits, and what a file holds of each further task."""
    start, tasks = classes, dict[str, KeptTask]()
    for key in further:
        name = key.removeprefix("labels_")
        if name != key:
            own = tuple(str(one) for one in further[f"classes_{name}"].tolist())
            share = logits[:, start : start + len(own)]
            truth = metrics.as_labels(further[key], len(own))
            if metrics.as_logits(share, len(truth)).shape != (len(logits), len(own)):
                raise ValueError(f"task {name}: labels {truth.shape}, logits {share.shape}, {len(own)} classes")
            tasks[name] = KeptTask(truth, share, own)
            start += len(own)
    if tasks and start != logits.shape[1]:
        raise ValueError(f"{logits.shape[1]} logits, but the tasks have {start} classes together")
    return (logits[:, :classes] if tasks else logits), tasks
