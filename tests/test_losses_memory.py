"""Losses that read a memory, a queue or a centre: the contract for each, and known numbers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage import losses
from tutelage.errors import InputError
from tutelage.losses import (
    compress_one_queue,
    compress_two_queues,
    contrastive_memory,
    seed_similarity,
    self_consistent,
)
from tutelage.losses.targets import top_k
from tutelage.objective import NEEDS, Term
from tutelage.sources import Ema
from tutelage.words import COMPANIONS

pytest.register_assert_rewrite("feature_contract")
from feature_contract import EXAMPLES, KEPT, Case, Contract, draw, number, refuse  # noqa: E402

WIDTH, NEGATIVES = 6, 5
ANCHORS = torch.randn(9, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
ANCHORS[[2, 7]] = math.nan  # nothing stands there yet
FILLED = [0, 1, 3, 4, 5, 6, 8]
TAUS = tuple({"tau": bad} for bad in (0.0, -1.0, math.nan, math.inf))


# ---- the contract ----------------------------------------------------------------------------------------------------


def seed(ours: Tensor, theirs: Tensor, *, tau: float = 0.2, teacher_tau: float = 0.01, mask: Any = None) -> Tensor:
    """`seed_similarity` as the contract calls a loss: the student's side, the teacher's side."""
    return seed_similarity(ours, theirs, ANCHORS.to(ours.device), tau=tau, teacher_tau=teacher_tau, mask=mask)


def one_queue(ours: Tensor, theirs: Tensor, *, tau: float = 0.04, mask: Any = None) -> Tensor:
    """`compress_one_queue` likewise."""
    return compress_one_queue(ours, theirs, ANCHORS.to(ours.device), tau=tau, mask=mask)


def two_queues(ours: Tensor, theirs: Tensor, *, tau: float = 0.04, mask: Any = None) -> Tensor:
    """`compress_two_queues` likewise; the student may be narrower."""
    anchors = ANCHORS.to(ours.device)
    return compress_two_queues(ours, theirs, [anchors, anchors[:, : ours.shape[-1]] if ours.ndim else anchors],
                               tau=tau, mask=mask)  # fmt: skip


def consistent(
    ours: Tensor, theirs: Tensor, *, tau: float = 0.1, teacher_tau: float = 0.04, mask: Any = None
) -> Tensor:
    """`self_consistent` likewise."""
    return self_consistent(ours, theirs, ANCHORS[0].to(ours.device), tau=tau, teacher_tau=teacher_tau, mask=mask)


BOTH_TAUS = (*TAUS, *({"teacher_tau": one["tau"]} for one in TAUS))
CASES = [
    Case(seed, (((WIDTH,), (WIDTH,)),), ({"tau": 0.5}, {"teacher_tau": 0.3}), BOTH_TAUS, zero=False),
    Case(one_queue, (((WIDTH,), (WIDTH,)),), ({"tau": 0.5},), TAUS),
    Case(two_queues, (((WIDTH,), (WIDTH,)), ((3,), (WIDTH,))), ({"tau": 0.5},), TAUS, zero=False),
    Case(consistent, (((WIDTH,), (WIDTH,)),), ({"tau": 0.5}, {"teacher_tau": 0.3}), BOTH_TAUS, zero=False),
]
MEANT: dict[str, Callable[..., Tensor]] = {
    "seed": seed_similarity,
    "one_queue": compress_one_queue,
    "two_queues": compress_two_queues,
    "consistent": self_consistent,
}


def softmax(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


def alike(row: np.ndarray, anchors: np.ndarray, tau: float) -> np.ndarray:
    """How alike a row is to each anchor that is there, as shares."""
    cosines = [row @ a / np.linalg.norm(row) / np.linalg.norm(a) for a in anchors if not np.isnan(a).any()]
    return softmax(np.array(cosines) / tau)


def of_seed(ours: np.ndarray, theirs: np.ndarray, tau: float = 0.2, teacher_tau: float = 0.01) -> float:
    pairs = zip(ours, theirs, strict=True)
    anchors = ANCHORS.numpy()
    return float(np.mean([-(alike(t, anchors, teacher_tau) * np.log(alike(s, anchors, tau))).sum() for s, t in pairs]))


def of_two_queues(ours: np.ndarray, theirs: np.ndarray, tau: float = 0.04) -> float:
    total = 0.0
    for s, t in zip(ours, theirs, strict=True):
        p, q = alike(t, ANCHORS.numpy(), tau), alike(s, ANCHORS.numpy()[:, : len(s)], tau)
        total += float((p * np.log(p / q)).sum())
    return total / len(ours)


of_one_queue = of_two_queues


def of_consistent(ours: np.ndarray, theirs: np.ndarray, tau: float = 0.1, teacher_tau: float = 0.04) -> float:
    centre = ANCHORS[0].numpy()
    rows = zip(ours, theirs, strict=True)
    return float(np.mean([-(softmax((t - centre) / teacher_tau) * np.log(softmax(s / tau))).sum() for s, t in rows]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestContract(Contract):
    """What every loss on features keeps; logits are features here."""

    def test_its_parameters_are_words_that_an_objective_knows(self, case: Case) -> None:
        check_words(MEANT[case.name])

    def test_it_equals_the_reference(self, case: Case) -> None:
        for kind, options, seed_ in self._all(case, 3, everywhere=True):
            inputs = draw(case, kind, seed=seed_, scale=0.3 + seed_ / 2, examples=3 + seed_)
            plain = [one.detach().numpy() for one in inputs]  # type: ignore[union-attr]
            expected = globals()[f"of_{case.name}"](*plain, **options)
            assert number(case.loss(*inputs, **options)) == pytest.approx(expected, rel=1e-9)

    def test_its_docstring_says_everything_in_order(self, case: Case) -> None:
        super().test_its_docstring_says_everything_in_order(Case(MEANT[case.name], case.shapes))

    def test_the_shorter_half_precision_has_room(self, case: Case) -> None:
        for size in (0.0, 1.0, 1e4):
            student, teacher = (one.detach().mul(size).half() for one in draw(case))  # type: ignore[union-attr]
            value = case.loss(student.requires_grad_(), teacher)
            assert value.dtype == torch.float32
            assert torch.isfinite(value)
            assert torch.isfinite(torch.autograd.grad(value, student)[0]).all()


def check_words(loss: Callable[..., Tensor]) -> None:
    parameters = inspect.signature(loss).parameters.values()
    reads = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
    assert set(reads) <= set(NEEDS)
    assert set(reads) & set(COMPANIONS)
    assert [p.name for p in parameters if p.kind is p.KEYWORD_ONLY][-1] == "mask"
    assert Term(loss, at="a" if loss is not self_consistent else ()).needs == reads
    assert loss.__name__ in losses.__all__


# ---- contrast with a memory ------------------------------------------------------------------------------------------


def similarities(seed_: int = 0, rows: int = EXAMPLES, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    source = torch.Generator().manual_seed(seed_)
    shapes = [(rows,), (rows, NEGATIVES), (rows, NEGATIVES), (2,)]
    drawn = [torch.randn(shape, generator=source, dtype=torch.float64).mul(3.0).to(dtype) for shape in shapes]
    return [one.requires_grad_() for one in drawn]


def of_memory(agreed: np.ndarray, students: np.ndarray, teachers: np.ndarray, levels: np.ndarray) -> float:
    total = 0.0
    for others, level in ((students, levels[0]), (teachers, levels[1])):
        count = others.shape[1]
        for own, negatives in zip(agreed, others, strict=True):
            chance = [np.exp(u) / np.exp(level) for u in (own, *negatives)]
            chance = [w / (w + count) for w in chance]
            total -= np.log(chance[0]) + sum(np.log(1 - h) for h in chance[1:])
    return float(total / len(agreed))


def test_contrast_equals_its_equation_and_its_slopes() -> None:
    for seed_ in range(4):
        inputs = similarities(seed_)
        value = contrastive_memory(inputs)
        assert number(value) == pytest.approx(of_memory(*(one.detach().numpy() for one in inputs)), rel=1e-10)
        learning = tuple(inputs[:3])
        assert torch.autograd.gradcheck(lambda *u, z=inputs[3]: contrastive_memory([*u, z]), learning, fast_mode=True)
        assert torch.autograd.grad(value, inputs[3], allow_unused=True) == (None,)
    order = torch.tensor([3, 1, 0, 2, 4])
    moved = [*(one[order] for one in inputs[:3]), inputs[3]]
    assert number(contrastive_memory(moved)) == pytest.approx(number(value), rel=1e-12)


def test_contrast_is_that_of_a_batch_whose_negatives_are_given() -> None:
    source = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 3, generator=source, dtype=torch.float64) for _ in range(2))
    theirs, ours = (torch.randn(4, 7, 3, generator=source, dtype=torch.float64) for _ in range(2))
    s, t, n, m = (torch.nn.functional.normalize(one, dim=-1) for one in (student, teacher, theirs, ours))
    read = [(s * t).sum(-1), (n @ s.unsqueeze(-1)).squeeze(-1), (m @ t.unsqueeze(-1)).squeeze(-1)]
    found = contrastive_memory([*(one / 0.5 for one in read), torch.full((2,), math.log(1.7), dtype=torch.float64)])
    expected = losses.contrastive(student, teacher, tau=0.5, level=1.7, negatives=theirs, student_negatives=ours)
    assert number(found) == pytest.approx(number(expected), rel=1e-12)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e300])
def test_masked_rows_of_contrast_do_not_matter(garbage: float) -> None:
    inputs = similarities()
    left = [*(one[KEPT] for one in inputs[:3]), inputs[3]]
    spoiled = [torch.where(KEPT.view(-1, *[1] * (one.ndim - 1)), one, garbage).detach() for one in inputs[:3]]
    for one in spoiled:
        one.requires_grad_()
    found = contrastive_memory([*spoiled, inputs[3]], mask=KEPT)
    assert number(found) == pytest.approx(number(contrastive_memory(left)), rel=1e-12)
    for slope in torch.autograd.grad(found, spoiled):
        assert torch.isfinite(slope).all()
        assert not slope[~KEPT].any()
    assert number(contrastive_memory([*spoiled, inputs[3]], mask=torch.zeros_like(KEPT))) == 0.0
    with pytest.raises(InputError, match="mask"):
        contrastive_memory(inputs, mask=KEPT[:3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_contrast_is_finite_at_extremes(dtype: torch.dtype) -> None:
    for size in (0.0, 1e-4, 1.0, 3e3):
        inputs = [(one.detach() * size).to(dtype).requires_grad_() for one in similarities()]
        value = contrastive_memory(inputs)
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert all(torch.isfinite(slope).all() for slope in torch.autograd.grad(value, inputs[:3]))


def test_what_is_no_contrast_is_refused() -> None:
    right = similarities()
    wrong: list[Any] = [right[:3], right[0], [], [right[0][:2], *right[1:]], [*right[:2], right[2][:, :3], right[3]]]
    wrong += [[*right[:3], right[3][:1]], [right[0].long(), *right[1:]], [right[0], *[right[1][:, :0]] * 2, right[3]]]
    for one in wrong:
        refuse(contrastive_memory, one, says="no similarities with a memory")


def test_the_docstring_of_contrast() -> None:
    check_words(contrastive_memory)
    Contract().test_its_docstring_says_everything_in_order(Case(contrastive_memory, ()))


# ---- known numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # Every similarity at the level, in both directions.
        (lambda: contrastive_memory([torch.full((2,), 3.0), *[torch.full((2, 16384), 3.0)] * 2, torch.full((2,), 3.0)]),
         2 * 10.704091),
        (lambda: self_consistent(torch.tensor([[0.1, 0.2]]), torch.tensor([[0.2, 0.1]]), torch.zeros(2)), 1.237404),
        # Everything alike, whatever the other side says.
        (lambda: self_consistent(torch.zeros(3, 2), torch.randn(3, 2), torch.zeros(2)), math.log(2)),
        (lambda: seed_similarity(torch.zeros(3, WIDTH), torch.randn(3, WIDTH), ANCHORS), math.log(len(FILLED))),
        (lambda: compress_one_queue(torch.ones(3, WIDTH), torch.ones(3, WIDTH), ANCHORS), 0.0),
    ],
)  # fmt: skip
def test_known_numbers(found: Callable[[], Tensor], expected: float) -> None:
    assert number(found()) == pytest.approx(expected, abs=2e-6)


def test_a_centred_teacher_is_softmax_of_what_is_left() -> None:
    teacher = torch.tensor([[0.2, 0.1]], dtype=torch.float64)
    shares = torch.tensor([[0.924142, 0.075858]], dtype=torch.float64)
    student = torch.tensor([[0.1, 0.2]], dtype=torch.float64, requires_grad=True)
    value = self_consistent(student, teacher + 5.0, torch.full((2,), 5.0, dtype=torch.float64))
    (slope,) = torch.autograd.grad(value, student)
    expected = ((student / 0.1).softmax(-1) - shares).detach() / 0.1
    assert torch.allclose(slope, expected, atol=1e-5)


def test_what_is_not_filled_yet_counts_as_if_it_were_not_there() -> None:
    student, teacher = draw(CASES[0])
    for loss in (seed_similarity, compress_one_queue):
        whole, some = loss(student, teacher, ANCHORS), loss(student, teacher, ANCHORS[FILLED])
        assert number(whole) == pytest.approx(number(some), rel=1e-12)
    nothing = torch.full((4, WIDTH), math.nan)
    (slope,) = torch.autograd.grad(seed_similarity(student, teacher, nothing), student)
    assert not slope.any()


def test_the_least_value_of_seed_is_the_entropy_of_the_teacher() -> None:
    rows = draw(CASES[0])[1]
    assert isinstance(rows, Tensor)
    p = torch.stack([torch.from_numpy(alike(row, ANCHORS.numpy(), 0.3)) for row in rows.numpy()])
    entropy = -float((p * p.log()).sum(-1).mean())
    assert number(seed_similarity(rows, rows, ANCHORS, tau=0.3, teacher_tau=0.3)) == pytest.approx(entropy)
    for seed_ in range(10):
        other = draw(CASES[0], seed=seed_)[0]
        assert number(seed_similarity(other, rows, ANCHORS, tau=0.3, teacher_tau=0.3)) > entropy


def test_anchors_and_centres_that_do_not_fit_are_refused() -> None:
    student, teacher = draw(CASES[0])
    for loss in (seed_similarity, compress_one_queue):
        refuse(loss, student, teacher, ANCHORS[:, :4], says="anchors are no embeddings")
        refuse(loss, student, teacher, ANCHORS.long(), says="torch.int64")
        refuse(loss, student, teacher, ANCHORS[:0], says="(0, 6)")
    for wrong in (ANCHORS, [ANCHORS], [ANCHORS, ANCHORS[:4]], [ANCHORS, ANCHORS[:, :2]]):
        with pytest.raises(InputError, match="anchors"):
            compress_two_queues(student, teacher, wrong)
    for centre in (torch.zeros(4), torch.zeros(1), torch.zeros(WIDTH).long(), None):
        refuse(self_consistent, student, teacher, centre, says="the centre does not fit")


def test_a_part_of_the_logits_has_no_centre() -> None:
    student, teacher = draw(CASES[3])
    assert isinstance(teacher, Tensor)
    whole = number(self_consistent(student, teacher, ANCHORS[0]))
    assert number(self_consistent(student, top_k(teacher, WIDTH), ANCHORS[0])) == pytest.approx(whole)
    with pytest.raises(InputError, match="self_consistent reads every logit"):
        self_consistent(student, top_k(teacher, 3), ANCHORS[0])


def test_who_may_be_listened_to() -> None:
    assert not Term(self_consistent, source="ema").reads_teacher
    assert Term(self_consistent, source=Ema(0.5)).listens_to_others
    for loss in (seed_similarity, compress_two_queues, contrastive_memory):
        assert Term(loss, at="net.dropout").reads_teacher
        with pytest.raises(InputError, match="cannot tell"):
            Term(loss, at="net.dropout", source="ema")
