"""Whether the teacher knows this data: asked about a few labelled rows, and where it fails, why.

Shapes:  N rows · C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.data import Examples, as_model_input, plain_batches
from tutelage.data.draws import Stream, mix
from tutelage.data.examples import listed
from tutelage.errors import DamagedError, ModelError
from tutelage.evaluation.metrics import predictions
from tutelage.evaluation.predict import ask, task_scores
from tutelage.evaluation.significance import wilson
from tutelage.files import cache_folder, read_json, sha256
from tutelage.models import load_weights
from tutelage.run.checks.budget import affordable
from tutelage.run.checks.explain import BETTER, class_order, preprocessing
from tutelage.run.checks.findings import Finding, fault, notice, ok, percent, warning
from tutelage.run.checks.tasks import bar_of, majority_of, task_findings
from tutelage.run.checks.worth import worth_finding
from tutelage.run.classnames import NAMES_FIX, contradiction, meet_by_name, names_of, plain_name
from tutelage.run.crossfit import check_cross_fit
from tutelage.run.examples import statistics
from tutelage.run.job import Job
from tutelage.run.teacher import is_ready, teacher_key
from tutelage.taps import Taps
from tutelage.teachers import EnsembleTeacher, ModuleTeacher, Teacher
from tutelage.teachers.combining import BY_TASK
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

    module: nn.Module  # in any case of the right architecture; of several teachers all of them
    trained: bool  # whether it has its weights; of several, whether all have
    moved: str | None = None  # what was done where its classes stood in another order
    members: Mapping[str, KnownTeacher] = field(default_factory=dict)  # several, by name

    def live(self, job: Job) -> Teacher:
        """As it answers in a run, its modules frozen."""
        if not self.members:
            return ModuleTeacher(self.module, places=job.teacher_places)
        jobs = job.members
        return EnsembleTeacher([one.live(jobs[name]) for name, one in self.members.items()], **job.teacher.combine)


def come_by(job: Job) -> tuple[KnownTeacher | None, list[Finding]]:
    """Build the teacher, or all of several, and load weights where they are there; nothing is trained or written."""
    if not job.teacher.members:
        return _come_by_one(job)
    said = list[Finding]()
    members = dict[str, KnownTeacher]()
    for name, one in job.members.items():
        known, own = _come_by_one(one)
        said += own
        if known is not None:
            members[name] = known
    if len(members) < len(job.members):
        return None, said
    modules = nn.ModuleList(one.module for one in members.values())
    return KnownTeacher(modules, all(one.trained for one in members.values()), members=members), said


def _come_by_one(job: Job) -> tuple[KnownTeacher | None, list[Finding]]:
    plan, title, found = job.teacher, job.teacher.title, list[Finding]()
    check_cross_fit(job)
    if plan.cross_fit:
        asked = "" if job.store is not None else ", and all of them are asked at every step"
        said = f"cross-fitted in {plan.cross_fit} folds: so many more learn first{asked}"
        found.append(notice(title, said, None if job.store is not None else "`store: auto` asks each example once"))
    if plan.opens is not None:
        return None, [*found, *_elsewhere(job)]
    assert plan.build is not None
    torch.manual_seed(plan.seed)
    try:
        module = plan.build()
        found += [notice(title, text) for text in getattr(module, "notices", ())]
        Taps(module, job.teacher_places).close()  # a mistyped layer
        if plan.weights is not None:
            found += [notice(title, text) for text in load_weights(module, plan.weights)]
            found.append(ok(title, f"its weights come from {plan.weights}"))
        elif plan.train is None:
            found.append(ok(title, "it comes with its weights"))
        elif not is_ready(job):
            epochs = plan.train.epochs
            said = f"it has yet to be trained, for {epochs} epoch{'s' * (epochs > 1)}; how good it gets is not known"
            return KnownTeacher(module, trained=False), [*found, notice(title, said)]
        else:
            return _cached(job, module, found)
    except (ModelError, DamagedError) as error:
        return None, [*found, fault(title, error)]
    moved = meet_by_name(module, names_of(module, plan.weights), job.splits.train.outputs)
    return KnownTeacher(module, trained=True, moved=moved), found


def _elsewhere(job: Job) -> list[Finding]:
    """What can be said of a teacher that is no torch module without asking it: what asking would cost."""
    plan, splits = job.teacher, job.splits
    found = [notice(plan.title, f"`{plan.describes}` is opened, fitted or asked when the run begins")]
    if plan.spec is not None and plan.spec.name.startswith("chat:"):
        from tutelage.teachers.remote import cost_of

        texts = splits.train.inputs
        size = float((texts != 0).sum()) / len(texts) if texts.dtype == torch.uint8 else 4.0 * texts.shape[1]
        # It is scored on validation and test as well.
        examples = len(splits.train) + len(splits.val) + len(splits.test)
        cost = cost_of(plan.spec.name, plan.spec.args, classes=splits.train.outputs, examples=examples, text_bytes=size)
        found += [notice(f"cost of {plan.title}", line) for line in cost.lines()]
    return found


def _cached(job: Job, module: nn.Module, found: list[Finding]) -> tuple[KnownTeacher, list[Finding]]:
    """The teacher that an earlier run trained; where its files were altered a run trains it again."""
    title = job.teacher.title
    home = cache_folder() / "teachers" / teacher_key(job, module)
    try:
        whole = sha256(home / "teacher.safetensors") == read_json(home / "teacher.json").get("sha256")
        if whole:
            load_weights(module, home / "teacher.safetensors")
    except (ModelError, DamagedError, OSError):
        whole = False
    if whole:
        return KnownTeacher(module, trained=True), [*found, ok(title, f"trained before, and in the cache ({home})")]
    said = f"the one in the cache was altered and will be trained again ({home})"
    return KnownTeacher(module, trained=False), [*found, notice(title, said)]


def teacher_findings(job: Job, known: KnownTeacher, device: torch.device) -> Iterator[Finding]:
    """Ask a teacher, or those of several, that has its weights, and explain what is wrong with its answers."""
    jobs, several = job.members, len(known.members)
    for name, one in (dict(known.members) or {"": known}).items():
        if one.trained:
            yield from _findings_of_one(jobs[name], one, device, _BUDGET / max(1, several))
    if several and known.trained and job.teacher.combine["how"] != BY_TASK:
        yield from _together(job, known, device)


def _together(job: Job, known: KnownTeacher, device: torch.device) -> Iterator[Finding]:
    """How good several are as the one that is judged, beside the best of them."""
    teacher = known.live(job)
    assert isinstance(teacher, EnsembleTeacher)
    judged = teacher.judged()
    val = job.splits.val
    two = as_model_input(val.inputs[:2].clone()).to(device)
    models = [(one.module, 1) for one in known.members.values()]
    rows = val.take(asked_rows(val, max(_LEAST_ASKED, min(_ASKED, affordable(models, two, _BUDGET)))))
    try:
        shares = {
            name: task_scores(ask(one, plain_batches(rows, _BATCH), device), rows.labels, rows.sizes)["accuracy"]
            for name, one in [("", judged), *zip(known.members, judged.members, strict=True)]
        }
    except ModelError as error:
        yield fault("teachers together", error)
        return
    own = shares.pop("")
    best = max(shares, key=shares.__getitem__)
    yield ok(
        "teachers together", f"by {teacher.how} {percent(own)} of {len(rows)} validation rows right, "
        f"the best of them, `{best}`, {percent(shares[best])} (asked one by one)",
    )  # fmt: skip


def _findings_of_one(job: Job, known: KnownTeacher, device: torch.device, budget: float) -> Iterator[Finding]:
    title = job.teacher.title
    teacher = ModuleTeacher(known.module)
    teacher.to(device)
    val = job.splits.val
    two = as_model_input(val.inputs[:2].clone()).to(device)
    most = affordable([(known.module, 1)], two, budget)
    rows = val.take(asked_rows(val, max(_LEAST_ASKED, min(_ASKED, most))))
    tried = max(_LEAST_TRIED, most // _VARIANTS)
    labels, classes = rows.targets.numpy(), len(rows.classes)
    try:
        logits = ask(teacher, plain_batches(rows, _BATCH), device)
    except ModelError as error:
        yield fault(title, error)
        return
    if not bool(logits.isfinite().all()):
        bad = int((~logits.isfinite()).any(-1).sum())
        yield fault(title, f"{bad} of {len(rows)} answers hold NaN or infinity", "look at its weights and inputs")
        return
    if rows.tasks:
        yield from task_findings(title, logits, rows)
        yield from _names(job, known.module, fits=True)
        return
    answers = predictions(logits.double().numpy())
    share = float((answers == labels).mean())
    interval = wilson(share, len(rows))
    assert interval.ci_low is not None
    assert interval.ci_high is not None
    majority, bar = majority_of(labels), bar_of(classes)
    text = (
        f"{percent(share)} of {len(rows)} validation rows right "
        f"({100 * interval.ci_low:.1f} … {100 * interval.ci_high:.1f} at 95 %), "
        f"chance is {percent(1 / classes)}, always the most frequent class {percent(majority)}"
    )
    reason = None if share > _GOOD else _reason(job, teacher, rows, answers, tried, device)
    if interval.ci_high < bar or interval.ci_high <= majority or reason is not None:
        doubt = reason or ("wrong preprocessing or class order, or not trained?", None)
        yield fault(f"{title}'s answers", f"{text}: {doubt[0]}", doubt[1] or "check what these weights were trained on")
    elif interval.ci_low <= max(1 / classes, majority):
        yield warning(f"{title}'s answers", f"{text}: too close to a guess to tell that it knows this data")
    else:
        yield ok(f"{title}'s answers", text)
        worth = worth_finding(title, job.teaching.splits.train, rows, share)
        if worth is not None:
            yield worth
    if known.moved is None:
        yield from _names(job, known.module, fits=interval.ci_low > max(bar, majority))
        return
    wrong = contradiction(known.module, logits, rows.targets)
    if wrong is None:
        yield notice(_names_of(job), known.moved)
    else:
        yield fault(_names_of(job), f"{known.moved}. But they contradict its answers: {wrong}", NAMES_FIX)


def _names_of(job: Job) -> str:
    return f"class names of {job.teacher.title}" if job.teacher.name else "class names"


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
    data = job.splits.train.outputs
    theirs, ours = [plain_name(name) for name in own], [plain_name(name) for name in data]
    if theirs == ours:
        yield ok(_names_of(job), "the teacher's are those of the data, in the same order")
    elif sorted(theirs) == sorted(ours):
        yield fault(
            _names_of(job),
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
            yield warning(_names_of(job), f"{text}; but its answers fit the labels")
        else:
            yield fault(_names_of(job), text, "use a teacher of these classes, or rename the classes")


def _only(names: Sequence[str], others: list[str]) -> str:
    return listed([name for name in names if plain_name(name) not in others]) or "none"
