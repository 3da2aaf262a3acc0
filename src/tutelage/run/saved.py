"""What a finished run saved of its answers, read again by whoever compares runs: ids, labels and logits, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DamagedError, DataError, InputError, MismatchError, nearest
from tutelage.evaluation import metrics
from tutelage.evaluation.spans import best_spans, exact
from tutelage.files import read_json, read_text
from tutelage.recipe import Recipe, from_text
from tutelage.run.evalfiles import Kept, read_eval_file
from tutelage.run.execute import read_report

__all__ = ["Side", "answered", "finished_arm", "read_side", "recipe_of", "refuse_folds", "same_questions"]


@final
@dataclass(frozen=True, slots=True)
class Side:
    """One arm of a run: what it answered on the test part, by seed; rows in the order of (id, label)."""

    name: str  # as it was asked for, with the arm
    classes: tuple[str, ...]
    rows: NDArray[np.int64]  # (N, 2): id, label
    logits: Mapping[int, metrics.Floats]  # seed -> (N, C)
    origin: tuple[Path, str]  # folder and arm, however the folder was spelled
    right: Mapping[int, NDArray[np.bool_]]  # seed -> (N,) which examples were right; of questions the exact answers
    questions: bool = False  # whether the classes are places where an answer starts

    @property
    def labels(self) -> metrics.Ints:
        return self.rows[:, 1]


def finished_arm(asked: Path | str) -> tuple[Path, str, dict[str, Any]]:
    """The folder, the arm and the report of `folder` or `folder:arm`; the arm of the headline where none is named.

    Raises:
        InputError: there is no such run or arm, or it is not complete.
        DamagedError: its report is not what a run wrote.
    """
    place, arm = str(asked), None
    if not Path(place).expanduser().is_dir() and ":" in place:
        place, arm = place.rsplit(":", 1)
    home = Path(place).expanduser()
    if not (home / "report.json").is_file():
        raise InputError(f"no finished run in {place}", expected="a run's folder, or folder:arm, with its report.json")
    if read_json(home / "manifest.json").get("outcome") != "complete":
        raise InputError(f"the run in {place} is not complete", fix="the command that began it continues it")
    report = read_report(home / "report.json")
    try:
        names = [str(model["name"]) for model in report["models"] if model["role"] != "teacher"]
        arm = str(report["headline"]) if arm is None else arm
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{home / 'report.json'} is not what a run wrote", given=repr(error)) from error
    if arm not in names:
        raise InputError(f"no arm `{arm}` in {place}", fix=nearest(arm, names))
    return home, arm, report


def refuse_folds(home: Path, report: Mapping[str, Any]) -> None:
    """Refuse the folder of a cross-validation where models are needed: they lie in its folds.

    Raises:
        InputError: it is one.
    """
    if report.get("folds") is not None:
        raise InputError(
            f"{home} holds a cross-validation, whose models lie in its folds",
            expected="the folder of one run",
            fix=f"name a fold, such as {home / 'fold-1'}",
        )


def recipe_of(home: Path) -> Recipe:
    """The recipe by which a run was made.

    Raises:
        InputError: it was made in Python, and its folder does not say by what.
        RecipeError, DamagedError: the recipe is not what the run wrote.
    """
    text = read_text(home / "config.yaml")
    if all(line.startswith("#") for line in text.splitlines() if line.strip()):
        raise InputError(
            f"the run in {home} was made in Python, so its folder does not say where its data and teacher are",
            expected="a run of a recipe", fix="write it as a recipe: `tutelage recipes` lists examples",
        )  # fmt: skip
    return from_text(text, str(home / "config.yaml"))


def read_side(asked: Path | str) -> Side:
    """The answers of `folder` or `folder:arm`.

    Raises:
        InputError: there is no such run or arm, or it is not complete.
        DamagedError: what it saved is not what its report was made from.
    """
    home, arm, report = finished_arm(asked)
    try:
        classes = tuple(str(name) for name in report["classes"])
        questions = bool((report.get("tasks") or {}).get("questions"))
        runs = {
            str(model["name"]): {int(run["seed"]): float(run["metrics"]["accuracy"]) for run in model["runs"]}
            for model in report["models"]
            if model["role"] != "teacher"
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{home / 'report.json'} is not what a run wrote", given=repr(error)) from error
    place = str(asked) if Path(asked).expanduser().is_dir() else str(asked).rpartition(":")[0]
    name = f"{place}:{arm}"
    rows: NDArray[np.int64] | None = None
    logits: dict[int, metrics.Floats] = {}
    right: dict[int, NDArray[np.bool_]] = {}
    for seed, accuracy in sorted(runs[arm].items()):
        path = home / "eval" / f"{arm}-seed-{seed}.npz"
        own, logits[seed], right[seed] = _answers(path, len(classes), questions)
        if rows is not None and not np.array_equal(rows, own):
            raise DamagedError(f"{path} has other test examples than the run's other seeds")
        rows = own
        # The report has no sums of these files, but it has what was counted in them.
        counted = float(right[seed].mean())
        if abs(counted - accuracy) > 0.5 / len(own):
            raise DamagedError(
                f"{path} holds other answers than the report was made from",
                given=f"accuracy {counted:.6f}",
                expected=f"{accuracy:.6f}",
            )
    assert rows is not None
    return Side(name, classes, rows, logits, (home.resolve(), arm), right, questions)


def _answers(path: Path, classes: int, questions: bool) -> tuple[NDArray[np.int64], metrics.Floats, NDArray[np.bool_]]:
    """(id, label) of every row, its logits, and whether it is right, in the order of the former: files of two runs then
    meet by id.

    Examples of the very same content share an id; they stay in the order of the file, and have the same answers.
    """
    kept = read_eval_file(path, classes)
    order = np.lexsort((kept.labels, kept.ids))
    logits = metrics.as_logits(kept.logits)
    right = answered(path, kept) if questions else metrics.predictions(logits) == kept.labels
    return np.stack([kept.ids, kept.labels], axis=1)[order], logits[order], right[order]


def answered(path: Path, kept: Kept) -> NDArray[np.bool_]:
    """Which questions got the exact answer, (N,), where the tasks of a file are the places of answers.

    Raises:
        DamagedError: it does not hold both places.
    """
    if len(kept.tasks) != 1:
        raise DamagedError(f"{path} does not hold both places of an answer", given=", ".join(kept.tasks) or "one")
    (end,) = kept.tasks.values()
    return exact(best_spans(kept.logits, end.logits), np.stack([kept.labels, end.labels], axis=1))


def same_questions(first: Side, second: Side) -> None:
    """Both were asked about the same examples, by classes of the same names."""
    if first.classes != second.classes:
        only = [", ".join(sorted(set(a) - set(b))[:12]) or "nothing"
                for a, b in ((first.classes, second.classes), (second.classes, first.classes))]  # fmt: skip
        ordered = sorted(first.classes) == sorted(second.classes)
        raise MismatchError(
            "the runs name the same classes in another order" if ordered else "the runs have different classes",
            given=f"only {second.name}: {only[1]}" if not ordered else ", ".join(second.classes[:12]),
            expected=f"only {first.name}: {only[0]}" if not ordered else ", ".join(first.classes[:12]),
        )
    if np.array_equal(first.rows, second.rows):
        return
    every, which = np.unique(np.concatenate([first.rows, second.rows]), axis=0, return_inverse=True)
    counts = [np.bincount(part, minlength=len(every)) for part in np.split(which.ravel(), [len(first.rows)])]
    missing, new = (int(np.maximum(a - b, 0).sum()) for a, b in (counts, reversed(counts)))
    shared = np.intersect1d(first.rows[:, 0], second.rows[:, 0]).size
    raise DataError(
        "the runs were judged on different test examples, so their numbers cannot be compared",
        given=f"{new:,} of {len(second.rows):,} examples (id and label) only in {second.name}, "
        f"{missing:,} of {len(first.rows):,} only in {first.name}; {shared:,} ids in both",
        expected="the same test part: the same data, split by the same `data.seed` and sizes",
    )
