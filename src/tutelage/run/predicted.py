"""Files of predictions, from this tool or any other: read, told apart by their arrays, and checked."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DamagedError, DataError, InputError, TutelageError
from tutelage.evaluation import metrics, multilabel, regression, retrieval
from tutelage.evaluation.forms import Answers

__all__ = ["Predictions", "about", "is_file", "read_predictions"]

# The first name that a file has is the one that is read.
_SAID: Mapping[str, tuple[str, ...]] = {
    "classification": ("logits", "probabilities", "scores", "predictions"),
    "multilabel": ("logits", "probabilities", "scores", "predictions"),
    "regression": ("predictions", "scores"),
    "retrieval": ("scores", "logits", "predictions"),
}
_TRUE: Mapping[str, tuple[str, ...]] = {
    "classification": ("labels", "targets"),
    "multilabel": ("targets", "labels"),
    "regression": ("targets", "labels"),
    "retrieval": ("relevance", "targets", "labels"),
}
_NAMES = ("ids", "queries", "variance", "unknown", "relevance", "labels", "targets", *_SAID["classification"])
_SINGULAR = {"id": "ids", "query": "queries", "label": "labels", "target": "targets", "logit": "logits",
             "probability": "probabilities", "score": "scores", "prediction": "predictions"}  # fmt: skip
_LABELS, _CLASSES = "labels_", "classes_"  # of a further task, in files that a run wrote
Arrays = dict[str, NDArray[Any]]


@final
@dataclass(frozen=True, slots=True)
class Predictions:
    """One file: what a model said about some examples, and what is true of them."""

    name: str
    task: str
    ids: NDArray[Any] | None  # (N,) integers or text
    answers: Answers
    notices: tuple[str, ...] = ()


def is_file(name: str) -> bool:
    """Whether this names a file of predictions, and not a run."""
    return Path(name).suffix.lower() in (".npz", ".csv") and not Path(name).expanduser().is_dir()


@contextmanager
def about(path: Path | str) -> Iterator[None]:
    """Says of what is wrong with an array in which file it stands."""
    try:
        yield
    except InputError as error:
        found = error.problem
        raise DataError(
            found.what, where=str(path), given=found.given, expected=found.expected, fix=found.fix
        ) from error
    except TutelageError:
        raise
    except (ValueError, TypeError) as error:
        raise DataError(
            "an array holds something else than numbers", where=str(path), given=str(error)[:200]
        ) from error


def read_predictions(path: Path | str, task: str | None = None) -> Predictions:
    """The predictions in an .npz or .csv file.

    Args:
        path: the file.
        task: the form of the task; None goes by the arrays.

    Raises:
        InputError: there is no such file, or its arrays do not say what the task is.
        DataError: an array is missing, or has the wrong shape or kind.
        DamagedError: the file cannot be read.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise InputError(f"there is no file {path}", expected="predictions in an .npz or .csv file")
    notices: list[str] = []
    arrays = _csv(place) if place.suffix.lower() == ".csv" else _npz(place)
    arrays = _of_main_task(place, arrays, notices)
    form = _form(place, arrays) if task is None else task
    with about(place):
        answers = _READERS[form](place, arrays, notices)
    return Predictions(str(path), form, _ids(place, arrays, len(answers.said)), answers, tuple(notices))


# ---- files -----------------------------------------------------------------------------------------------------------


def _npz(path: Path) -> Arrays:
    try:
        # Opened here: numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            if not isinstance(saved, np.lib.npyio.NpzFile):
                raise ValueError("one array without a name")
            further = [name for name in saved.files if name.startswith((_LABELS, _CLASSES))]
            return {name: np.asarray(saved[name]) for name in (*_NAMES, *further) if name in saved.files}
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedError(
            f"{path} cannot be read as arrays",
            given=" ".join(str(error).split())[:200] or type(error).__name__,
            expected="an .npz as numpy.savez writes it, without Python objects",
        ) from error


