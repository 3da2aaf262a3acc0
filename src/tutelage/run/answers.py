"""Who answers while students learn: the live teacher, or a store of its answers that is brought up to date first."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tutelage.data.draws import Stream, mix
from tutelage.errors import DamagedError, InputError
from tutelage.run.cohorts import Workshop
from tutelage.run.job import Job
from tutelage.run.teacher import TeacherInHand
from tutelage.store import Built, Capture, Question, StoredTeacher, build, draws_of, identity_of, key_of
from tutelage.store.places import is_remote
from tutelage.teachers import EnsembleTeacher, Reading, Teacher
from tutelage.training.device import PlainDevice, move, resolve_precision
from tutelage.types import Batch, Outputs

__all__ = ["answering", "build_answers", "capture_of", "question_of"]

_COMPARED = 64


def question_of(job: Job) -> Question:
    """The training part in all the views that its students will see."""
    job = job.for_teacher
    assert job.store is not None
    draws = draws_of(job.store.views, job.views, seeds=job.seeds, epochs=job.train.epochs)
    return Question(job.splits.train, job.views, draws)


def capture_of(job: Job, shop: Workshop, teacher: Teacher) -> Capture:
    """How the live teacher is asked."""
    assert job.store is not None
    if isinstance(teacher, EnsembleTeacher) and (teacher.reads_labels or not teacher.by_example):
        raise InputError(
            f"answers combined by `{teacher.how}` cannot be stored",
            where="teacher.store",
            given="they depend on labels, which are no part of a store's key" if teacher.reads_labels
            else "they depend on the batch that an example comes in",
            fix="leave the store out, or combine by `mean_probabilities`, `entropy` or `random_example`",
        )  # fmt: skip
    kind = resolve_precision(job.store.precision or job.train.precision, shop.device.device)
    device = PlainDevice(shop.device.device, kind)

    def ask(batch: Batch) -> Outputs:
        with device.autocast():
            return teacher.answer(move(batch, device.device))

    name = {torch.float32: "32", torch.bfloat16: "bf16", torch.float16: "fp16"}[kind]
    return Capture(ask, teacher.fingerprint(), job.store.codec, name, device.device.type, job.teacher_places)


def build_answers(
    job: Job, shop: Workshop, teacher: Teacher, *, tell: Callable[[str], None], wait: bool = True
) -> Built:
    """Ask the live teacher about every row that its store lacks.

    Raises:
        InputError: the store lies behind an address, where nothing is written.
    """
    assert job.store is not None
    if isinstance(job.store.root, str):
        raise InputError(
            f"{job.store.root} can be read, but not written",
            fix="build the store in a local folder, and copy it there",
        )
    return build(
        job.store.root, question_of(job), capture_of(job, shop, teacher),
        tell=tell, quiet=shop.quiet, check=shop.signals.check, wait=wait,
    )  # fmt: skip


def answering(job: Job, shop: Workshop, hand: TeacherInHand) -> tuple[Teacher, int]:
    """Who answers in training, and from how many recorded views epochs are drawn.

    Of several teachers each has a store of its own, or none: what they say is combined as it would be live.
    """
    if not hand.members:
        return _kept(job, shop, hand.teacher), job.recorded
    members = {name: _kept(one, shop, hand.members[name].teacher) for name, one in job.members.items()}
    live = [name for name, one in members.items() if one is hand.members[name].teacher]
    if 0 < len(live) < len(members):
        stored = [name for name in members if name not in live]
        shop.folder.tell(
            f"store: the answers of {', '.join(stored)} are read from disk; "
            f"{', '.join(live)} will be asked at every step"
        )
    return EnsembleTeacher(list(members.values()), **job.teacher.combine), job.recorded


def _kept(job: Job, shop: Workshop, teacher: Teacher) -> Teacher:
    """One teacher's answers from its store, which is brought up to date; or the teacher, where it has none."""
    plan, job = job.store, job.for_teacher
    if plan is None:
        return teacher
    question, capture = question_of(job), capture_of(job, shop, teacher)
    title = f"store of {job.teacher.title}" if job.teacher.name else "store"
    if plan.recorded:
        shop.folder.tell(
            f"{title}: {plan.recorded} recorded views of each example serve all {job.train.epochs} epochs of every "
            f"seed; `{_key(job)}.views: replay` records each epoch's own"
        )
    key = key_of(identity_of(question, capture))
    if is_remote(plan.root):
        stored = StoredTeacher(f"{plan.root}/{key}")
    else:
        built = build_answers(job, shop, teacher, tell=shop.folder.tell)
        shop.folder.tell(f"{title}: {built.summary()}")
        stored = StoredTeacher(built.place)
        # A run that goes on has asked about some rows before.
        manifest = shop.folder.manifest
        known = manifest.setdefault("stores", {}) if job.teacher.name else manifest
        name = job.teacher.name or "store"
        before = known.get(name, {"asked": 0, "seconds": 0.0})
        known[name] = {
            "key": key, "place": str(built.place), "rows": built.rows, "asked": before["asked"] + built.asked,
            "seconds": round(before["seconds"] + built.seconds, 3), "bytes": built.bytes,
            "codec": plan.codec.name, "views": plan.views,
        }  # fmt: skip
        shop.folder.save()
    _compare(question, capture, stored)
    stored.to(shop.device.device)
    return Reading(stored, job.teacher.reads) if job.teacher.reads else stored


def _key(job: Job) -> str:
    """Where a recipe says how this teacher's answers are stored."""
    return f"teachers.{job.teacher.name}.store" if job.teacher.name else "teacher.store"


def _compare(question: Question, capture: Capture, stored: StoredTeacher) -> None:
    """Ask the live teacher about a few rows again: the last line of defence against any wrong row."""
    ids = question.ids()
    some = ids[mix(Stream.SAMPLE, ids).argsort()[:_COMPARED]]
    some.sort()
    draw = question.draws[-1]
    live = capture.ask(question.filled(some, draw)).logits
    assert isinstance(live, torch.Tensor)
    answer = stored.answer(question.batch(some, draw)).logits
    apart = capture.codec.difference(live[: len(some)].float().cpu(), answer)
    if not apart <= 1.0:
        raise DamagedError(
            "the stored answers are not those of this teacher",
            where=str(stored.place),
            given=f"{len(some)} rows asked again differ by up to {apart:.3g} times what {capture.codec.name} allows",
            fix="is the teacher random in eval mode? Otherwise remove this store (`tutelage cache prune KEY --yes`) "
            "and build it again",
        )
