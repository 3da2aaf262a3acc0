"""A student's file against labelled data of any kind: what it scores there, seed by seed, class by class, of several
tasks one by one, and of questions by the stretch of text that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.data import Examples, load, plain_batches
from tutelage.data.examples import MAIN_TASK, Task, listed, separator_of
from tutelage.data.inputs import read_again
from tutelage.data.learned import Learned
from tutelage.data.rows import Rows
from tutelage.data.sets import SETS, Set, set_folder
from tutelage.data.sources import made_of_rows
from tutelage.data.tabular import read_rows
from tutelage.errors import DamagedError, InputError, ModelError
from tutelage.evaluation import metrics, spans
from tutelage.evaluation.predict import predict
from tutelage.evaluation.significance import Estimate, over_seeds, wilson
from tutelage.export.tasks import Share, shares
from tutelage.recipe import Recipe
from tutelage.report import numbers
from tutelage.run.evalfiles import Kept, KeptTask, write_eval_file
from tutelage.run.examples import examples_of, learned_of
from tutelage.run.saved import finished_arm, recipe_of, refuse_folds
from tutelage.run.students import load_student, read_facts

__all__ = ["Evaluated", "evaluate_run"]

_BATCH = 512
_SHOWN = ("accuracy", "macro_recall", "macro_f1", "nll", "brier", "ece")
_COSTS = ("nll", "brier")  # which may be above 1
_WORST = 5


@final
@dataclass(frozen=True, slots=True)
class Evaluated:
    """What the students of one arm score on some data."""

    student: str
    data: str
    examples: int
    seeds: tuple[int, ...]
    metrics: Mapping[str, Estimate]  # means over the seeds; of several tasks those of the main one
    accuracy_items: Estimate  # with Wilson's interval over the examples; of questions that of the exact match
    recalls: Mapping[str, float]  # class -> mean over seeds, of classes that the data has; of questions nothing
    notices: tuple[str, ...]
    tasks: Mapping[str, Estimate] = field(default_factory=dict)  # task -> accuracy, where there are several

    def to_json(self) -> dict[str, Any]:
        told = asdict(self)
        return told if self.tasks else {key: value for key, value in told.items() if key != "tasks"}

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
        exact, within = "exact_match" in self.metrics, numbers.interval(items.to_json())
        lines.append(
            f"  over examples, 95 % CI of the exact match: {within} %"
            if exact
            else f"  over examples, 95 % CI of the accuracy: {within} %"
        )
        worst = sorted(self.recalls.items(), key=lambda pair: pair[1])[:_WORST]
        if worst:
            lines.append("  lowest recall: " + ", ".join(f"{name} {numbers.percent(value)}" for name, value in worst))
        if self.tasks:
            each = (f"{name} {numbers.percent(one.value)}" for name, one in self.tasks.items())
            lines.append(f"  accuracy of each task: {', '.join(each)}")
        return "\n".join([*lines, *(f"notice: {text}" for text in self.notices)])


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """One task's questions."""

    columns: slice  # of its logits among all
    labels: NDArray[np.int64]  # (N,), in the student's numbering
    classes: tuple[str, ...]

    def right(self, logits: NDArray[np.float64]) -> float:
        """The share of examples that logits (N, C) of all tasks get right."""
        return float((logits[:, self.columns].argmax(-1) == self.labels).mean())


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
    asked, notices = _asked(examples, facts)
    main, questions = next(iter(asked.values())), separator_of(facts) > 0
    said: list[NDArray[np.float64]] = []
    for home in homes:
        student = load_student(home, compression=how, trust=trust)
        said.append(predict(student, plain_batches(examples, _BATCH), torch.device("cpu")).double().numpy())
        if out is not None:
            _keep(Path(out) / f"{arm}-{home.name}.npz", examples, said[-1], asked)
    found = [_spans_right(one, asked) if questions else _measured(one[:, main.columns], main.labels) for one in said]
    means = _means(found, len(examples))
    several = len(facts.get("tasks", ())) > 1
    return Evaluated(
        f"{folder}:{arm}",
        f"{examples.name} ({part})",
        len(examples),
        tuple(int(home.name.removeprefix("seed-")) for home in homes),
        means,
        wilson(min(1.0, next(iter(means.values())).value), len(examples), seeds=len(homes)),
        {} if questions else _recalls(said, main),
        (*told, *notices),
        _means([{name: task.right(one) for name, task in asked.items()} for one in said], len(examples))
        if several else {},
    )  # fmt: skip


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
    told = SETS.get(source) or (None if recipe is None else SETS.get(recipe.data.source))
    if source == "rows":
        if place is None:
            raise InputError("the source `rows` needs a path", expected="--path, a table such as rows.csv")
        rows = read_rows(place)
    else:
        rows = SETS[source].read(place or set_folder(source))
    learned = _learned(recipe, told, rows, questions=separator_of(facts) > 0)
    if learned.missing:
        raise InputError("nothing says which column holds the classes", given="a run that was made in Python",
                         fix="write it as a recipe, with data.label")  # fmt: skip
    if part not in ("test", "all"):
        raise InputError(f"these rows have no part `{part}`", given=rows.name, expected="all")
    examples, notices = read_again(rows, encoding, learned)
    lost = len(rows) - len(examples)
    what = listed(list(learned.columns.values())) or "answer"
    if lost:
        notices.append(f"{lost:,} of {len(rows):,} rows have no `{what}`, or nothing to read, and are left out")
    return examples, "all", notices


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
        tasks = {
            name: Task(torch.cat([one.tasks[name].targets for one in parts]), task.classes)
            for name, task in splits.train.tasks.items()
        }
        examples = Examples.make(
            torch.cat([one.inputs for one in parts]), torch.cat([one.targets for one in parts]), splits.train.classes,
            splits.train.name, tasks=tasks,
        )  # fmt: skip
    if examples.shape != shape:
        raise ModelError(
            f"the inputs of {examples.name} are not the student's", given=f"shape {examples.shape}", expected=f"{shape}"
        )
    return examples


