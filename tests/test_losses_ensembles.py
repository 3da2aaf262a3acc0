"""The two losses that read what each member says: against their equations in float64, and the loss contract."""

from __future__ import annotations

import doctest
import inspect
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor, nn

import tutelage.losses.ensembles as ensembles
from ensemble_parts import (
    CLASSES,
    PRINTED,
    Array,
    batch,
    smalls,
    softmax,
    stack,
)
from tutelage import losses
from tutelage.distiller import Distiller
from tutelage.errors import InputError
from tutelage.losses.ensembles import adaptive_ensemble, ensemble_distribution, least_norm_weights
from tutelage.teachers import EnsembleTeacher


def test_known_numbers_of_the_least_norm() -> None:
    weights = least_norm_weights(torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64))
    assert weights.tolist() == pytest.approx([0.8, 0.2], abs=1e-9)
    assert (weights @ torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)).tolist() == pytest.approx([0.8, 0.4])


def gap(vectors: Tensor, weights: Tensor, most: float) -> float:
    """How much a shift of weight from one vector to another could still gain, by size of the longest; 0 at the best."""
    unit = vectors / vectors.norm(dim=-1).amax().clamp(min=1e-300)
    pulls = unit @ (weights @ unit)
    may_rise = weights < most - 1e-9
    return float(pulls[weights > 1e-9].max() - pulls[may_rise].min()) if bool(may_rise.any()) else 0.0


