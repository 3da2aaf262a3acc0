"""Coming by the teacher: given, loaded from a file, trained by the recipe, or found in the cache of trained ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage.data import as_model_input
from tutelage.errors import DamagedError, InputError, ModelError, TutelageError
from tutelage.evaluation.predict import ask, ask_told, predict, task_scores
from tutelage.files import cache_folder, read_json, sha256, write_json
from tutelage.losses import cross_entropy
from tutelage.models import load_weights, save_weights, state_digest
from tutelage.objective import Objective
from tutelage.run.armplan import ArmPlan
from tutelage.run.arms import check_learning
from tutelage.run.classnames import NAMES_FIX, contradiction, meet_by_name, names_of
from tutelage.run.cohorts import Workshop, train_cohort
from tutelage.run.crossfit import check_cross_fit, is_cross_fit_ready, obtain_crossfitted
from tutelage.run.doubts import doubts_of
from tutelage.run.job import Job
from tutelage.taps import Taps
from tutelage.teachers import EnsembleTeacher, ModuleTeacher, Reading, Teacher
from tutelage.teachers.crossfit import CrossFitted
from tutelage.training import make_device

__all__ = ["TeacherInHand", "check_teacher", "is_ready", "obtain_teacher", "teacher_key"]


@dataclass(frozen=True, slots=True, eq=False)
class TeacherInHand:
    """A teacher, ready to answer."""

    teacher: Teacher  # live
    module: nn.Module | None
    file: Path | None
    val_accuracy: float
    curve: list[dict[str, float]]
    members: Mapping[str, TeacherInHand] = field(default_factory=dict)  # several, by name
    folds: tuple[TeacherInHand, ...] = ()  # of one that is cross-fitted: who answers about each fold

    @property
    def files(self) -> tuple[Path, ...]:
        """Of its weights: one, none where it was given, one for each of several."""
        own = () if self.file is None else (self.file,)
        return (*own, *(file for one in self.members.values() for file in one.files))

    @property
    def identity(self) -> str:
        """The same wherever and however fast it answers: a digest of its weights, of several with how they combine."""
        if isinstance(self.teacher, EnsembleTeacher):
            settings = [self.teacher.how, self.teacher.weights, self.teacher.temperature, self.teacher.seed]
            facts = [*settings, {name: one.identity for name, one in self.members.items()}]
            return _digest(facts) if self.members else self.teacher.fingerprint()
        if isinstance(self.teacher, CrossFitted):
            whole = replace(self, teacher=self.teacher.whole, folds=())
            return _digest([whole.identity, [one.identity for one in self.folds], self.teacher.division])
        return self.teacher.fingerprint() if self.module is None else state_digest(self.module)

    @property
    def judged(self) -> Teacher:
        """As it is scored: answers that know the label, or that were left to chance, say nothing of what it knows."""
        return self.teacher.judged() if isinstance(self.teacher, EnsembleTeacher) else self.teacher


def obtain_teacher(job: Job, shop: Workshop) -> TeacherInHand:
    """Come by the teacher of a job, or by all of several, and ask it about the validation part.

    Raises:
        ModelError: it does not fit the data.
        DamagedError: its weights are damaged.
    """
    plan = job.teacher
    if plan.members:
        return _several(job, shop)
    if plan.cross_fit:
        return obtain_crossfitted(job, shop, obtain_teacher)
    job = job.for_teacher
    file: Path | None = None
    curve: list[dict[str, float]] = []
    if plan.given is not None:
        plan.given.to(shop.device.device)
        teacher, module = plan.given, plan.module
    elif plan.opens is not None:
        beside = shop.folder.path / "teacher" / plan.slug
        beside.parent.mkdir(exist_ok=True)
        teacher = plan.opens(job.teaching.splits.train, job.teacher_places, beside, shop.folder.tell)
        module = teacher.module if isinstance(teacher, ModuleTeacher) else None
        teacher.to(shop.device.device)
    else:
        assert plan.build is not None
        with torch.random.fork_rng():
            torch.manual_seed(plan.seed)
            module = plan.build()
        _check_places(job, module)
        if plan.weights is not None:
            for notice in load_weights(module, plan.weights):
                shop.folder.tell(f"{plan.title}: {notice}")
        elif plan.train is not None:
            curve = _trained(job, module, shop)
        own, data = names_of(module, plan.weights), job.splits.train.outputs
        moved = meet_by_name(module, own, data)
        if moved is not None:
            shop.folder.tell(f"{plan.title}: {moved}")
        file = shop.folder.path / "teacher" / f"{plan.slug}.safetensors"
        if shop.device.rank == 0:
            save_weights(module, file)
            # Whoever takes this file for weights meets its classes by name, too.
            write_json(
                file.with_suffix(".json"), {"sha256": sha256(file), "classes": list(own if own and moved else data)}
            )
        module.to(shop.device.device)
        teacher = _as_fast_teacher(job, module, shop)
    if plan.reads:
        teacher = Reading(teacher, plan.reads)
    hand = TeacherInHand(teacher, module, file, 0.0, curve)
    logits, heard = ask_told(hand.judged, shop.plain(job.splits.val), shop.device.device)
    classes = len(job.splits.val.outputs)
    if logits.shape != (len(job.splits.val), classes):
        raise ModelError(
            f"the {plan.title} answers with {logits.shape[-1]} classes, the data has {classes}",
            fix="use a teacher that was trained on these classes",
        )
    accuracy = task_scores(logits, job.splits.val.labels, job.splits.val.sizes)["accuracy"]
    wrong = contradiction(module, logits, job.splits.val.targets, len(job.splits.val.classes))
    if wrong is not None:
        raise ModelError(f"the {plan.title}'s class names contradict its answers: {wrong}", fix=NAMES_FIX)
    shop.folder.tell(f"{plan.title}: {accuracy:.2%} of the validation part")
    for doubt in doubts_of(plan.title, logits, job.splits.val.labels, job.splits.val.sizes):
        shop.folder.tell(doubt)
    if heard is not None and not bool(heard.all()):
        silent = int((~heard).sum())
        shop.folder.tell(
            f"{plan.title}: it has no say about {silent:,} of these {len(heard):,}, which count as answered by chance; "
            "students learn nothing from such examples"
        )
    return replace(hand, val_accuracy=accuracy)


def _several(job: Job, shop: Workshop) -> TeacherInHand:
    """Come by every teacher, and make one of them; those that cost nothing first, since what is wrong comes out so."""
    jobs = job.members
    hands: dict[str, TeacherInHand] = {}
    for name, one in sorted(jobs.items(), key=lambda item: item[1].teacher.train is not None):
        with _naming(one):
            hands[name] = obtain_teacher(one, shop)
    members = {name: hands[name] for name in jobs}
    teacher = EnsembleTeacher([one.teacher for one in members.values()], **job.teacher.combine)
    hand = TeacherInHand(teacher, teacher.panel(), None, 0.0, [], members)
    logits = ask(hand.judged, shop.plain(job.splits.val), shop.device.device)
    accuracy = task_scores(logits, job.splits.val.labels, job.splits.val.sizes)["accuracy"]
    shop.folder.tell(f"teachers together, by {teacher.judged().how}: {accuracy:.2%} of the validation part")
    for doubt in doubts_of("all teachers together", logits, job.splits.val.labels, job.splits.val.sizes):
        shop.folder.tell(doubt)
    return replace(hand, val_accuracy=accuracy)


def check_teacher(job: Job) -> None:
    """Build every teacher that has to be built, and look for the layers that are asked for, before any costs time.

    Raises:
        ModelError: one cannot be built, or has no such layer.
        InputError: one cannot be trained as it says.
    """
    for one in job.members.values():
        plan = one.teacher
        check_cross_fit(one)
        if plan.build is None or (plan.train is None and not plan.name):
            continue
        with _naming(one), torch.random.fork_rng():
            module = plan.build()
            if plan.train is not None:
                check_learning(plan.train, module)
            _check_places(one, module)


@contextlib.contextmanager
def _naming(job: Job) -> Iterator[None]:
    """What is wrong with one of several teachers bears its name."""
    try:
        yield
    except TutelageError as error:
        told, title = error.problem, job.teacher.title
        if type(error) not in (InputError, ModelError, DamagedError) or not job.teacher.name or title in told.what:
            raise
        where = f"{title}, {told.where}" if told.where else title
        raise type(error)(told.what, where=where, given=told.given, expected=told.expected, fix=told.fix) from error


def _check_places(job: Job, module: nn.Module) -> None:
    """A layer that is mistyped, or puts out no tensor, is told before the teacher is trained."""
    with Taps(module, job.teacher_places) as taps, torch.no_grad():
        if taps.places:
            modes = [(part, part.training) for part in module.modules()]
            module.eval()(as_model_input(job.splits.val.inputs[:2].clone()))
            taps.take()
            for part, mode in modes:
                part.training = mode


def is_ready(job: Job) -> bool:
    """Whether a job's teacher can be had without training it."""
    plan = job.teacher
    if plan.members:
        return all(map(is_ready, job.members.values()))
    if plan.cross_fit:
        return is_cross_fit_ready(job, is_ready)
    if plan.build is None or plan.weights is not None or plan.train is None:
        return True
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        key = teacher_key(job, plan.build())
    return (cache_folder() / "teachers" / key / "teacher.json").is_file()


