"""Several tasks at once: a model answers all of them with one row of logits, those of each task beside the others'.

The first task is the main one. A term is of one task: what it reads of logits and labels is that task's share.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from tutelage.errors import InputError, nearest
from tutelage.sources import Peers, Pseudo
from tutelage.terms import Term, title_of
from tutelage.types import Batch, Outputs

__all__ = ["IMPOSSIBLE", "columns_of", "each_task", "of_task"]

# The logit of a place that cannot hold the answer to a question, in every model and in every answer: exact in half
# precision, nothing in a softmax of any usual temperature; and as teacher and student have the same, nothing is learned
# there.
IMPOSSIBLE = -100.0

# What has a share of its own for every task.
_CUT = frozenset({"student_logits", "teacher_logits", "teacher_members", "partner_logits", "target", "labels"})
# What is made of all logits together, or of the main task's labels, before any term reads its share.
_WHOLE = frozenset({
    "adversarial_logits", "teacher_adversarial_logits", "past_probabilities", "judged", "regressed", "exits",
    "branches", "centre", "student_input_gradient", "teacher_input_gradient", "student_feature_gradient",
    "teacher_feature_gradient", "student_feature_gradients", "teacher_feature_gradients",
})  # fmt: skip
_PEERS = ("each", "mean_logits")  # what is the same whether logits are cut before or after


def columns_of(sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Task -> where its logits begin and end among all.

    Args:
        sizes: task -> number of its classes, the main one first.
    """
    ends = list(itertools.accumulate(sizes.values()))
    return {name: (end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}


def each_task(terms: Sequence[Term], sizes: Mapping[str, int]) -> list[Term]:
    """Terms that know where their task's logits stand.

    A term that names no task, and reads logits or labels, becomes one for each task; one that reads features alone is
    of no task, and stays one. A loss on partners of the same class is of the main task, whose classes those are.

    Args:
        terms: of an objective.
        sizes: task -> number of its classes, the main one first.

    Raises:
        InputError: there is no such task, or a loss reads what only a single task has.
    """
    main, found = next(iter(sizes)), list[Term]()
    for term in terms:
        if term.task is not None and term.task not in sizes:
            raise InputError(
                f"the term `{term.name}` is of a task that the data does not have", where="task", given=term.task,
                expected="one of " + ", ".join(sizes), fix=nearest(term.task, sizes),
            )  # fmt: skip
        if len(sizes) == 1:
            found.append(term if term.task is None else replace(term, task=None))
            continue
        _refuse_whole(term)
        if not _CUT & set(term.needs):
            if term.task is not None:
                raise InputError(
                    f"the loss `{term.name}` reads no logits and no labels, so it is of no task",
                    where="task", given=term.task, fix="leave `task` out",
                )  # fmt: skip
            found.append(term)
            continue
        if "partner_logits" in term.needs and term.task not in (None, main):
            raise InputError(
                f"the loss `{term.name}` reads partners of the same class, which is one of `{main}`",
                where="task", given=term.task, expected=main,
            )  # fmt: skip
        names = [term.task] if term.task is not None else [main] if "partner_logits" in term.needs else list(sizes)
        found += [_of(term, name, columns_of(sizes)[name]) for name in names]
    return found


def of_task(term: Term, student: Outputs, told: Outputs | None, batch: Batch) -> tuple[Outputs, Outputs | None, Batch]:
    """What both say of a term's task, and its targets.

    Raises:
        InputError: nobody told the term where its task's logits stand; the batch has no such target; or an answer
            holds only some of the logits.
    """
    if term.columns is None:
        raise InputError(
            f"the term `{term.name}` is of the task `{term.task}`, but does not know where its logits stand",
            fix='say how many classes each task has: Objective([…]).for_tasks({"label": 10, "parity": 2})',
        )
    target = batch.target
    if term.columns[0] > 0:
        name = str(term.task)
        if name not in batch.tasks:
            raise InputError(
                f"the batch has no targets for the task `{name}`", given=", ".join(batch.tasks) or "none",
                fix=nearest(name, batch.tasks),
            )  # fmt: skip
        target = batch.tasks[name]
    # Of the other side only where it is read: a term on labels does not mind who answers, or how.
    heard = told if told is None or not term.listens_to_others else _share(told, term)
    return _share(student, term), heard, replace(batch, target=target)


def _share(outputs: Outputs, term: Term) -> Outputs:
    assert term.columns is not None
    start, stop = term.columns
    logits = outputs.logits
    if not isinstance(logits, Tensor):
        raise InputError(
            f"the term `{term.name}` is of one of several tasks, but the answers hold only a part of all logits",
            given=type(logits).__name__, expected="all logits", fix="use a codec that keeps all: fp32, fp16, int8",
        )  # fmt: skip
    if logits.shape[-1] < stop:
        raise InputError(
            f"the term `{term.name}` is of the task `{term.task}`, whose logits are not among the answers",
            given=f"{logits.shape[-1]} logits", expected=f"at least {stop}",
            fix="use models that answer every task",
        )  # fmt: skip
    members = None if outputs.members is None else outputs.members[..., start:stop]
    partner = None if outputs.partner is None else outputs.partner[..., start:stop]
    return replace(outputs, logits=logits[..., start:stop], members=members, partner=partner)


def _of(term: Term, task: str, columns: tuple[int, int]) -> Term:
    # A name that somebody gave to a term of one task is kept; what comes once for each task is told apart.
    own = term.task is not None and term.name != title_of(term.loss)
    return replace(term, task=task, columns=columns, name=term.name if own else f"{term.name}-{task}")


def _refuse_whole(term: Term) -> None:
    """Refuse what would mix tasks up: a probability over all of their classes means nothing."""
    for need in term.needs:
        if need in _WHOLE:
            raise InputError(
                f"the loss `{term.name}` reads `{need}`, which there is not for several tasks at once",
                expected="a loss on logits, labels or features",
            )
    source = term.speaker
    if isinstance(source, Pseudo) or (isinstance(source, Peers) and source.how not in _PEERS):
        raise InputError(
            f"the term `{term.name}` listens to {source}, which there is not for several tasks at once",
            expected="the teacher, ema, another arm, or peers one by one or by mean_logits",
        )