@pytest.mark.parametrize("size", [1e-5, 1e4])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
def test_least_norm_weights_are_feasible_and_cannot_be_bettered(count: int, size: float) -> None:
    for seed, width in enumerate([1, 2, 3, 10, 200]):
        drawn = stack(1, count, seed=seed, classes=max(width, 2))[0][:, :width] * size
        near = drawn[:1] + 1e-3 * drawn
        twins = drawn[torch.arange(count) // 2]
        apart = drawn * torch.logspace(0, 3, count, dtype=torch.float64).unsqueeze(-1)
        for vectors in (drawn, drawn.abs(), near, twins, apart):
            for most in {1.0, min(1.0, 0.6 + 0.4 / count), min(1.0, 2 / count), min(1.0, 1.5 / count), 1 / count}:
                weights = least_norm_weights(vectors, most=most)
                assert float(weights.sum()) == pytest.approx(1.0, abs=1e-10)
                assert float(weights.min()) >= -1e-12
                assert float(weights.max()) <= most + 1e-10
                assert gap(vectors, weights, most) < 1e-9


def test_least_norm_weights_agree_with_a_general_solver() -> None:
    for seed in range(10):
        vectors = stack(1, 4, seed=seed, classes=6)[0] + 0.5
        for most in (1.0, 0.5, 0.3):
            table = (vectors @ vectors.mT).numpy()
            solved = optimize.minimize(
                lambda a, g=table: a @ g @ a, np.full(4, 0.25), jac=lambda a, g=table: 2 * g @ a, method="SLSQP",
                bounds=[(0, most)] * 4, constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
                options={"ftol": 1e-14, "maxiter": 500},
            )  # fmt: skip
            assert least_norm_weights(vectors, most=most).numpy() == pytest.approx(solved.x, abs=1e-5)


def test_where_several_weights_are_best_they_are_even() -> None:
    one = stack(1, 1)[0]
    assert least_norm_weights(one.expand(4, -1)).tolist() == pytest.approx([0.25] * 4, abs=1e-3)
    assert least_norm_weights(torch.zeros(3, 5)).tolist() == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert least_norm_weights(torch.full((3, 5), math.nan)).tolist() == pytest.approx([1 / 3] * 3)


# The adaptive ensemble


def test_its_value_and_gradient_are_weighted_soft_targets() -> None:
    logits = stack(3)
    student = stack(1, seed=5)[0].requires_grad_()
    for temperature in (1.0, 4.0):
        value = adaptive_ensemble(student, logits, temperature=temperature)
        each = [losses.soft_target(student, one, temperature=temperature) for one in logits]
        slopes = torch.stack([torch.autograd.grad(one, student, retain_graph=True)[0].flatten() for one in each])
        weights = least_norm_weights(slopes)
        assert float(value.detach()) == pytest.approx(float((weights * torch.stack(each)).sum().detach()))
        (found,) = torch.autograd.grad(value, student)
        assert torch.allclose(found.flatten(), weights @ slopes, rtol=1e-8, atol=1e-12)
        # No other mean of these gradients is shorter.
        for other in (*torch.eye(3, dtype=torch.float64), torch.full((3,), 1 / 3, dtype=torch.float64)):
            assert found.norm() <= (other @ slopes).norm() + 1e-12


def test_a_step_lowers_the_loss_of_every_member_where_the_mean_s_does_not() -> None:
    student = torch.zeros(2, CLASSES, dtype=torch.float64, requires_grad=True)
    # Many that want one thing, and one that wants almost the opposite.
    logits = torch.zeros(4, 2, CLASSES, dtype=torch.float64)
    logits[:3, :, 0], logits[3, :, 0], logits[3, :, 1] = 2.0, -1.0, 0.5

    def changes(loss: Tensor) -> list[float]:
        (slope,) = torch.autograd.grad(loss, student)
        moved = student.detach() - 1e-3 * slope
        return [float(losses.soft_target(moved, z) - losses.soft_target(student.detach(), z)) for z in logits]

    assert max(changes(adaptive_ensemble(student, logits))) < 0
    mean = torch.stack([losses.soft_target(student, one) for one in logits]).mean()
    assert max(changes(mean)) > 0


def test_between_members_that_pull_apart_nothing_moves() -> None:
    logits = torch.tensor([[[0.9, 0.1]], [[0.4, 0.6]]], dtype=torch.float64).log()
    student = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    value = adaptive_ensemble(student, logits, temperature=1.0)
    (slope,) = torch.autograd.grad(value, student)
    assert slope.abs().max() < 1e-9
    # Even odds are a fifth of the first and four fifths of the second.
    apart = 0.2 * math.log(2 * 0.9**0.9 * 0.1**0.1) + 0.8 * math.log(2 * 0.4**0.4 * 0.6**0.6)
    assert float(value.detach()) == pytest.approx(apart, rel=1e-6)


def test_its_limits_are_one_teacher_and_the_plain_mean() -> None:
    logits, student = stack(3), stack(1, seed=5)[0]
    each = [float(losses.soft_target(student, one)) for one in logits]
    assert float(adaptive_ensemble(student, logits[:1])) == pytest.approx(each[0], rel=1e-12)
    assert float(adaptive_ensemble(student, logits, most=1 / 3)) == pytest.approx(sum(each) / 3, rel=1e-12)
    assert float(adaptive_ensemble(student, student.expand(3, -1, -1))) == pytest.approx(0.0, abs=1e-14)
    same = adaptive_ensemble(student, logits[:1].expand(3, -1, -1))
    assert float(same) == pytest.approx(each[0], rel=1e-10)


# The distribution of members


def reference_distribution(student: Array, logits: Array, smoothing: float, temperature: float) -> float:
    total = 0.0
    for said in logits:
        for z, row in zip(student, said, strict=True):
            pi = (1 - smoothing) * softmax(row, temperature) + smoothing / len(row)
            total -= stats.dirichlet.logpdf(pi / pi.sum(), np.exp(z / temperature))
    return total / logits.shape[0] / logits.shape[1]


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.0}, {"smoothing": 0.2, "temperature": 3.0}])
def test_it_is_the_negative_log_density_of_a_dirichlet_distribution(options: dict[str, float]) -> None:
    for seed in range(5):
        logits, student = stack(4, seed=seed), stack(1, seed=seed + 9)[0] * 2
        expected = reference_distribution(
            student.numpy(), logits.numpy(), options.get("smoothing", 1e-4), options.get("temperature", 1.0)
        )
        assert float(ensemble_distribution(student, logits, **options)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("alpha", "expected"), [((2.0, 1.0, 1.0), -1.098612), ((1.0, 1.0, 1.0), -0.693147)])
def test_known_numbers_of_the_distribution(alpha: tuple[float, ...], expected: float) -> None:
    student = torch.tensor([alpha], dtype=torch.float64).log()
    logits = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().expand(2, 1, 3)
    assert float(ensemble_distribution(student, logits, smoothing=0.0)) == pytest.approx(expected, abs=PRINTED)
    assert student.softmax(-1)[0].tolist() == pytest.approx([one / sum(alpha) for one in alpha])


