"""Whether the teacher knows this data: asked about a few labelled rows, and where it fails, why.

Shapes:  N rows · C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.data import Examples, as_model_input, plain_batches
from tutelage.data.draws import Stream, mix
from tutelage.data.examples import listed
from tutelage.errors import DamagedError, ModelError
from tutelage.evaluation.metrics import predictions
from tutelage.evaluation.predict import ask
from tutelage.evaluation.significance import wilson
from tutelage.files import cache_folder, read_json, sha256
from tutelage.models import load_weights
from tutelage.run.checks.budget import affordable
from tutelage.run.checks.explain import BETTER, class_order, preprocessing
from tutelage.run.checks.findings import Finding, fault, notice, ok, percent, warning
from tutelage.run.classnames import NAMES_FIX, contradiction, meet_by_name, names_of, plain_name
from tutelage.run.job import Job, statistics
from tutelage.run.teacher import is_ready, teacher_key
from tutelage.taps import Taps
from tutelage.teachers import ModuleTeacher
from tutelage.types import Batch

__all__ = ["KnownTeacher", "asked_rows", "bar_of", "come_by", "teacher_findings"]

_ASKED = 512
_LEAST_ASKED = 64
_LEAST_TRIED = 32
_BATCH = 64
_BUDGET = 2e11  # multiply-adds of all questions
_VARIANTS = 7
# Where the teacher is right this often no mistake can cost it 20 points.
_GOOD = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class KnownTeacher:
    """The teacher as the check could come by it."""

    module: nn.Module  # in any case of the right architecture
    trained: bool  # whether it has its weights
    moved: str | None = None  # what was done where its classes stood in another order


def come_by(job: Job) -> tuple[KnownTeacher | None, list[Finding]]:
    """Build the teacher, and load its weights where they are there; nothing is trained or written."""
    plan, found = job.teacher, list[Finding]()
    assert plan.build is not None
    torch.manual_seed(plan.seed)
    try:
        module = plan.build()
        found += [notice("teacher", text) for text in getattr(module, "notices", ())]
        Taps(module, job.teacher_places).close()  # a mistyped layer
        if plan.weights is not None:
            found += [notice("teacher", text) for text in load_weights(module, plan.weights)]
            found.append(ok("teacher", f"its weights come from {plan.weights}"))
        elif plan.train is None:
            found.append(ok("teacher", "it comes with its weights"))
        elif not is_ready(job):
            epochs = plan.train.epochs
            said = f"it has yet to be trained, for {epochs} epoch{'s' * (epochs > 1)}; how good it gets is not known"
            return KnownTeacher(module, trained=False), [*found, notice("teacher", said)]
        else:
            return _cached(job, module, found)
    except (ModelError, DamagedError) as error:
        return None, [*found, fault("teacher", error)]
    moved = meet_by_name(module, names_of(module, plan.weights), job.splits.train.classes)
    return KnownTeacher(module, trained=True, moved=moved), found


def _cached(job: Job, module: nn.Module, found: list[Finding]) -> tuple[KnownTeacher, list[Finding]]:
    """The teacher that an earlier run trained; where its files were altered a run trains it again."""
    home = cache_folder() / "teachers" / teacher_key(job, module)
    try:
        whole = sha256(home / "teacher.safetensors") == read_json(home / "teacher.json").get("sha256")
        if whole:
            load_weights(module, home / "teacher.safetensors")
    except (ModelError, DamagedError, OSError):
        whole = False
    if whole:
        return KnownTeacher(module, trained=True), [*found, ok("teacher", f"trained before, and in the cache ({home})")]
    said = f"the one in the cache was altered and will be trained again ({home})"
    return KnownTeacher(module, trained=False), [*found, notice("teacher", said)]


def teacher_findings(job: Job, known: KnownTeacher, device: torch.device) -> Iterator[Finding]:
    """Ask a teacher that has its weights, and explain what is wrong with its answers."""
    teacher = ModuleTeacher(known.module)
    teacher.to(device)
    val = job.splits.val
    two = as_model_input(val.inputs[:2].clone()).to(device)
    most = affordable([(known.module, 1)], two, _BUDGET)
    rows = val.take(asked_rows(val, max(_LEAST_ASKED, min(_ASKED, most))))
    tried = max(_LEAST_TRIED, most // _VARIANTS)
    labels, classes = rows.targets.numpy(), len(rows.classes)
    try:
        logits = ask(teacher, plain_batches(rows, _BATCH), device)
    except ModelError as error:
        yield fault("teacher", error)
        return
    if not bool(logits.isfinite().all()):
        bad = int((~logits.isfinite()).any(-1).sum())
        yield fault("teacher", f"{bad} of {len(rows)} answers hold NaN or infinity", "look at its weights and inputs")
        return
    answers = predictions(logits.double().numpy())
    share = float((answers == labels).mean())
    interval = wilson(share, len(rows))
    assert interval.ci_low is not None
    assert interval.ci_high is not None
    majority = float(np.bincount(labels, minlength=classes).max()) / len(rows)
    bar = bar_of(classes)
    text = (
        f"{percent(share)} of {len(rows)} validation rows right "
        f"({100 * interval.ci_low:.1f} … {100 * interval.ci_high:.1f} at 95 %), "
        f"chance is {percent(1 / classes)}, always the most frequent class {percent(majority)}"
    )
    reason = None if share > _GOOD else _reason(job, teacher, rows, answers, tried, device)
    if interval.ci_high < bar or interval.ci_high <= majority or reason is not None:
        doubt = reason or ("wrong preprocessing or class order, or not trained?", None)
        yield fault("teacher's answers", f"{text}: {doubt[0]}", doubt[1] or "check what these weights were trained on")
    elif interval.ci_low <= max(1 / classes, majority):
        yield warning("teacher's answers", f"{text}: too close to a guess to tell that it knows this data")
    else:
        yield ok("teacher's answers", text)
    if known.moved is None:
        yield from _names(job, known.module, fits=interval.ci_low > max(bar, majority))
        return
    wrong = contradiction(known.module, logits, rows.targets)
    if wrong is None:
        yield notice("class names", known.moved)
    else:
        yield fault("class names", f"{known.moved}. But they contradict its answers: {wrong}", NAMES_FIX)


def bar_of(classes: int) -> float:
    """What a teacher must reach to be one: three times chance; where that is much, a quarter of the way from chance.

    Three times chance cannot be reached with two classes, and hardly with three.
    """
    return min(3 / classes, 1 / classes + (1 - 1 / classes) / 4)


def asked_rows(part: Examples, most: int = _ASKED) -> Tensor:
    """Up to `most` places of a part, chosen by a hash of their contents: the same ones on every machine."""
    return torch.from_numpy(mix(Stream.SAMPLE, part.ids.numpy()).argsort(kind="stable")[:most])


def _reason(
    job: Job, teacher: ModuleTeacher, rows: Examples, answers: NDArray[np.int64], tried: int, device: torch.device
) -> tuple[str, str | None] | None:
    """What explains wrong answers, and what to do about it; `tried` rows go through each other preprocessing."""
    labels, bar = rows.targets.numpy(), bar_of(len(rows.classes))
    # Rows stand in the order of a hash, so the first ones are a random choice of them.
    few = rows.take(torch.arange(min(tried, len(rows))))

    def right(inputs: Tensor) -> float:
        parts = [slice(start, start + _BATCH) for start in range(0, len(few), _BATCH)]
        batches = [Batch(few.ids[part], {"x": inputs[part]}, few.targets[part]) for part in parts]
        return float((ask(teacher, batches, device).argmax(-1) == few.targets).double().mean())

    mean, std = statistics(job.splits.train)
    share = float((answers[: len(few)] == labels[: len(few)]).mean())
    said = preprocessing(
        right, as_model_input(few.inputs.clone()), max(share + BETTER, bar), teacher.module, (mean, std)
    )
    if said is not None:
        fix = (
            "give the model the preprocessing of its training: right normalise.mean and normalise.std in the weights' "
            "file, or a function `package.module:function` that wraps it"
        )
        return said, fix
    said = class_order(answers, labels, rows.classes, bar)
    if said is not None:
        return said, "put the rows of its last layer into the order of the data's classes, or rename the classes"
    return None


def _names(job: Job, module: nn.Module, *, fits: bool) -> Iterator[Finding]:
    """Compare the class names that the weights bring with those of the data."""
    own = names_of(module, job.teacher.weights)
    if own is None:
        return
    data = job.splits.train.classes
    theirs, ours = [plain_name(name) for name in own], [plain_name(name) for name in data]
    if theirs == ours:
        yield ok("class names", "the teacher's are those of the data, in the same order")
    elif sorted(theirs) == sorted(ours):
        yield fault(
            "class names",
            f"the teacher's classes stand in another order: teacher {listed(own)}; data {listed(data)}",
            "give every class a name of its own, so that they can be met by name",
        )
    else:
        text = (
            f"the teacher has other classes than the data: only the teacher {_only(own, ours)}; "
            f"only the data {_only(data, theirs)}"
        )
        if fits:
            # Two names for the same thing, such as a number and a word: its answers show that it means the same.
            yield warning("class names", f"{text}; but its answers fit the labels")
        else:
            yield fault("class names", text, "use a teacher of these classes, or rename the classes")


def _only(names: Sequence[str], others: list[str]) -> str:
    return listed([name for name in names if plain_name(name) not in others]) or "none"
