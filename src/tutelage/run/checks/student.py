"""Whether every arm's student can learn: its size, its answers, and a gradient from every term."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from tutelage.companions import Around, Listening, connect
from tutelage.distiller import ask_student
from tutelage.errors import ModelError, TutelageError
from tutelage.evaluation.cost import parameters
from tutelage.models.heads import head_of
from tutelage.objective import Objective, Term
from tutelage.run.arms import Company, batches_of, surroundings
from tutelage.run.checks.findings import Finding, fault, first_line, notice, ok, percent
from tutelage.run.checks.teacher import KnownTeacher
from tutelage.run.job import Job
from tutelage.schedules import Schedule
from tutelage.taps import feature_at
from tutelage.teachers import ModuleTeacher
from tutelage.training.device import move
from tutelage.types import Batch, Logits, Outputs

__all__ = ["as_stored", "student_findings"]

_EXAMPLES = 8
_MIDDLE = 0.5  # of training: what begins or ends with a weight of 0 counts there


def student_findings(
    job: Job, name: str, student: nn.Module, teacher: KnownTeacher | None, *, device: torch.device
) -> Iterator[Finding]:
    """Look at a student as it starts.

    Args:
        name: of the student, "" where there is one.
        student: with its first weights; its buffers change.
        teacher: to compare sizes with, where there is one; where it has no weights yet, random answers stand in for it.
        device: where to compute.
    """
    title = f"student {name}" if name else "student"
    yield from (notice(title, text) for text in getattr(student, "notices", ()))
    own = {key: arm for key, arm in job.arms.items() if arm.student == name}
    batch = move(next(batches_of(job, own, size=_EXAMPLES, seed=job.seeds[0], recorded=job.recorded).epoch(0)), device)
    student.to(device).train()
    try:
        logits = student(batch.inputs["x"])
    except RuntimeError as error:
        yield fault(title, f"it fails on a real batch: {first_line(error)}", "look at its code and arguments")
        return
    expected = (len(batch), len(job.splits.train.outputs))
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        shown = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        yield fault(title, f"it answers {shown} to a real batch, where {expected} was expected")
        return
    size = parameters(student)
    share = ""
    if teacher is not None and (whole := parameters(teacher.module)):
        whose = "teachers'" if teacher.members else "teacher's"
        share = f", {percent(size / whole)} of the {whose} {whole:,}"
    yield ok(title, f"{size:,} parameters{share}; answers {tuple(logits.shape)} to a real batch")
    answered = torch.randn(expected, generator=torch.Generator().manual_seed(0)).to(device)
    features: Mapping[str, Tensor] = {}
    members: Tensor | None = None
    if teacher is not None and (teacher.trained or teacher.members or job.teacher_places):
        # A teacher freezes its module, and one that is yet to be trained must not be.
        said = (teacher if teacher.trained else copy.deepcopy(teacher)).live(job).answer(batch)
        features, members = said.features, said.members
        # A term that looks through the teacher's last layer makes sure that the logits are its own.
        if teacher.trained or any("regressed" in arm.objective.needs for arm in own.values()):
            assert isinstance(said.logits, Tensor)
            answered = said.logits
    try:
        answer = Outputs(as_stored(job, answered, batch), features, members=members)
    except ModelError as error:
        yield fault("store", error)
        return
    around = replace(surroundings(job, {}, batch, None, Company(), size=len(batch), seed=job.seeds[0]), answer=answer)
    if teacher is not None and not teacher.members:
        around = replace(around, head=head_of(teacher.module, Outputs(answered)))
    for arm_name, arm in own.items():
        yield from _arm(arm_name, arm.objective, student, around)


def as_stored(job: Job, logits: Tensor, batch: Batch) -> Logits:
    """A teacher's logits (B, C) as the arms will read them: as they are, or as they come back from the store."""
    if job.store is None:
        return logits
    codec = job.store.codec
    columns = codec.encode(logits.float().cpu(), batch.ids.cpu(), batch.view)
    return codec.decode({name: column.to(logits.device) for name, column in columns.items()}, logits.shape[-1])