def _learned(recipe: Recipe | None, told: Set | None, rows: Rows, *, questions: bool) -> Learned:
    """What of these rows is told of them, as in the run; of another set without its further tasks."""
    known = Learned() if recipe is None else learned_of(recipe)
    if known.answer is not None:
        return known
    if questions:
        return Learned.of(None, None, None if told is None else told.args.get("answer"))
    usual = None if told is None else told.label
    label = next((one for one in (known.label, usual) if one in rows.columns), known.label or usual)
    return Learned(label, {name: column for name, column in known.tasks.items() if column in rows.columns})


def _asked(examples: Examples, facts: Mapping[str, Any]) -> tuple[dict[str, _Asked], list[str]]:
    """What the student and the data have in common, the main task first, and what is worth knowing about that.

    Of several tasks the data's first one is the student's first one, where it has none of that name.
    """
    own = shares(facts["classes"], facts.get("tasks", {}))
    if not own:
        return _met({MAIN_TASK: Task(examples.targets, examples.classes)},
                    {MAIN_TASK: Share(0, len(facts["classes"]), tuple(facts["classes"]))})  # fmt: skip
    main = examples.task if examples.task in own else next(iter(own))
    data = {main: Task(examples.targets, examples.classes)} | {
        name: task for name, task in examples.tasks.items() if name in own and name != main
    }
    found, notices = _met(data, own)
    if lacking := [name for name in own if name not in data]:
        notices.append(f"the data has no labels of {listed(lacking)}")
    return found, notices


def _met(data: Mapping[str, Task], own: Mapping[str, Share]) -> tuple[dict[str, _Asked], list[str]]:
    found, notices = dict[str, _Asked](), list[str]()
    for name, task in data.items():
        labels, said = _labels(task, own[name].classes)
        found[name] = _Asked(own[name].columns, labels, own[name].classes)
        notices += said
    return found, notices


def _labels(examples: Task, classes: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
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


def _means(found: Sequence[Mapping[str, float]], n: int) -> dict[str, Estimate]:
    means = {key: over_seeds([one[key] for one in found], n) for key in found[0]}
    return {key: one if key in _COSTS else one.within(0.0, 1.0) for key, one in means.items()}


def _recalls(said: Sequence[NDArray[np.float64]], main: _Asked) -> dict[str, float]:
    """Class -> mean over seeds, of classes that the data has."""
    each = [metrics.recalls(metrics.confusion(one[:, main.columns], main.labels)) for one in said]
    mean = np.mean(each, axis=0)
    return {main.classes[label]: float(mean[label]) for label in sorted({int(label) for label in main.labels})}


def _measured(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    measured = metrics.measure(logits, labels, logits)  # its own teacher: what compares the two is left out
    return {key: measured[key] for key in _SHOWN}


def _spans_right(logits: NDArray[np.float64], asked: Mapping[str, _Asked]) -> dict[str, float]:
    """How often the stretch of text that is named is the true one, and how much the two overlap."""
    start, end = asked["start"], asked["end"]
    said = spans.best_spans(logits[:, start.columns], logits[:, end.columns])
    truth = np.stack([start.labels, end.labels], axis=1)
    return {"exact_match": float(spans.exact(said, truth).mean()), "f1": float(spans.overlap(said, truth).mean())}


def _keep(path: Path, examples: Examples, logits: NDArray[np.float64], asked: Mapping[str, _Asked]) -> None:
    main, *_ = asked.values()
    further = {
        name: KeptTask(one.labels, logits[:, one.columns], one.classes)
        for name, one in asked.items() if one is not main
    }  # fmt: skip
    write_eval_file(path, Kept(examples.ids.numpy(), main.labels, logits[:, main.columns], further))
