"""A student, a teacher and an objective as one module: give it a batch, get a loss, use it in any loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self, final

import torch
from torch import Tensor, nn

from tutelage.companions import Around, Listening, Seen, connect, outputs_of
from tutelage.errors import InputError, MismatchError
from tutelage.layermaps import lined_up
from tutelage.losses.gradients import kernels_with_derivatives
from tutelage.models.heads import head_of
from tutelage.objective import Loss, Objective, Term, read_view
from tutelage.schedules import Past
from tutelage.slopes import best_class, check_second, slopes
from tutelage.sources import Source
from tutelage.teachers import Teacher, as_teacher
from tutelage.types import ATTACKED, PARTNER, Batch, Outputs, Step

__all__ = ["Asked", "Distiller", "ask_student"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What student and teacher say to a batch, before it becomes a loss."""

    batch: Batch
    student: Outputs  # with its graph
    teacher: Outputs | None


@final
class Distiller(nn.Module):
    """`step = distiller(batch); step.loss.backward()`.

    Only what learns is registered, the student and any connectors: `parameters()`, `state_dict()` and checkpoints never
    hold the teacher, which stays frozen and in eval mode whatever `train()` says. `.to(device)` moves both.

    Args:
        student: maps (B, …) to logits (B, C), or a `connectors.Listening` around such a module.
        teacher: a torch module or anything that answers; None where no term reads a teacher.
        objective: terms, or losses where weight 1 and the default temperature are meant.
        view: the name of the input view that the student reads.
        example: a batch to learn shapes from, where terms read features or something learns along with them: layers
            are tapped, connectors and companions built here, so that an optimizer over `parameters()` finds them.
        known: ids (N,) and targets (N, …) of all training examples, for terms that remember by example.

    Raises:
        InputError: a term reads a teacher and there is none.
        ModelError: a layer that is not there, or features that cannot be matched.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | nn.Module | None,
        objective: Objective | Sequence[Term | Loss],
        *,
        view: str = "x",
        example: Batch | None = None,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        if teacher is student:
            raise InputError(
                "teacher and student are the same object, which cannot be frozen and learn",
                fix="give the student a copy: copy.deepcopy(teacher)",
            )
        whole = objective if isinstance(objective, Objective) else Objective(objective)
        module = teacher if isinstance(teacher, nn.Module) else getattr(teacher, "module", None)
        self.objective = lined_up(whole, student, module)
        self.teacher = None if teacher is None else as_teacher(teacher, self.objective.teacher_places)
        self.view = view
        if self.objective.needs_teacher and self.teacher is None:
            raise InputError(
                "the objective reads a teacher, but none was given", fix="pass a teacher, or drop the term"
            )
        self._checked = False  # that the student can be differentiated as often as the objective asks
        self.student = student
        if example is not None and self.objective.listens:
            answer = self.teacher.answer(example) if self.teacher is not None else None
            head = head_of(getattr(self.teacher, "module", None), answer)
            around = Around(example, answer, view=view, head=head, known=known, batch_size=len(example))
            self.student = connect(student, self.objective, around)

    def forward(
        self,
        batch: Batch,
        *,
        answer: Outputs | None = None,
        progress: float | None = None,
        past: Past = (),
        others: Mapping[Source, Sequence[Outputs]] = MappingProxyType({}),
    ) -> Step:
        """The loss of one batch.

        Args:
            batch: inputs, ids and targets.
            answer: the teacher's outputs for this batch, where the caller has them already (arms of a cohort share one
                teacher pass); asked from the teacher otherwise.
            progress: 0 at the first step, 1 at the end; needed only if a weight, a temperature or a loss moves.
            past: what validation said after every epoch so far; for schedules that follow it.
            others: what each source of the objective but the teacher says.

        Raises:
            InputError: a schedule moves and no progress was given.
            ModelError: the student does not answer with logits.
        """
        asked = self.ask(batch, answer=answer, progress=progress)
        return self.judge(asked, progress=progress or 0.0, past=past, others=others)

    def ask(self, batch: Batch, *, answer: Outputs | None = None, progress: float | None = None) -> Asked:
        """The first half of a step: what both say. Students who listen to each other all do this before any learns."""
        if progress is None:
            if self.objective.moves:
                raise InputError(
                    "a weight or temperature follows a schedule, but the step has no progress",
                    fix="pass progress=step / total_steps",
                )
            progress = 0.0
        if answer is None and self.teacher is not None and self.objective.needs_teacher:
            answer = self.teacher.answer(batch)
        outputs = ask_student(
            self.student, self.objective, batch, answer, view=self.view, progress=progress, check=not self._checked
        )
        self._checked = True
        if self.objective.attacks(progress):
            outputs, answer = self._attacked(batch, outputs, answer, progress)
        return Asked(batch, outputs, answer)

    def judge(
        self,
        asked: Asked,
        *,
        progress: float = 0.0,
        past: Past = (),
        others: Mapping[Source, Sequence[Outputs]] = MappingProxyType({}),
    ) -> Step:
        """The second half: the loss of what was said."""
        step = self.objective(asked.student, asked.teacher, asked.batch, progress=progress, past=past, others=others)
        for module in self.student.modules() if any(term.companions for term in self.objective.terms) else ():
            if isinstance(module, Listening):  # below a wrapper for many devices
                module.hear(asked.teacher, others)
                break
        return step

    def _attacked(
        self, batch: Batch, outputs: Outputs, answer: Outputs | None, progress: float
    ) -> tuple[Outputs, Outputs | None]:
        """What both say to inputs that attack the student, beside what they said before."""
        ours, theirs = dict(outputs.attacked), dict(answer.attacked if answer is not None else {})
        x = read_view(batch, self.view)
        for attack, of_teacher in self.objective.attacks(progress).items():
            # After the clean pass, whose dropout masks so stay those of the other arms; a function of the step's seed.
            seed = int(torch.randint(2**62, ()))
            generator = torch.Generator(x.device).manual_seed(seed)
            told = None if answer is None else answer.logits
            moved = attack(self.student, x, batch.target, told, generator).detach()
            ours[attack] = outputs_of(self.student(moved)).logits
            if of_teacher:
                assert self.teacher is not None
                # Only the view that was attacked, and under a number that no stored answer has.
                asked = replace(batch, inputs={self.view: moved}, view=ATTACKED)
                try:
                    theirs[attack] = self.teacher.answer(asked).logits
                except MismatchError as error:
                    raise MismatchError(
                        "the objective asks the teacher about attacked inputs, which nobody could store before",
                        given=error.problem.what, fix="use a live teacher, or a loss that reads its clean answers only",
                    ) from error  # fmt: skip
        return replace(outputs, attacked=ours), None if answer is None else replace(answer, attacked=theirs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow `.to`, `.cuda` and the like with the teacher, which torch does not see."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.teacher is not None:
            self.teacher.to(fn(torch.zeros(())).device)
        return self


def ask_student(
    student: nn.Module,
    objective: Objective,
    batch: Batch,
    answer: Outputs | None,
    *,
    view: str = "x",
    progress: float = 0.0,
    check: bool = False,
) -> Outputs:
    """What a student answers to a batch, with the gradients that an objective reads just now.

    `check` makes sure that those can be differentiated again.

    Raises:
        InputError: the objective reads layers that nobody listens to.
        ModelError: the student does not answer with logits, or cannot be differentiated twice.
    """
    x, wanted = read_view(batch, view), objective.student_slopes(progress)
    # Before the student's own pass, so that statistics of batches end with this batch in every arm.
    partner = _of_partners(student, batch) if objective.partners(progress) else None
    # A plain student takes nothing but its input.
    seen = (Seen(batch, answer, progress),) if any(term.companions for term in objective.terms) else ()
    if not wanted:
        return replace(_listened(outputs_of(student(x, *seen)), objective), partner=partner)
    x = x.detach().requires_grad_()
    with kernels_with_derivatives(student):
        outputs = replace(_listened(outputs_of(student(x, *seen)), objective), partner=partner)
    assert isinstance(outputs.logits, Tensor)
    ranks = any(place.endswith("@max") for place in wanted)
    best = best_class(answer.logits) if ranks and answer is not None else None
    found = slopes(outputs.logits, {"": x} | dict(outputs.features), wanted, batch, best, graph=True)
    if check:
        check_second(found)
    return replace(outputs, features=dict(outputs.features) | found)


def _of_partners(student: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        logits = outputs_of(student(read_view(batch, PARTNER))).logits
    assert isinstance(logits, Tensor)
    return logits


def _listened(outputs: Outputs, objective: Objective) -> Outputs:
    if objective.student_places and not outputs.features:
        raise InputError(
            "the objective reads the student's features, but nobody listens to its layers",
            fix="pass example=batch when making the Distiller",
        )
    return outputs
