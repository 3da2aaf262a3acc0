"""Whether every arm's student can learn: its size, its answers, and a gradient from every term."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from tutelage.connectors import Listening, connect
from tutelage.data import Batches
from tutelage.distiller import ask_student
from tutelage.errors import ModelError, TutelageError
from tutelage.evaluation.cost import parameters
from tutelage.objective import Objective, Term
from tutelage.run.checks.findings import Finding, fault, first_line, notice, ok, percent
from tutelage.run.job import Job
from tutelage.schedules import Schedule
from tutelage.taps import feature_at
from tutelage.teachers import ModuleTeacher
from tutelage.training.device import move
from tutelage.types import Batch, Logits, Outputs

__all__ = ["as_stored", "student_findings"]

_EXAMPLES = 8


def student_findings(
    job: Job, name: str, student: nn.Module, teacher: nn.Module | None, *, asks: bool, device: torch.device
) -> Iterator[Finding]:
    """Look at a student as it starts.

    Args:
        name: of the student, "" where there is one.
        student: with its first weights; its buffers change.
        teacher: to compare sizes with, where there is one.
        asks: whether the teacher has its weights; random answers stand in for it otherwise.
        device: where to compute.
    """
    title = f"student {name}" if name else "student"
    yield from (notice(title, text) for text in getattr(student, "notices", ()))
    recorded = job.store.recorded if job.store is not None else 0
    batches = Batches(
        job.splits.train, batch_size=_EXAMPLES, views=job.views, seed=job.seeds[0], recorded=recorded
    )  # fmt: skip
    batch = move(next(batches.epoch(0)), device)
    student.to(device).train()
    try:
        logits = student(batch.inputs["x"])
    except RuntimeError as error:
        yield fault(title, f"it fails on a real batch: {first_line(error)}", "look at its code and arguments")
        return
    expected = (len(batch), len(job.splits.train.classes))
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        shown = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        yield fault(title, f"it answers {shown} to a real batch, where {expected} was expected")
        return
    size = parameters(student)
    share = ""
    if teacher is not None and parameters(teacher):
        share = f", {percent(size / parameters(teacher))} of the teacher's {parameters(teacher):,}"
    yield ok(title, f"{size:,} parameters{share}; answers {tuple(logits.shape)} to a real batch")
    answered = torch.randn(expected, generator=torch.Generator().manual_seed(0)).to(device)
    features: Mapping[str, Tensor] = {}
    if teacher is not None and (asks or job.teacher_places):
        # A teacher freezes its module, and one that is yet to be trained must not be.
        module = teacher if asks else copy.deepcopy(teacher)
        said = ModuleTeacher(module, places=job.teacher_places).answer(batch)
        features = said.features
        if asks:
            assert isinstance(said.logits, Tensor)
            answered = said.logits
    try:
        answer = Outputs(as_stored(job, answered, batch), features)
    except ModelError as error:
        yield fault("store", error)
        return
    for arm_name, arm in job.arms.items():
        if arm.student == name:
            yield from _arm(arm_name, arm.objective, student, answer, batch)


def as_stored(job: Job, logits: Tensor, batch: Batch) -> Logits:
    """A teacher's logits (B, C) as the arms will read them: as they are, or as they come back from the store."""
    if job.store is None:
        return logits
    codec = job.store.codec
    columns = codec.encode(logits.float().cpu(), batch.ids.cpu(), batch.view)
    return codec.decode({name: column.to(logits.device) for name, column in columns.items()}, logits.shape[-1])


def _arm(name: str, objective: Objective, student: nn.Module, answer: Outputs, batch: Batch) -> Iterator[Finding]:
    """One forward and backward pass for every term by itself, at weight 1."""
    title, found = f"arm {name}", list[Finding]()
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    for term_name, term in zip(objective.names, objective.terms, strict=True):
        if term.attack is not None:
            found.append(notice(title, f"the term `{term_name}` reads answers to attacked inputs, and was not tried"))
            continue
        if (term.places or term.slopes("teacher")) and not answer.features:
            found.append(notice(title, f"the term `{term_name}` reads features, and the teacher could not be asked"))
            continue
        if isinstance(term.weight, Schedule) and term.weight.greatest == 0.0:
            found.append(notice(title, f"the term `{term_name}` weighs 0 and does nothing", "give it a weight"))
            continue
        alone = Objective([replace(term, weight=1.0)])
        try:
            learner = connect(student, alone, batch.inputs["x"], answer)
            outputs = ask_student(learner, alone, batch, answer, check=True)
            loss = alone(outputs, answer, batch).loss
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


def _layers(title: str, term: Term, student: Outputs, teacher: Outputs, learner: nn.Module) -> Iterator[Finding]:
    """Which layers a term listens to, how large their outputs are, and what learns to match them."""
    for place in term.places if term.reads_teacher else ():
        ours = feature_at(student.features, place.student, "the student")
        theirs = feature_at(teacher.features, place.teacher, "the teacher")
        own, other = tuple(ours.shape[1:]), tuple(theirs.shape[1:])
        said = f"`{term.name}` reads {place.student} {own} beside the teacher's {place.teacher} {other}"
        yield ok(f"layers of {title}", said)
    if isinstance(learner, Listening) and (count := parameters(learner.connectors)):
        yield ok(f"connectors of {title}", f"{count:,} parameters of `{term.name}` learn along and are not shipped")
