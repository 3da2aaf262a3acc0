"""Who answers while students learn: the live teacher, or a store of its answers that is brought up to date first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch

from tutelage.data import Views
from tutelage.data.draws import Stream, mix
from tutelage.errors import DamagedError, InputError
from tutelage.objective import Objective
from tutelage.recipe import Store, Train
from tutelage.store import (
    Built,
    Capture,
    Codec,
    Question,
    StoredTeacher,
    build,
    codec_of,
    draws_of,
    identity_of,
    key_of,
    store_root,
)
from tutelage.store.places import is_remote
from tutelage.teachers import Teacher
from tutelage.training.device import PlainDevice, move, resolve_precision
from tutelage.types import Batch, Outputs

if TYPE_CHECKING:
    from tutelage.run.cohorts import Workshop
    from tutelage.run.job import Job

__all__ = ["StorePlan", "answering", "build_answers", "capture_of", "question_of", "store_plan"]

# Enough that no student sees the same picture in neighbouring epochs; few enough to be paid for once.
_RECORDED = 4
_COMPARED = 64


@final
@dataclass(frozen=True, slots=True)
class StorePlan:
    """A store of answers, with every question about it settled."""

    root: Path | str
    views: str | int  # none, replay, or how many
    codec: Codec
    precision: str | None = None
    features: tuple[str, ...] = ()

    @property
    def recorded(self) -> int:
        """How many recorded views epochs draw from; 0 where they draw as they would from a live teacher."""
        return self.views if isinstance(self.views, int) else 0


def store_plan(
    spec: Store,
    views: Views,
    arms: Mapping[str, Objective],
    *,
    classes: int,
    seeds: Sequence[int],
    train: Train,
    root: Path | str | None = None,
) -> StorePlan:
    """Settle what a recipe leaves open, and refuse what cannot work before anything is asked.

    Raises:
        InputError: random views would meet plain answers; or an arm cannot read what the codec keeps.
    """
    chosen: str | int = spec.views
    if chosen == "auto":
        own = len(seeds) * train.epochs
        chosen = "none" if not views.random else "replay" if own <= _RECORDED else _RECORDED
    if not views.random:
        chosen = "none"
    draws_of(chosen, views)
    codec = codec_of(spec.codec, _temperature(spec, arms))
    _check_codec(codec, arms, classes)
    return StorePlan(store_root(root), chosen, codec, spec.precision, tuple(spec.features))


def _temperature(spec: Store, arms: Mapping[str, Objective]) -> float:
    if spec.codec.partition("-")[0] not in ("top", "sample"):
        return 1.0
    if spec.temperature is not None:
        return spec.temperature
    terms = [term for objective in arms.values() for term in objective.terms if term.reads_teacher]
    found = {bound for term in terms if term.temperatures is not None for bound in term.temperatures}
    if len(found) > 1:
        raise InputError(
            f"the codec {spec.codec} is taken at one temperature, but the arms read at several",
            where="teacher.store.codec",
            given=", ".join(f"{temperature:g}" for temperature in sorted(found)),
            fix="use one temperature that does not move, or a codec that keeps all logits: fp16, int8",
        )
    return next(iter(found), 1.0)


def _check_codec(codec: Codec, arms: Mapping[str, Objective], classes: int) -> None:
    """Let every arm read one small answer as it will come from the store."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, generator=generator)
    ids = torch.tensor([1, 2])
    answer = Outputs(codec.decode(codec.encode(logits, ids, 0), classes))
    batch = Batch(ids, {}, torch.zeros(2, dtype=torch.int64))
    for name, objective in arms.items():
        if objective.needs_teacher:
            try:
                objective(Outputs(logits.clone()), answer, batch)
            except InputError as error:
                raise InputError(
                    f"arm `{name}` cannot read answers stored as {codec.name}: {error.problem.what}",
                    where="teacher.store.codec",
                    given=error.problem.given,
                    expected=error.problem.expected,
                    fix=error.problem.fix or "use a codec that keeps all logits: fp32, fp16, bf16 or int8",
                ) from error


def question_of(job: Job) -> Question:
    """The training part in all the views that its students will see."""
    assert job.store is not None
    draws = draws_of(job.store.views, job.views, seeds=job.seeds, epochs=job.train.epochs)
    return Question(job.splits.train, job.views, draws)


def capture_of(job: Job, shop: Workshop, teacher: Teacher) -> Capture:
    """How the live teacher is asked."""
    assert job.store is not None
    kind = resolve_precision(job.store.precision or job.train.precision, shop.device.device)
    device = PlainDevice(shop.device.device, kind)

    def ask(batch: Batch) -> Outputs:
        with device.autocast():
            return teacher.answer(move(batch, device.device))

    name = {torch.float32: "32", torch.bfloat16: "bf16", torch.float16: "fp16"}[kind]
    return Capture(ask, teacher.fingerprint(), job.store.codec, name, device.device.type, job.store.features)


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


def answering(job: Job, shop: Workshop, teacher: Teacher) -> tuple[Teacher, int]:
    """Who answers in training, and from how many recorded views epochs are drawn."""
    plan = job.store
    if plan is None:
        return teacher, 0
    question, capture = question_of(job), capture_of(job, shop, teacher)
    if plan.recorded:
        shop.folder.tell(
            f"store: {plan.recorded} recorded views of each example serve all {job.train.epochs} epochs of every seed; "
            "`teacher.store.views: replay` records each epoch's own"
        )
    key = key_of(identity_of(question, capture))
    if is_remote(plan.root):
        stored = StoredTeacher(f"{plan.root}/{key}")
    else:
        built = build_answers(job, shop, teacher, tell=shop.folder.tell)
        shop.folder.tell(f"store: {built.summary()}")
        stored = StoredTeacher(built.place)
        # A run that goes on has asked about some rows before.
        before = shop.folder.manifest.get("store", {"asked": 0, "seconds": 0.0})
        shop.folder.manifest["store"] = {
            "key": key, "place": str(built.place), "rows": built.rows, "asked": before["asked"] + built.asked,
            "seconds": round(before["seconds"] + built.seconds, 3), "bytes": built.bytes,
            "codec": plan.codec.name, "views": plan.views,
        }  # fmt: skip
        shop.folder.save()
    _compare(question, capture, stored)
    stored.to(shop.device.device)
    return stored, plan.recorded


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