def _as_fast_teacher(job: Job, module: nn.Module, shop: Workshop) -> Teacher:
    """Fold what can be folded, if it changes nothing that can be seen, and choose the memory order."""
    batch = next(iter(shop.plain(job.splits.val)))
    example = batch.inputs["x"][: job.train.batch_size].to(shop.device.device)
    last = shop.channels_last(module, example, job.train, learns=False)
    if job.teacher_places:
        # A folded layer puts out something else than the layer that it was.
        return ModuleTeacher(module, channels_last=last, places=job.teacher_places)
    plain, folded = ModuleTeacher(module, channels_last=last), ModuleTeacher(module, fold=True, channels_last=last)
    expected = predict(module, [batch], shop.device.device)
    difference = float((ask(folded, [batch], shop.device.device) - expected).abs().max())
    # Folding is exact on paper; where a graph was misread, or a variance is tiny, it is not, and then it is not used.
    return folded if difference <= 1e-4 * max(1.0, float(expected.abs().max())) else plain


def _trained(job: Job, module: nn.Module, shop: Workshop) -> list[dict[str, float]]:
    """Train the teacher, or take it from the cache where the same one was trained before."""
    assert job.teacher.train is not None
    key, title = teacher_key(job, module), job.teacher.title
    home = cache_folder() / "teachers" / key
    cached, facts = home / "teacher.safetensors", home / "teacher.json"
    if facts.is_file():
        try:
            known = read_json(facts)
            if sha256(cached) != known["sha256"]:
                raise DamagedError(f"{cached} was altered")
            load_weights(module, cached)
        except (DamagedError, ModelError, OSError, KeyError) as error:
            # A cache can be made again; saying so is enough.
            shop.folder.tell(f"{title}: the cached one cannot be used ({error.args[0]}); training it again")
            shutil.rmtree(home, ignore_errors=True)
        else:
            shop.folder.tell(f"{title}: found in the cache ({home})")
            return [dict(row) for row in known["curve"]]
    slug, learned = job.teacher.slug, Objective([cross_entropy]).for_tasks(job.splits.train.sizes)
    arm = train_cohort(
        job.teaching, _own_precision(job, shop), name=slug, seed=job.teacher.seed, train=job.teacher.train,
        teacher=None, arms={slug: ArmPlan("", "teacher", learned)}, builds={"": lambda: module},
    )[slug]  # fmt: skip
    module.load_state_dict(arm.best)
    if shop.device.rank == 0:
        try:
            save_weights(module, cached)
            write_json(facts, {"sha256": sha256(cached), "curve": arm.curve, "describes": job.teacher.describes})
        except TutelageError as error:
            # The teacher is in the run's own folder; without a cache the next run trains its own.
            shop.folder.tell(f"{title}: it cannot be kept in the cache ({error.problem.what})")
    return arm.curve


def _own_precision(job: Job, shop: Workshop) -> Workshop:
    """The same workshop in the precision that the teacher's training asks for; several processes share one device."""
    assert job.teacher.train is not None
    precision = job.teacher.train.precision
    if precision == job.train.precision or shop.device.world > 1:
        return shop
    return replace(shop, device=make_device(job.device, precision=precision))


def teacher_key(job: Job, module: nn.Module) -> str:
    """All that decides what training gives: the same key means the same teacher."""
    assert job.teacher.train is not None
    train = job.teacher.train.model_dump(mode="json", exclude={"checkpoint_seconds"})
    facts: dict[str, Any] = {
        "format": 1,
        "model": str(module),
        "describes": job.teacher.describes,
        "data": job.teaching.splits.fingerprint,
        "views": str(job.views),
        **({"reads": job.teacher.reads} if job.teacher.reads else {}),
        "train": train,
        "seed": job.teacher.seed,
        "torch": torch.__version__,
    }
    return _digest(facts)[:32]


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