def test_a_student_finds_the_distribution_that_its_teachers_come_from() -> None:
    alpha = np.array([6.0, 3.0, 1.0])
    drawn = np.random.default_rng(0).dirichlet(alpha, size=2000)
    logits = torch.from_numpy(drawn).log().unsqueeze(1)
    student = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    finder = torch.optim.LBFGS([student], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        finder.zero_grad()
        loss = ensemble_distribution(student, logits, smoothing=0.0)
        loss.backward()
        return loss

    finder.step(closure)
    # The standard errors of α from 2,000 draws are some 2 % of it.
    assert student.detach().exp()[0].numpy() == pytest.approx(alpha, rel=0.08)


@pytest.mark.parametrize("certain", [1e-3, 1.0, 1e3, 1e6])
def test_single_precision_is_enough_however_certain_the_student_is(certain: float) -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    logits = (p.log() + 0.3 * stack(5, 1)[:, 0] / math.sqrt(certain)).unsqueeze(1)
    student = (p * certain).log().unsqueeze(0)
    exact, found = (
        ensemble_distribution(student.to(kind), logits.to(kind), smoothing=0.0)
        for kind in (torch.float64, torch.float32)
    )
    # A logarithm of probability is rounded by some 1e-7, and counts as often as the student is certain.
    assert float(found) == pytest.approx(float(exact), rel=1e-5, abs=3e-7 * certain)


# What both losses keep

BOTH = [adaptive_ensemble, ensemble_distribution]
both = pytest.mark.parametrize("loss", BOTH, ids=lambda loss: loss.__name__)
Loss = Callable[..., Tensor]


def test_gradients_match_finite_differences() -> None:
    logits, student = stack(3), stack(1, seed=5)[0].requires_grad_()
    mask = torch.tensor([True, False, True, True, False, True])
    for options in ({}, {"mask": mask}, {"smoothing": 0.0, "temperature": 5.0}):
        assert torch.autograd.gradcheck(lambda z, o=options: ensemble_distribution(z, logits, **o), (student,))
    # With weights held even, the other one's slope is that of its value as well.
    for options in ({}, {"mask": mask}):
        assert torch.autograd.gradcheck(lambda z, o=options: adaptive_ensemble(z, logits, most=1 / 3, **o), (student,))


@both
def test_no_gradient_reaches_the_members(loss: Loss) -> None:
    logits, student = stack(3).requires_grad_(), stack(1, seed=5)[0].requires_grad_()
    loss(student, logits).backward()
    assert logits.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


@both
def test_orders_and_leading_dimensions_do_not_matter(loss: Loss) -> None:
    logits, student = stack(3), stack(1, seed=5)[0]
    value = float(loss(student, logits))
    rows, who, classes = torch.tensor([3, 1, 5, 0, 2, 4]), torch.tensor([2, 0, 1]), torch.tensor([1, 3, 0, 2])
    for moved, others in (
        (student[rows], logits[:, rows]),
        (student, logits[who]),
        (student[:, classes], logits[..., classes]),
        (student.view(2, 3, CLASSES), logits.view(3, 2, 3, CLASSES)),
        (student.repeat(2, 1), logits.repeat(1, 2, 1)),
    ):
        assert float(loss(moved, others)) == pytest.approx(value, rel=1e-9)


@both
def test_masked_rows_may_hold_anything(loss: Loss) -> None:
    logits, student = stack(3), stack(1, seed=5)[0]
    mask = torch.tensor([True, False, True, True, False, True])
    spoiled, others = student.clone(), logits.clone()
    spoiled[~mask], others[:, ~mask] = math.nan, math.inf
    spoiled.requires_grad_()
    value = loss(spoiled, others, mask=mask)
    assert float(value.detach()) == pytest.approx(float(loss(student[mask], logits[:, mask])), rel=1e-10)
    (slope,) = torch.autograd.grad(value, spoiled)
    assert slope.isfinite().all()
    assert not slope[~mask].any()
    nobody = loss(student.clone().requires_grad_(), logits, mask=torch.zeros(6, dtype=torch.bool))
    assert float(nobody.detach()) == 0.0
    assert nobody.requires_grad


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_value_and_gradient_are_finite_at_extremes(loss: Loss, dtype: torch.dtype) -> None:
    rows = [[1e4, -1e4, 0.0, 0.0], [1e4] * 4, [-1e4] * 4, [0.0] * 4, [1.0, 2.0, 0.5, -1.0], [60.0, 0.0, 90.0, -90.0]]
    kinds = torch.tensor(rows, dtype=dtype)
    student = kinds.repeat_interleave(6, 0)
    logits = torch.stack([kinds.repeat(6, 1), kinds.roll(1, 0).repeat(6, 1), kinds.repeat(6, 1)])
    for index in (torch.arange(36), *torch.arange(36).unsqueeze(-1)):
        some = student[index].requires_grad_()
        value = loss(some, logits[:, index])
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.isfinite(value)
        with torch.autograd.set_detect_anomaly(True):
            (slope,) = torch.autograd.grad(value, some)
        assert slope.isfinite().all()


@both
def test_half_precision_and_autocast_are_computed_in_single(loss: Loss) -> None:
    logits, student = stack(3).bfloat16(), stack(1, seed=5)[0].bfloat16()
    value = loss(student, logits)
    assert value.dtype == torch.float32
    assert float(value) == float(loss(student.float(), logits.float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert float(loss(student.float(), logits.float())) == pytest.approx(float(value), rel=1e-5)


@both
def test_what_does_not_belong_together_is_refused(loss: Loss) -> None:
    logits, student = stack(3), stack(1, seed=5)[0]
    for wrong, others in (
        (student, logits[0]),
        (student, logits[:, :5]),
        (student, logits[..., :3]),
        (student, logits[:0]),
        (student, logits.long()),
        (student, list(logits)),
        (student.long(), logits),
    ):
        with pytest.raises(InputError) as caught:
            loss(wrong, others)
        assert caught.value.problem.given
        assert caught.value.problem.expected
    for options in ({"temperature": 0.0}, {"temperature": math.nan}, {"mask": torch.ones(5, dtype=torch.bool)}):
        with pytest.raises(InputError):
            loss(student, logits, **options)


def test_options_out_of_range_are_refused() -> None:
    logits, student = stack(3), stack(1, seed=5)[0]
    for most in (0.3, 1.1, 0.0, math.nan):
        with pytest.raises(InputError, match=r"0\.3333 … 1"):
            adaptive_ensemble(student, logits, most=most)
    for smoothing in (-0.1, 1.0, math.nan):
        with pytest.raises(InputError, match="smoothing"):
            ensemble_distribution(student, logits, smoothing=smoothing)
    with pytest.raises(InputError, match="M ≥ 2"):
        ensemble_distribution(student, logits[:1])


@both
def test_its_docstring_says_everything_in_order(loss: Loss) -> None:
    text = inspect.getdoc(loss)
    assert text is not None
    assert re.search(r"\(…, C\) and \(M, …, C\) → \(\)\.$", text.splitlines()[0])
    headings = ["Equation", "Use", "Args", "Returns", "Raises", "Example", "Reference"]
    assert re.findall(r"^(\w+):$", text, re.MULTILINE) == headings
    arguments = re.findall(r"^    (\w+): ", text[text.index("Args:") : text.index("Returns:")], re.MULTILINE)
    assert arguments == list(inspect.signature(loss).parameters)
    assert arguments[:2] == ["student_logits", "teacher_members"]
    assert arguments[-1] == "mask"


def test_the_examples_of_the_docstrings_run() -> None:
    for function in (*BOTH, least_norm_weights):
        (found,) = doctest.DocTestFinder(recurse=False).find(function, function.__name__, globs=dict(vars(ensembles)))
        assert found.examples
        assert doctest.DocTestRunner(verbose=False).run(found).failed == 0


@both
def test_an_ensemble_s_answer_is_what_it_reads(loss: Loss) -> None:
    teacher = EnsembleTeacher(smalls())
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    said = teacher.answer(batch()).members
    value = loss(student(batch().inputs["x"]), said)
    value.backward()
    assert student[1].weight.grad is not None
    assert student[1].weight.grad.abs().sum() > 0


def test_an_objective_hands_the_members_over() -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    said = EnsembleTeacher(smalls()).answer(batch()).members
    step = Distiller(student, EnsembleTeacher(smalls()), BOTH)(batch())
    step.loss.backward()
    for loss in BOTH:
        expected = float(loss(student(batch().inputs["x"]).detach(), said))
        assert float(step.parts[loss.__name__]) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InputError, match="answers as one") as caught:
        Distiller(student, smalls()[0], BOTH)(batch())
    assert "ensemble" in str(caught.value)