def _arm(name: str, objective: Objective, student: nn.Module, around: Around) -> Iterator[Finding]:
    """One forward and backward pass for every term by itself, at weight 1, in the middle of training."""
    title, found = f"arm {name}", list[Finding]()
    batch, answer = around.batch, around.answer
    assert answer is not None
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    for term_name, term in zip(objective.names, objective.terms, strict=True):
        if term.attack is not None:
            found.append(notice(title, f"the term `{term_name}` reads answers to attacked inputs, and was not tried"))
            continue
        if term.reads_teacher and (term.places or term.slopes("teacher")) and not answer.features:
            found.append(notice(title, f"the term `{term_name}` reads features, and the teacher could not be asked"))
            continue
        if isinstance(term.weight, Schedule) and term.weight.greatest == 0.0:
            found.append(notice(title, f"the term `{term_name}` weighs 0 and does nothing", "give it a weight"))
            continue
        alone = Objective([replace(term, weight=1.0)])
        try:
            others = {source: _stand_in(student, alone.places_of(source), batch, answer) for source in alone.sources}
            learner = connect(student, alone, replace(around, others=others))
            outputs = ask_student(learner, alone, batch, answer, progress=_MIDDLE, check=True)
            told = {source: (one,) for source, one in others.items()}
            loss = alone(outputs, answer, batch, progress=_MIDDLE, others=told).loss
        except TutelageError as error:
            found.append(fault(f"{title}, term {term_name}", error))
            continue
        found += _layers(title, term, outputs, answer, learner)
        value = float(loss.detach())
        if not loss.requires_grad:
            said = f"the term `{term_name}` has no gradient with respect to the student"
            found.append(fault(title, said, "choose a loss that reads the student's logits, or drop the term"))
            continue
        gradients = [g for g in torch.autograd.grad(loss, learning, allow_unused=True) if g is not None]
        norm = float(torch.stack([g.double().norm() for g in gradients]).norm()) if gradients else 0.0
        if not torch.isfinite(torch.tensor([value, norm])).all():
            said = f"the term `{term_name}` is not finite: loss {value:g}, norm of the gradient {norm:g}"
            found.append(fault(title, said, "look at its temperature and options, and at the inputs"))
        elif norm == 0.0:
            said = f"the term `{term_name}` gives the student no gradient at all (loss {value:g})"
            found.append(fault(title, said, "look at its options, and at what of the student learns"))
    if not any(finding.level == "fault" for finding in found):
        names = ", ".join(objective.names)
        found.append(ok(title, f"loss and gradient of every term are finite and not zero: {names}"))
    yield from found


def _stand_in(student: nn.Module, places: Sequence[str], batch: Batch, answer: Outputs) -> Outputs:
    """What another source may say: the layers of a student as it starts, and somebody else's logits."""
    module = copy.deepcopy(student)
    return replace(ModuleTeacher(module, places=places).answer(batch), logits=answer.logits)


def _layers(title: str, term: Term, student: Outputs, teacher: Outputs, learner: nn.Module) -> Iterator[Finding]:
    """Which layers a term listens to, how large their outputs are, and what learns to match them."""
    for place in term.places if term.reads_teacher else ():
        ours = feature_at(student.features, place.student, "the student")
        theirs = feature_at(teacher.features, place.teacher, "the teacher")
        own, other = tuple(ours.shape[1:]), tuple(theirs.shape[1:])
        said = f"`{term.name}` reads {place.student} {own} beside the teacher's {place.teacher} {other}"
        yield ok(f"layers of {title}", said)
    if isinstance(learner, Listening) and (count := parameters(learner.extras)):
        yield ok(
            f"learning along with {title}", f"{count:,} parameters of `{term.name}` learn along and are not shipped"
        )