def _of_main_task(path: Path, arrays: Arrays, notices: list[str]) -> Arrays:
    """The arrays of the main task alone, of a file that a run of several tasks wrote: their logits stand side by side,
    and `classes_<task>` says how many of them a further task has."""
    told = {name.removeprefix(_LABELS) for name in arrays if name.startswith(_LABELS)}
    classes = {name: arrays[_CLASSES + name] for name in sorted(told) if _CLASSES + name in arrays}
    sizes = {name: len(one) for name, one in classes.items() if one.ndim == 1}
    own = {name: array for name, array in arrays.items() if name in _NAMES}
    logits = own.get("logits")
    if not sizes or logits is None or logits.ndim != 2:
        return own
    main = logits.shape[1] - sum(sizes.values())
    if main < 1:
        raise DataError(
            "the tasks have more classes together than there are logits", where=str(path),
            given=f"{sum(sizes.values())} of {', '.join(sizes)} alone", expected=f"fewer than {logits.shape[1]}",
        )  # fmt: skip
    notices.append(f"{path} holds several tasks: the main one is scored, not {', '.join(sizes)}")
    return own | {"logits": logits[:, :main]}


def _csv(path: Path) -> Arrays:
    """Columns by name: `score_0`, `score_1`, … are one array `scores`, `id` is `ids`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DamagedError(
            f"{path} cannot be read as a table", given=str(error)[:200], expected="CSV, UTF-8"
        ) from error
    if len(rows) < 2:
        raise DataError(f"{path} has no rows", expected="a line of names and a line for each example")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            given = f"{len(row)} values in row {number}"
            raise DataError("a row has another length than the names", where=str(path), given=given,
                            expected=f"{len(rows[0])}")  # fmt: skip
    found: dict[str, dict[int | None, NDArray[Any]]] = {}
    for name, *values in zip(*rows, strict=True):
        stem, _, number = name.strip().rpartition("_")
        column = int(number) if stem and number.isdecimal() else None
        key = name.strip() if column is None else stem
        found.setdefault(_SINGULAR.get(key, key), {})[column] = _column(values)
    arrays: Arrays = {}
    for name, columns in found.items():
        if name not in _NAMES:
            continue
        if None not in columns and set(columns) != set(range(len(columns))):
            raise DataError(f"the columns of {name} do not count 0, 1, …", where=str(path), given=str(list(columns)))
        several = [columns[number] for number in range(len(columns))] if None not in columns else []
        arrays[name] = np.stack(several, axis=1) if several else columns[None]
    return arrays


def _column(values: Sequence[str]) -> NDArray[Any]:
    """Whole numbers, numbers, or text, whichever all values are."""
    for kind in (np.int64, np.float64):
        try:
            return np.array([value.strip() for value in values]).astype(kind)
        except (ValueError, OverflowError):
            continue
    return np.array(values)


def _form(path: Path, arrays: Arrays) -> str:
    """The form of the task that the arrays suggest."""
    if "queries" in arrays:
        return "retrieval"
    truth = next((arrays[name] for name in ("targets", "labels") if name in arrays), None)
    said = next((arrays[name] for name in _SAID["classification"] if name in arrays), None)
    if truth is not None and said is not None:
        whole = truth.dtype.kind in "iub"
        if truth.ndim == 2 and ("unknown" in arrays or (whole and np.isin(truth, (0, 1)).all())):
            return "multilabel"
        if truth.ndim == 1 and whole and (said.ndim == 2 or said.dtype.kind in "iu"):
            return "classification"
        if truth.dtype.kind == "f" and ("predictions" in arrays or said.shape == truth.shape):
            return "regression"
    held = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
    raise InputError(
        f"the arrays of {path} do not say what the task is",
        given=held or "none that is read",
        expected=f"answers and truth, for instance logits and labels; names that are read: {', '.join(_NAMES)}",
        fix="say it: --task classification, multilabel, regression or retrieval",
    )


def _ids(path: Path, arrays: Arrays, rows: int) -> NDArray[Any] | None:
    ids = arrays.get("ids")
    if ids is not None and (ids.shape != (rows,) or ids.dtype.kind not in "iuUS"):
        raise DataError(
            "ids have the wrong shape or kind", where=str(path), given=f"{ids.dtype} {ids.shape}",
            expected=f"({rows},) integers or text",
        )  # fmt: skip
    return ids


# ---- forms -----------------------------------------------------------------------------------------------------------


def _pick(path: Path, arrays: Arrays, names: Sequence[str]) -> tuple[str, NDArray[Any]]:
    for name in names:
        if name in arrays:
            return name, arrays[name]
    raise DataError(
        f"{path} has no {' or '.join(names)}", given=", ".join(arrays) or "no array that is read",
        expected=f"an array named {' or '.join(names)}",
    )  # fmt: skip


def _classification(path: Path, arrays: Arrays, notices: list[str]) -> Answers:
    name, said = _pick(path, arrays, _SAID["classification"])
    truth = _pick(path, arrays, _TRUE["classification"])[1]
    if name == "predictions" and said.ndim == 1:
        width = max((int(one.max()) for one in (said, truth) if one.size and one.dtype.kind in "iu"), default=0) + 1
        named, labels = (metrics.as_labels(one, width) for one in (said, truth))
        _same_length(named, labels)
        notices.append(f"{path} names classes without scores: only what counts right and wrong is measured")
        return Answers("classification", _one_hot(named, width), labels, named=True)
    values = said.astype(np.float64)
    odds = values.ndim == 2 and bool((values >= 0).all()) and bool(np.allclose(values.sum(axis=1), 1, atol=1e-3))
    if name == "probabilities" and not odds:
        raise InputError("probabilities must be at least 0 and add up to 1 in each row", fix="name them `logits`")
    if name != "logits" and odds:
        with np.errstate(divide="ignore"):
            values = np.log(values)
    if name in ("scores", "predictions"):
        notices.append(f"the {name} of {path} were read as {'probabilities' if odds else 'logits'}")
    logits = metrics.as_logits(values)
    labels = metrics.as_labels(truth, logits.shape[1])
    _same_length(logits, labels)
    return Answers("classification", logits, labels)


def _one_hot(named: metrics.Ints, width: int) -> metrics.Floats:
    """Logits of which the largest is that of the class."""
    return np.asarray(named[:, None] == np.arange(width), dtype=np.float64)


def _same_length(said: NDArray[Any], truth: NDArray[Any]) -> None:
    if len(said) != len(truth):
        raise InputError("answers and labels differ in length", given=f"{len(said)} and {len(truth)}")


def _multilabel(path: Path, arrays: Arrays, notices: list[str]) -> Answers:
    name, said = _pick(path, arrays, _SAID["multilabel"])
    scores, truth, known = multilabel.as_multilabel(
        said, _pick(path, arrays, _TRUE["multilabel"])[1], arrays.get("unknown")
    )
    share = name != "logits" and float(scores.min()) >= 0 and float(scores.max()) <= 1
    if name == "predictions" and np.isin(scores, (0, 1)).all():
        notices.append(f"the predictions of {path} are 0 and 1, which rank labels in two groups only")
    return Answers("multilabel", scores, truth, unknown=~known, threshold=0.5 if share else 0.0)


def _regression(path: Path, arrays: Arrays, notices: list[str]) -> Answers:
    said, truth = (_pick(path, arrays, names["regression"])[1] for names in (_SAID, _TRUE))
    numbers = regression.as_numbers(said, truth, arrays.get("variance"))
    return Answers("regression", numbers.said, numbers.truth, variance=numbers.variance)


def _retrieval(path: Path, arrays: Arrays, notices: list[str]) -> Answers:
    said, truth = (_pick(path, arrays, names["retrieval"])[1] for names in (_SAID, _TRUE))
    queries = _pick(path, arrays, ("queries",))[1]
    if queries.dtype.kind not in "iuUS":
        raise InputError("queries must be integers or text", given=queries.dtype)
    retrieval.as_rows(queries, said, truth)
    return Answers("retrieval", said.astype(np.float64), truth.astype(np.float64), queries=queries)


_READERS = {
    "classification": _classification, "multilabel": _multilabel, "regression": _regression, "retrieval": _retrieval,
}  # fmt: skip
