"""Verbs on a recipe's store without a run: build it, mend it, say beforehand what it will cost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from tutelage import lang
from tutelage.errors import BusyError, InputError
from tutelage.files import cache_folder, human_bytes
from tutelage.losses import soft_target
from tutelage.progress import clock
from tutelage.recipe import Recipe, Store
from tutelage.run.answers import build_answers, capture_of, question_of
from tutelage.run.cohorts import Workshop, torch_settings
from tutelage.run.execute import facts_of
from tutelage.run.folder import RunFolder
from tutelage.run.job import Job, job_of_recipe
from tutelage.run.storeplan import store_plan
from tutelage.run.teacher import TeacherInHand, check_teacher, is_ready, obtain_teacher
from tutelage.store import Built, Damage, codec_of, repair
from tutelage.store.layout import KEY_BYTES
from tutelage.teachers import Teacher
from tutelage.training import StopSignals, make_device
from tutelage.types import Outputs

__all__ = ["CodecCost", "Estimate", "build_store", "estimate_store", "repair_store"]

_SAMPLE = 512


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    ids: Tensor  # (N,)
    start: Tensor  # (N, C) the student's logits as it starts
    said: Sequence[Tensor]  # (N, C) of each teacher


@dataclass(frozen=True, slots=True, eq=False)
class _AtHand:
    job: Job
    shop: Workshop
    teacher: TeacherInHand
    tell: Callable[[str], None]

    @property
    def stored(self) -> list[tuple[Job, Teacher]]:
        """The teacher, or those of several that have a store, each with the job as it sees it."""
        hands = dict(self.teacher.members) or {"": self.teacher}
        return [(one, hands[name].teacher) for name, one in self.job.members.items() if one.store is not None]


def build_store(
    recipe: Recipe, *, store: Path | str | None = None, trust: bool = False, quiet: bool = False, wait: bool = True
) -> Built:
    """Ask a recipe's teacher about everything that its students will see, and keep the answers.

    Of several teachers every one that has a store is asked, or all where none has. Several processes may build the same
    store at once; each asks about its share.

    Returns:
        What was done; of several stores together, with the folder in which all of them lie.

    Raises:
        TutelageError: everything a user can mend, as the tree in `tutelage.errors` says.
    """
    with _at_hand(recipe, store, trust=trust, quiet=quiet) as hand:
        return _together([_build(hand, one, teacher, wait=wait) for one, teacher in hand.stored])


def _build(hand: _AtHand, job: Job, teacher: Teacher, *, wait: bool = True) -> Built:
    if job.teacher.name:
        hand.tell(f"store of {job.teacher.title}")
    return build_answers(job, hand.shop, teacher, tell=hand.tell, wait=wait)


def _together(built: Sequence[Built]) -> Built:
    """What builds of several stores did; each asked about the same examples."""
    first, *others = built
    if not others:
        return first
    sums = {key: sum(getattr(one, key) for one in built) for key in ("rows", "asked", "seconds", "bytes")}
    return replace(first, place=first.place.parent, **sums)


def repair_store(
    recipe: Recipe, *, store: Path | str | None = None, trust: bool = False, quiet: bool = False
) -> tuple[list[Damage], Built]:
    """Mend the store of a recipe: damaged rows, and those that are missing, are asked about again.

    Raises:
        TutelageError: everything a user can mend, as the tree in `tutelage.errors` says.
    """
    with _at_hand(recipe, store, trust=trust, quiet=quiet) as hand:
        found: list[Damage] = []
        built: list[Built] = []
        for job, teacher in hand.stored:
            assert job.store is not None
            if isinstance(job.store.root, str):
                raise InputError(f"{job.store.root} can be read, but not written")
            capture = capture_of(job, hand.shop, teacher)
            found += repair(job.store.root, question_of(job), capture, tell=hand.tell)
            built.append(_build(hand, job, teacher))
        return found, _together(built)


@final
@dataclass(frozen=True, slots=True)
class CodecCost:
    """What one codec costs, and what it does to the gradient."""

    codec: str
    row_bytes: int
    bytes: int
    cosine: float | None  # of the student's gradient to that of all logits in float32, mean over rows
    error: float | None  # norm of the difference, as a share of the gradient's norm


@final
@dataclass(frozen=True, slots=True)
class Estimate:
    """What a store will cost before it is built."""

    rows: int
    examples: int
    views: str
    temperature: float
    seconds: float | None  # to build it; None where the teacher is not there yet
    free: int
    place: str
    codecs: tuple[CodecCost, ...]

    def summary(self) -> str:
        """A table for a person."""
        took = "unknown until the teacher is trained" if self.seconds is None else clock(self.seconds)
        lines = [
            f"{self.rows:,} rows: {self.examples:,} examples, views: {self.views}; time to build: {took}; "
            f"{human_bytes(self.free)} free at {self.place}",
            "",
            f"{'codec':<11} {'bytes a row':>11} {'in all':>10}   gradient at T = {self.temperature:g}, against fp32",
        ]
        for one in self.codecs:
            effect = "" if one.cosine is None else f"cosine {one.cosine:.5f}, error {one.error:.2%}"
            lines.append(f"{one.codec:<11} {one.row_bytes:>11,} {human_bytes(one.bytes):>10}   {effect}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimate_store(
    recipe: Recipe, *, store: Path | str | None = None, trust: bool = False, quiet: bool = False
) -> Estimate:
    """Bytes, time and the error of the gradient of each codec, measured on a sample with the student as it starts.

    Where the recipe's teacher has yet to be trained only the bytes are told: an estimate should not take hours.

    Raises:
        TutelageError: everything a user can mend, as the tree in `tutelage.errors` says.
    """
    job = _job(recipe, store, trust)
    stored = [one for one in job.members.values() if one.store is not None]
    given = next((one.store.temperature for one in recipe.trusted.values() if one.store is not None), None)
    temperature = given or _read_at(job)
    if not is_ready(job):
        return _estimate(stored, temperature, None, None)
    with _at_hand(recipe, store, trust=trust, quiet=quiet) as hand:
        sample, each = _sampled(hand)
        return _estimate(stored, temperature, sample, each)


def _sampled(hand: _AtHand) -> tuple[_Sample, float]:
    """What the teachers that have a store say of a few rows, and how many seconds a row takes all of them."""
    seconds, said = 0.0, []
    job = hand.job
    for one, teacher in hand.stored:
        question, capture = question_of(one), capture_of(one, hand.shop, teacher)
        ids = question.ids()[:_SAMPLE]
        capture.ask(question.filled(ids[:32], question.draws[0]))  # the first call of a model is slower than the rest
        begin = time.perf_counter()
        batch = question.filled(ids, question.draws[0])
        outputs = capture.ask(batch)
        seconds += (time.perf_counter() - begin) / len(batch)
        assert isinstance(outputs.logits, Tensor)
        said.append(outputs.logits[: len(ids)].float().cpu())
    with torch.random.fork_rng():
        torch.manual_seed(job.seeds[0])
        student = next(iter(job.students.values())).build().eval()
    with torch.no_grad():
        start = student(batch.inputs["x"])[: len(ids)].float()
    return _Sample(torch.from_numpy(ids), start, said), seconds


def _estimate(stored: Sequence[Job], temperature: float, sample: _Sample | None, each: float | None) -> Estimate:
    """Of the store of one teacher, or of those of several together.

    Args:
        stored: the job as each of them sees it.
        temperature: at which the answers are read.
        sample: what they say of a few rows, where they are there.
        each: seconds that a row takes all of them.
    """
    job, question = stored[0], question_of(stored[0])
    assert job.store is not None
    classes, examples = len(question.examples.outputs), len(question.ids())
    rows = examples * len(question.draws)
    names = ["fp32", "fp16", "bf16", "int8"]
    if not job.teacher.name:  # parts of several teachers cannot be combined
        names += [f"top-{k}" for k in (4, 16, 64) if k < classes] + [f"sample-{n}" for n in (16, 64)]
    if job.store.codec.name not in names:
        names.append(job.store.codec.name)
    costs = []
    for name in names:
        codec = codec_of(name, temperature)
        row = codec.row_bytes(classes) + KEY_BYTES
        cosine = error = None
        if sample is not None:
            # Of several, what the student would learn from each, one after the other.
            dense = torch.cat([_gradient(sample.start, Outputs(one), temperature) for one in sample.said])
            kept = [codec.decode(codec.encode(one, sample.ids, 0), classes) for one in sample.said]
            own = torch.cat([_gradient(sample.start, Outputs(one), temperature) for one in kept])
            cosine = float(nn.functional.cosine_similarity(own, dense, dim=-1).mean())
            error = float((own - dense).norm() / dense.norm())
        costs.append(CodecCost(name, row, row * rows * len(stored), cosine, error))
    place = Path(str(job.store.root))
    while not place.exists():
        place = place.parent
    return Estimate(
        rows * len(stored), examples, str(job.store.views), temperature, None if each is None else each * rows,
        shutil.disk_usage(place).free, str(job.store.root), tuple(costs),
    )  # fmt: skip


def _gradient(start: Tensor, answer: Outputs, temperature: float) -> Tensor:
    """Of the soft target with respect to the student's logits, row by row."""
    logits = start.clone().requires_grad_()
    soft_target(logits, answer.logits, temperature=temperature).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    return logits.grad


