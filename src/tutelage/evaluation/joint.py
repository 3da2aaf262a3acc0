"""Several tasks judged together: who got all of an example right, and of a question its whole answer.

    questions   whether the two tasks are the places where an answer starts and ends
    joint       {models [{name, right E over seeds, right_items E, f1 E of questions, runs [{seed, right, f1}]}],
                 comparisons: as those of the report, of `right` and then of `f1`, each with its `measure`}

Comparisons of joint measures are a Holm family of their own. They are the one answer to whether the whole got better,
asked for before anybody looks, and must not grow dearer with the number of tasks; exact match and F1 are two looks at
it, so they are adjusted together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import InputError
from tutelage.evaluation import metrics, spans
from tutelage.evaluation.comparison import adjust, compare
from tutelage.evaluation.judged import Judged, ModelScore
from tutelage.evaluation.lineup import Lineup, seeds_of
from tutelage.evaluation.significance import over_seeds, wilson
from tutelage.evaluation.tasks import Asked, TaskFacts, asked_of, logits_of

__all__ = ["METHODS", "Together", "judge_together", "score_together"]

Right = NDArray[np.bool_]
METHODS = {"all_right": "share of test examples of which the top classes of all tasks are the labels"}
# Of questions, what says something of where their answers start; precision or AUC of hundreds of places do not.
_KEPT = ("nll", "ece", "agreement", "divergence", "copied_errors")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """Every model's answers to all tasks at once."""

    questions: bool
    right: Mapping[str, list[Right]]  # model -> run by run (N,), all tasks right; of questions the exact answer
    f1: Mapping[str, list[metrics.Floats]]  # of questions: model -> run by run (N,); else empty
    strata: metrics.Ints  # (N,) within which test examples are drawn again
    most: float | None = None  # of questions: how often the most frequent answer comes

    @property
    def methods(self) -> dict[str, str]:
        """How its numbers were computed; of questions exact match is the accuracy of the report."""
        if not self.questions:
            return dict(METHODS)
        return {"accuracy": spans.METHODS["exact_match"], "f1": spans.METHODS["f1"]}

    def told(self, scores: Mapping[str, Sequence[ModelScore]]) -> dict[str, list[ModelScore]]:
        """The models' metrics: of questions `accuracy` is exact match and `f1` stands beside it, and what says nothing
        of places is left out; of other tasks they are as they were."""
        if not self.questions:
            return {name: list(several) for name, several in scores.items()}
        return {
            name: [
                replace(one, metrics={
                    "accuracy": float(right.mean()), "f1": float(f1.mean()),
                    **{key: one.metrics[key] for key in _KEPT if key in one.metrics},
                })
                for one, right, f1 in zip(several, self.right[name], self.f1[name], strict=True)
            ]
            for name, several in scores.items()
        }  # fmt: skip


def judge_together(facts: TaskFacts, judged: Mapping[str, Sequence[Judged]], main: Asked) -> Together:
    """What every model got right of all tasks at once.

    Args:
        facts: the further tasks.
        judged: name of model or arm -> its models.
        main: questions of the main task.

    Raises:
        InputError: answers are missing or do not fit, or questions are not two tasks over the same places.
    """
    asked = asked_of(facts, main)
    if not facts.questions:
        right = {
            name: [_all_right(name, one, asked, facts.main) for one in several] for name, several in judged.items()
        }
        return Together(False, right, {}, main.labels)
    if len(asked) != 2:
        raise InputError(
            "an answer in a text is two tasks, where it starts and where it ends", given=", ".join(asked),
            expected="two tasks",
        )  # fmt: skip
    begin, end = asked
    truth = np.stack([asked[begin].labels, asked[end].labels], axis=1)
    exact: dict[str, list[Right]] = {}
    shares: dict[str, list[metrics.Floats]] = {}
    for name, several in judged.items():
        found = [spans.best_spans(*(logits_of(name, one, task, facts.main) for task in asked)) for one in several]
        exact[name] = [spans.exact(one, truth) for one in found]
        shares[name] = [spans.overlap(one, truth) for one in found]
    # Few questions start at the same place, and drawing again within one of them would hardly change anything.
    strata = (truth[:, 0] > 0).astype(np.int64)
    most = float(np.unique(truth, axis=0, return_counts=True)[1].max() / len(truth))
    return Together(True, exact, shares, strata, most)


def _all_right(name: str, model: Judged, asked: Mapping[str, Asked], main: str) -> Right:
    found = np.ones(next(iter(asked.values())).labels.size, dtype=np.bool_)
    for task, own in asked.items():
        logits = metrics.as_answers(name, logits_of(name, model, task, main), own.labels.size, len(own.classes))
        found &= metrics.predictions(logits) == own.labels
    return found


def score_together(
    found: Together, lineup: Lineup, judged: Mapping[str, Sequence[Judged]], *, resamples: int
) -> dict[str, Any]:
    """The part of the report's section `tasks` that the top of this module describes.

    Args:
        found: what every model got right.
        lineup: the arms.
        judged: name of model or arm -> its models.
        resamples: of the bootstrap over test examples.
    """
    measures: dict[str, Mapping[str, Sequence[NDArray[Any]]]] = {"right": found.right}
    if found.questions:
        measures["f1"] = found.f1
    models = [
        _model(name, {key: marks[name] for key, marks in measures.items()}, [one.seed for one in several])
        for name, several in judged.items()
    ]
    arms = {arm.name: seeds_of(arm) for arm in lineup.arms}
    compared = []
    for measure, marks in measures.items():
        seeds = {name: dict(zip(numbers, marks[name], strict=True)) for name, numbers in arms.items()}
        compared += [
            compare(name, seeds[name], other, seeds[other], found.strata, resamples=resamples) | {"measure": measure}
            for name, other in lineup.compared().items()
        ]
    return {"questions": found.questions, "joint": {"models": models, "comparisons": adjust(compared)}}


def _model(name: str, marks: Mapping[str, Sequence[NDArray[Any]]], seeds: Sequence[int | None]) -> dict[str, Any]:
    n = int(marks["right"][0].size)
    values = {key: [float(one.mean()) for one in several] for key, several in marks.items()}
    means = {key: over_seeds(own, n).within(0.0, 1.0) for key, own in values.items()}
    return {
        "name": name,
        **{key: estimate.to_json() for key, estimate in means.items()},
        "right_items": wilson(min(1.0, means["right"].value), n, seeds=len(seeds)).to_json(),
        "runs": [{"seed": seed, **{key: own[row] for key, own in values.items()}} for row, seed in enumerate(seeds)],
    }
