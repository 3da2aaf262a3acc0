"""A student's file against labelled data of any kind: what it scores there, seed by seed, class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.data import Examples, load, plain_batches
from tutelage.data.examples import listed
from tutelage.data.inputs import read_again
from tutelage.data.sets import SETS, set_folder
from tutelage.data.sources import made_of_rows
from tutelage.data.tabular import read_rows
from tutelage.errors import DamagedError, InputError, ModelError
from tutelage.evaluation import metrics
from tutelage.evaluation.predict import predict
from tutelage.evaluation.significance import Estimate, over_seeds, wilson
from tutelage.report import numbers
from tutelage.run.evalfiles import Kept, write_eval_file
from tutelage.run.examples import examples_of
from tutelage.run.saved import finished_arm, recipe_of, refuse_folds
from tutelage.run.students import load_student, read_facts

__all__ = ["Evaluated", "evaluate_run"]

_BATCH = 512
_SHOWN = ("accuracy", "macro_recall", "macro_f1", "nll", "brier", "ece")
_WORST = 5


@final
@dataclass(frozen=True, slots=True)
class Evaluated:
    """What the students of one arm score on some data."""

    student: str
    data: str
    examples: int
    seeds: tuple[int, ...]
    metrics: Mapping[str, Estimate]  # means over the seeds
    accuracy_items: Estimate  # with Wilson's interval over the examples
    recalls: Mapping[str, float]  # class -> mean over seeds, of classes that the data has
    notices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self) -> str:
        """A few lines for a person."""
        items = self.accuracy_items
        lines = [
            f"{self.student} on {self.examples:,} examples of {self.data}, {numbers.plural(len(self.seeds), 'seed')}"
        ]
        for name, found in self.metrics.items():
            share = name not in ("nll", "brier")
            value = numbers.percent(found.value) if share else f"{found.value:.4f}"
            spread = "" if found.ci_low is None else f"  (95 % CI over seeds {numbers.interval(found.to_json())})"
            lines.append(f"  {name:<13} {value:>9}{spread if share else ''}")
        lines.append(f"  over examples, 95 % CI of the accuracy: {numbers.interval(items.to_json())} %")
        worst = sorted(self.recalls.items(), key=lambda pair: pair[1])[:_WORST]
        lines.append("  lowest recall: " + ", ".join(f"{name} {numbers.percent(value)}" for name, value in worst))
        return "\n".join([*lines, *(f"notice: {text}" for text in self.notices)])


def evaluate_run(
    name: str,
    source: str,
    *,
    path: Path | str | None = None,
    part: str = "test",
    trust: bool = False,
    out: Path | str | None = None,
) -> Evaluated:
    """Ask every student of one arm about labelled data, from their files.

    Args:
        name: a run's folder, with an arm after a colon: `runs/a:scratch`; by default the arm of the headline.
        source: a source of data, as in a recipe.
        path: where it lies.
        part: "train", "val", "test", or "all" of them together. Rows of columns have no parts, so that all are asked
            about; those that the run itself learned from have the run's.
        trust: whether code that the run's recipe named may run to build the students.
        out: folder for what every student answered, one .npz each (ids, logits, labels).

    Raises:
        InputError: no such run, arm or part.
        ModelError: the data's inputs or classes are not the student's.
        DataError: the data cannot be used.
        DamagedError: a file is not what it was.
    """
    folder, arm, report = finished_arm(name)
    refuse_folds(folder, report)
    row = next(model for model in report["models"] if model["name"] == arm)
    place, how = folder / "students" / (row["of"] or arm), row["compression"]
    homes = sorted(place.glob("seed-*"), key=lambda home: int(home.name.removeprefix("seed-")))
    if not homes:
        raise DamagedError(f"there is no student in {place}", fix="restore the run's folder")
    facts = read_facts(homes[0] / "student.safetensors")
    if facts.get("model") is None:
        load_student(homes[0])  # which says why it cannot be built
    if made_of_rows(source):
        examples, part, told = _rows(folder, source, path, part, facts)
    else:
        examples, told = _examples(source, path, part, tuple(facts["input_shape"])), []
    labels, notices = _labels(examples, facts["classes"])
    found: list[dict[str, float]] = []
    recalls: list[NDArray[np.float64]] = []
    for home in homes:
        student = load_student(home, compression=how, trust=trust)
        logits = predict(student, plain_batches(examples, _BATCH), torch.device("cpu")).double().numpy()
        measured = metrics.measure(logits, labels, logits)  # its own teacher: what compares the two is left out
        found.append({key: measured[key] for key in _SHOWN})
        recalls.append(metrics.recalls(metrics.confusion(logits, labels)))
        if out is not None:
            _keep(Path(out) / f"{arm}-{home.name}.npz", examples, logits, labels)
    means = {key: over_seeds([one[key] for one in found], len(examples)) for key in _SHOWN}
    held = sorted({int(label) for label in labels})
    mean = np.mean(recalls, axis=0)
    return Evaluated(
        f"{folder}:{arm}",
        f"{examples.name} ({part})",
        len(examples),
        tuple(int(home.name.removeprefix("seed-")) for home in homes),
        means,
        wilson(min(1.0, means["accuracy"].value), len(examples), seeds=len(homes)),
        {facts["classes"][label]: float(mean[label]) for label in held},
        (*told, *notices),
    )


def _rows(
    folder: Path, source: str, path: Path | str | None, part: str, facts: Mapping[str, Any]
) -> tuple[Examples, str, list[str]]:
    """Rows as the student reads them, which part they are, and what is worth knowing about them."""
    _check_part(part)
    encoding = facts.get("encoding")
    if encoding is None:
        raise ModelError(
            "this student reads no columns", given=f"inputs of shape {tuple(facts['input_shape'])}",
            expected="a source of such inputs: digits, folder, arrays, …",
        )  # fmt: skip
    try:
        recipe = recipe_of(folder)
    except InputError:  # a run made in Python
        recipe = None
    place = None if path is None else Path(path).expanduser()
    if recipe is not None and recipe.data.source == source and part != "all" and _same(recipe.data.path, place):
        return getattr(examples_of(recipe)[0], part), part, []
    usual = None
    if source == "rows":
        if place is None:
            raise InputError("the source `rows` needs a path", expected="--path, a .csv, .tsv, .jsonl or .parquet file")
        rows = read_rows(place)
    else:
        rows, usual = SETS[source].read(place or set_folder(source)), SETS[source].label
    known = [one for one in (None if recipe is None else recipe.data.label, usual) if one is not None]
    label = next((one for one in known if one in rows.columns), known[0] if known else None)
    if label is None:
        raise InputError("nothing says which column holds the classes", given="a run that was made in Python",
                         fix="write it as a recipe, with data.label")  # fmt: skip
    if part not in ("test", "all"):
        raise InputError(f"these rows have no part `{part}`", given=rows.name, expected="all")
    examples = read_again(rows, encoding, label)
    lost = len(rows) - len(examples)
    told = [f"{lost:,} of {len(rows):,} rows have no `{label}`, or nothing to read, and are left out"] if lost else []
    return examples, "all", told


def _same(known: str | None, given: Path | None) -> bool:
    """Whether a path is the one that a recipe names."""
    if known is None or given is None:
        return known is None and given is None
    return Path(known).expanduser().resolve() == given.resolve()


def _check_part(part: str) -> None:
    if part not in ("train", "val", "test", "all"):
        raise InputError(f"no such part `{part}`", expected="train, val, test or all")


def _examples(source: str, path: Path | str | None, part: str, shape: tuple[int, ...]) -> Examples:
    """The part that was asked for, in the size and colours that the student knows."""
    _check_part(part)
    image = len(shape) == 3 and source != "arrays"  # arrays are taken as they are
    splits = load(
        source,
        path=path,
        allow_overlap=True,
        image_size=shape[-1] if image and shape[-1] == shape[-2] else None,
        channels=shape[0] if image else None,
    )
    if part != "all":
        examples: Examples = getattr(splits, part)
    else:
        parts = (splits.train, splits.val, splits.test)
        examples = Examples.make(
            torch.cat([one.inputs for one in parts]), torch.cat([one.targets for one in parts]), splits.train.classes,
            splits.train.name,
        )  # fmt: skip
    if examples.shape != shape:
        raise ModelError(
            f"the inputs of {examples.name} are not the student's", given=f"shape {examples.shape}", expected=f"{shape}"
        )
    return examples


def _labels(examples: Examples, classes: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Labels in the student's numbering, met by the names of the classes, and what is worth knowing about that."""
    number = {name: index for index, name in enumerate(classes)}
    unknown = [name for name in examples.classes if name not in number]
    if unknown:
        raise ModelError(
            f"{len(unknown)} of the data's classes are not the student's",
            given=listed(unknown),
            expected=f"among {listed(list(classes))}",
            fix="rename the classes, or leave these examples out",
        )
    notices = []
    if len(examples.classes) < len(classes):
        absent = [name for name in classes if name not in examples.classes]
        notices.append(f"the data has no examples of {listed(absent)}")
    elif tuple(examples.classes) != tuple(classes):
        notices.append("the data's classes stand in another order than the student's; they were met by name")
    places = np.array([number[name] for name in examples.classes], dtype=np.int64)
    return places[examples.targets.numpy()], notices


def _keep(path: Path, examples: Examples, logits: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
    write_eval_file(path, Kept(examples.ids.numpy(), labels, logits))