def _read_at(job: Job) -> float:
    """The temperature at which the first term reads the teacher."""
    for arm in job.arms.values():
        for term in arm.objective.terms:
            if term.reads_teacher and term.temperatures is not None:
                return term.temperatures[0]
    return 1.0


def _job(recipe: Recipe, store: Path | str | None, trust: bool) -> Job:
    """A recipe's job with a store: as the recipe says, or with all defaults where it says nothing."""
    job = job_of_recipe(recipe, trust=trust, store=store)
    if any(one.store is not None for one in job.members.values()):
        return job
    plan = store_plan(
        Store(),
        job.views,
        {name: arm.objective for name, arm in job.arms.items()},
        classes=len(job.splits.train.outputs),
        seeds=job.seeds,
        train=job.train,
        root=store,
    )
    if not job.teacher.members:
        return replace(job, store=plan)
    members = {name: replace(one, store=plan) for name, one in job.teacher.members.items()}
    return replace(job, teacher=replace(job.teacher, members=members))


@contextlib.contextmanager
def _at_hand(recipe: Recipe, store: Path | str | None, *, trust: bool, quiet: bool) -> Iterator[_AtHand]:
    """A recipe's teacher, ready to answer; trained first, in a folder of its own that continues after a kill."""
    job = _job(recipe, store, trust)
    quiet = quiet or os.environ.get("RANK", "0") != "0"  # of several processes under torchrun one speaks
    device = make_device(job.device, precision=job.train.precision)
    name = hashlib.sha256(f"{job.teacher.describes} {job.config} {job.splits.fingerprint}".encode()).hexdigest()[:16]
    place = cache_folder() / "work" / name
    with StopSignals(fix="the same command continues") as signals, torch_settings(job):
        with _held(place, quiet=quiet, signals=signals) as folder:
            folder.begin(job.config, lambda earlier: [], facts_of(job))
            shop = Workshop(folder, device, signals, quiet)
            check_teacher(job)
            teacher = obtain_teacher(job, shop)
            folder.clear()
        yield _AtHand(
            job, shop, teacher, lambda line: None if quiet else print(lang.say(line), file=sys.stderr, flush=True)
        )


@contextlib.contextmanager
def _held(place: Path, *, quiet: bool, signals: StopSignals) -> Iterator[RunFolder]:
    """The folder, once nobody else trains the same teacher there."""
    while True:
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(RunFolder.open(place, overwrite=False, quiet=quiet))
            except BusyError:
                signals.check()
                time.sleep(0.5)
                continue
            yield folder
            return
