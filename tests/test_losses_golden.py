"""Numbers known from outside this code, and identities between losses: a formula that drifts meets one of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tutelage.losses import (
    cross_entropy,
    decoupled,
    dist,
    hard_label,
    jensen_shannon,
    logit_mse,
    reverse_soft_target,
    skewed,
    skewed_reverse,
    soft_target,
    standardized,
)
from tutelage.losses.targets import top_k


def tensor(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# One example of four classes, and three of them.
T1, S1, Y1 = tensor([[3, 1, 0.2, -1]]), tensor([[1, 2, 0.5, 0]]), torch.tensor([0])
T3 = tensor([[3, 1, 0.2, -1], [0, 2, 1, 0], [-1, 0, 1, 2]])
S3 = tensor([[1, 2, 0.5, 0], [0.5, 1, 1, 0], [0, 0, 1, 1]])
Y3 = torch.tensor([0, 1, 3])

# Half of the last of six printed decimals, and a little for the rounding of that.
PRINTED = 5.1e-7


def random(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def gradient(loss: Callable[[Tensor], Tensor], student: Tensor) -> Tensor:
    student = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(student), student)
    return found


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1, 0.856988), (2, 0.967293), (4, 0.905603), (20, 0.792773), (1000, 0.759140)],
)
def test_soft_target_of_one_example(temperature: float, expected: float) -> None:
    assert float(soft_target(S1, T1, temperature=temperature)) == pytest.approx(expected, abs=PRINTED)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (soft_target(S1, T1, temperature=2) / 4, 0.241823),
        (soft_target(S1, T1, temperature=4) / 16, 0.056600),
        (cross_entropy(S1, Y1), 1.546006),
        (0.1 * cross_entropy(S1, Y1) + 0.9 * soft_target(S1, T1, temperature=4), 0.969643),
        (soft_target(S3[:1], T3[:1]), 0.905603),
        (soft_target(S3[1:2], T3[1:2]), 0.162253),
        (soft_target(S3[2:], T3[2:]), 0.243666),
        (soft_target(S3, T3), 0.437174),
        (soft_target(S3, T3, mask=torch.tensor([True, False, True]), temperature=1), 0.517531),
        (soft_target(S3, T3, temperature=1), 0.400098),
        (cross_entropy(S3, Y3), 1.214154),
        (0.1 * cross_entropy(S3, Y3) + 0.9 * soft_target(S3, T3), 0.514872),
        (hard_label(S1, T1), 1.546006),
        (cross_entropy(S1, Y1, label_smoothing=0.1), 1.558506),
        (cross_entropy(S1, Y1, label_smoothing=0.1, smoothing="others"), 1.562673),
        (logit_mse(S1, T1), 1.5225),
        (logit_mse(S1, T1) * 4, 6.09),
        (logit_mse(S1 + 5, T1), 27.2725),
        (decoupled(S1, T1, Y1, alpha=1, beta=0, temperature=1), 0.849135),
        (decoupled(S1, T1, Y1, alpha=0, beta=1, temperature=1), 0.044467),
        (decoupled(S1, T1, Y1, alpha=1, beta=0, temperature=4), 0.873633),
        (decoupled(S1, T1, Y1, alpha=0, beta=1, temperature=4), 0.053704),
        (decoupled(S1, T1, Y1, alpha=1, beta=8, temperature=4), 1.303265),
        (decoupled(S3, T3, Y3, alpha=1, beta=0, temperature=4), 0.399182),
        (decoupled(S3, T3, Y3, alpha=0, beta=1, temperature=4), 0.059736),
        (decoupled(S3, T3, Y3, alpha=1, beta=8, temperature=4), 0.877066),
        (dist(S3, T3, gamma=0), 0.492463),
        (dist(S3, T3, beta=0), 0.345111),
        (standardized(S1, T1, ddof=0), 0.629359),
        (standardized(S1, T1, ddof=1), 0.459235),
        (reverse_soft_target(S1, T1), 0.918527),
        (reverse_soft_target(S3, T3, temperature=4), 0.416847),
        (jensen_shannon(S1, T1), 0.203489),
        (jensen_shannon(S1, T1, mix=0.1), 0.075239),
        (jensen_shannon(S1, T1, mix=0.9), 0.079086),
        (jensen_shannon(S1, T1, mix=1e-4) / 1e-4, 0.856877),
        (jensen_shannon(S1, T1, mix=1 - 1e-4) / 1e-4, 0.918387),
        (skewed(S1, T1), 0.663433),
        (skewed_reverse(S1, T1), 0.685440),
    ],
)
def test_known_numbers(found: Tensor, expected: float) -> None:
    assert float(found) == pytest.approx(expected, abs=PRINTED)


def test_known_correlations() -> None:
    rows = [1 - float(dist(S3[i : i + 1], T3[i : i + 1], gamma=0)) for i in range(3)]
    assert rows == pytest.approx([-0.008920, 0.736409, 0.795122], abs=PRINTED)


def test_known_gradient_of_soft_target() -> None:
    found = gradient(lambda z: soft_target(z, T1, temperature=4), S1)
    assert found[0].tolist() == pytest.approx([-0.604922, 0.319980, 0.090864, 0.194078], abs=PRINTED)


# What the soft target is


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_the_gradient_of_soft_target_is_t_times_the_difference(temperature: float) -> None:
    student, teacher = random(6, 5), random(6, 5, seed=1)
    found = gradient(lambda z: soft_target(z, teacher, temperature=temperature), student)
    expected = temperature * ((student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)) / 6
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_at_high_temperature_soft_target_is_half_the_error_of_centred_logits() -> None:
    assert float(soft_target(S1, T1, temperature=1e5)) == pytest.approx(0.758437, abs=1e-5)
    student, teacher = random(6, 5), random(6, 5, seed=1)
    centred = (student - teacher) - (student - teacher).mean(-1, keepdim=True)
    assert float(soft_target(student, teacher, temperature=1e5)) == pytest.approx(
        float(logit_mse(centred, torch.zeros_like(centred))) / 2, rel=1e-4
    )
    slope = gradient(lambda z: soft_target(z, teacher, temperature=1e5), student)
    assert torch.allclose(slope, centred / 5 / 6, rtol=1e-3)


def test_t_squared_keeps_the_gradient_and_without_it_it_fades() -> None:
    kept, faded = [], []
    for temperature in (1.0, 2.0, 4.0, 8.0):
        size = float(gradient(lambda z, t=temperature: soft_target(z, T1, temperature=t), S1).norm())
        kept.append(size)
        faded.append(size / temperature**2)
    assert kept == pytest.approx([0.7756, 0.7801, 0.7171, 0.6697], abs=5.1e-5)
    assert faded == pytest.approx([0.7756, 0.1950, 0.0448, 0.0105], abs=5.1e-5)


def test_reverse_is_forward_with_the_roles_changed() -> None:
    student, teacher = random(6, 5), random(6, 5, seed=1)
    for temperature in (1.0, 4.0):
        forward = soft_target(teacher, student, temperature=temperature)
        assert float(reverse_soft_target(student, teacher, temperature=temperature)) == pytest.approx(float(forward))


def test_soft_target_is_cross_entropy_with_the_teacher_less_its_entropy() -> None:
    student, teacher = random(6, 5), random(6, 5, seed=1)
    p = teacher.softmax(-1)
    entropy = cross_entropy(teacher, p)
    expected = cross_entropy(student, p) - entropy
    assert float(soft_target(student, teacher, temperature=1.0)) == pytest.approx(float(expected))


# Mixtures


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), st.floats(0.01, 0.99), st.floats(0.1, 200.0), st.floats(1.0, 10.0))
def test_skewed_divergences_and_jensen_shannon_are_bounded(
    seed: int, share: float, scale: float, temperature: float
) -> None:
    student, teacher = random(4, 5, seed=seed, scale=scale), random(4, 5, seed=seed + 1, scale=scale)
    bound = -math.log(share) * temperature**2 * (1 + 1e-12)
    assert 0 <= float(skewed(student, teacher, skew=share, temperature=temperature)) <= bound
    assert 0 <= float(skewed_reverse(student, teacher, skew=share, temperature=temperature)) <= bound
    forward = float(soft_target(student, teacher, temperature=temperature))
    assert float(skewed(student, teacher, skew=share, temperature=temperature)) <= (1 - share) * forward + 1e-12
    mixed = float(jensen_shannon(student, teacher, mix=share, temperature=temperature))
    entropy = -share * math.log(share) - (1 - share) * math.log1p(-share)
    assert 0 <= mixed <= entropy * temperature**2 * (1 + 1e-12)


def test_jensen_shannon_changes_sides_with_its_mix() -> None:
    student, teacher = random(6, 5), random(6, 5, seed=1)
    one, other = jensen_shannon(student, teacher, mix=0.2), jensen_shannon(teacher, student, mix=0.8)
    assert float(one) == pytest.approx(float(other))
    far = tensor([[800.0, 0.0]])
    assert float(jensen_shannon(far, far.flip(-1))) == pytest.approx(math.log(2))


def test_small_skew_is_the_plain_divergence() -> None:
    student, teacher = random(6, 5), random(6, 5, seed=1)
    assert float(skewed(student, teacher, skew=1e-9)) == pytest.approx(
        float(soft_target(student, teacher, temperature=1.0)), rel=1e-6
    )
    assert float(skewed_reverse(student, teacher, skew=1e-9)) == pytest.approx(
        float(reverse_soft_target(student, teacher)), rel=1e-6
    )


# Decoupled


@pytest.mark.parametrize("temperature", [1.0, 4.0, 10.0])
def test_the_divergence_is_the_label_s_part_and_the_others_weighted(temperature: float) -> None:
    student, teacher = random(50, 7), random(50, 7, seed=1)
    labels = torch.arange(50) % 7
    for row in range(50):
        one = (student[row : row + 1], teacher[row : row + 1], labels[row : row + 1])
        p_y = float((one[1] / temperature).softmax(-1)[0, one[2]])
        whole = decoupled(*one, alpha=1.0, beta=1.0 - p_y, temperature=temperature)
        assert float(whole) == pytest.approx(float(soft_target(*one[:2], temperature=temperature)), rel=1e-9)


def test_the_others_part_does_not_see_the_label_s_logit() -> None:
    student, teacher = random(6, 5), random(6, 5, seed=1)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    raised = student.scatter_add(-1, labels.unsqueeze(-1), torch.full((6, 1), 9.0, dtype=torch.float64))
    before = decoupled(student, teacher, labels, alpha=0.0, beta=1.0)
    assert float(decoupled(raised, teacher, labels, alpha=0.0, beta=1.0)) == pytest.approx(float(before), rel=1e-12)
    slope = gradient(lambda z: decoupled(z, teacher, labels, alpha=0.0, beta=1.0), student)
    assert slope.gather(-1, labels.unsqueeze(-1)).abs().max() < 1e-15


@pytest.mark.parametrize("level", [0.0, -1e4])
def test_a_sure_teacher_keeps_its_ranking_of_the_others(level: float) -> None:
    # Subtracting a constant such as -1000 from the label's logit leaves it ahead; setting it to -1000 does at -1e4.
    teacher = torch.tensor([[2000.0, 2.0, 1.0, 0.0]]) + level
    student = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    labels = torch.tensor([0])
    found = decoupled(student, teacher, labels, alpha=0.0, beta=1.0, temperature=1.0)
    expected = soft_target(student[:, 1:], teacher[:, 1:], temperature=1.0)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    half = decoupled(student.half(), torch.tensor([[30.0, 0, 0, 0]]).half(), labels, temperature=1.0)
    assert torch.isfinite(half)


# Scale


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), st.floats(0.05, 50.0), st.floats(-100.0, 100.0), st.sampled_from([0, 1]))
def test_standardized_does_not_see_shift_and_scale(seed: int, scale: float, shift: float, ddof: int) -> None:
    student, teacher = random(4, 5, seed=seed), random(4, 5, seed=seed + 1)
    value = float(standardized(student, teacher, ddof=ddof))
    # Up to the 1e-7 that the equation adds to the spread.
    assert float(standardized(student * scale + shift, teacher, ddof=ddof)) == pytest.approx(value, rel=1e-4, abs=1e-5)
    assert float(standardized(student, teacher * scale + shift, ddof=ddof)) == pytest.approx(value, rel=1e-4, abs=1e-5)
    assert float(standardized(student * scale, student, ddof=ddof)) == pytest.approx(0.0, abs=1e-9)


def test_dist_does_not_see_shift_and_scale_of_probabilities() -> None:
    student, teacher = random(6, 5), random(6, 5, seed=1)
    p = teacher.softmax(-1)
    flatter = 0.4 * student.softmax(-1) + 0.6 / 5
    before, after = dist(student, teacher, gamma=0.0), dist(flatter.log(), teacher, gamma=0.0)
    assert float(after) == pytest.approx(float(before), rel=1e-9)
    towards_uniform = (0.3 * p + 0.7 / 5).log()
    assert float(dist(towards_uniform, teacher)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("loss", [standardized, dist])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("level", [0.0, 0.1, 1e4])
def test_a_flat_student_has_a_small_gradient_that_leads_out(
    loss: Callable[..., Tensor], dtype: torch.dtype, level: float
) -> None:
    # A last layer that starts at zero gives exactly this; dividing by its spread would make 1e7 of it, or nothing.
    teacher = random(8, 5, seed=1)
    student = torch.full((8, 5), level, dtype=dtype)
    slope = gradient(lambda z: loss(z, teacher.to(dtype)), student)
    assert 1e-3 < float(slope.double().norm()) < 10
    moved = student.double() - 0.1 * slope.double()
    assert float(loss(moved, teacher)) < float(loss(student.double(), teacher))


def test_dist_takes_classes_of_hardly_any_probability() -> None:
    for level in (-20.0, -30.0, -40.0, -44.0, -46.0, -48.0, -60.0, -90.0):
        student, teacher = random(8, 5, scale=0.5).float(), random(8, 5, seed=1).float()
        student[:, 0] += level
        value = float(dist(student, teacher))
        assert 0 <= value <= 4
        assert torch.isfinite(gradient(lambda z, t=teacher: dist(z, t), student)).all()


# Labels


def test_label_smoothing_over_all_classes_is_that_of_torch() -> None:
    logits, labels = random(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    for epsilon in (0.0, 0.1, 0.5):
        expected = F.cross_entropy(logits, labels, label_smoothing=epsilon)
        assert float(cross_entropy(logits, labels, label_smoothing=epsilon)) == pytest.approx(float(expected))
    # The two definitions are one with another ε: ε on the others alone is ε C / (C − 1) on all.
    others = cross_entropy(logits, labels, label_smoothing=0.1, smoothing="others")
    assert float(others) == pytest.approx(float(cross_entropy(logits, labels, label_smoothing=0.1 * 5 / 4)))


def test_label_smoothing_is_distillation_from_the_uniform_distribution() -> None:
    logits, labels = random(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    uniform = soft_target(logits, torch.zeros_like(logits), temperature=1.0) + math.log(5)
    expected = 0.9 * cross_entropy(logits, labels) + 0.1 * uniform
    assert float(cross_entropy(logits, labels, label_smoothing=0.1)) == pytest.approx(float(expected))


def test_class_weights_beside_those_of_torch() -> None:
    logits, labels = random(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0, 0.0], dtype=torch.float64)
    ours = cross_entropy(logits, labels, class_weights=weights)
    per_row = F.cross_entropy(logits, labels, reduction="none")
    assert float(ours) == pytest.approx(float((weights[labels] * per_row).mean()))
    # PyTorch divides by the weights of the batch, so each gradient depends on the neighbours' classes.
    for epsilon in (0.0, 0.1):
        theirs = F.cross_entropy(logits, labels, weight=weights, label_smoothing=epsilon)
        mine = cross_entropy(logits, labels, class_weights=weights, label_smoothing=epsilon)
        assert float(mine) == pytest.approx(float(theirs * weights[labels].mean()))
    shares = random(6, 5, seed=2).softmax(-1)
    assert float(cross_entropy(logits, shares, class_weights=weights)) == pytest.approx(
        float(F.cross_entropy(logits, shares, weight=weights))
    )


def test_an_example_s_gradient_does_not_depend_on_its_neighbours() -> None:
    logits, weights = random(4, 5), torch.tensor([0.1, 1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    slopes = [
        gradient(lambda z, n=other: cross_entropy(z, torch.tensor([2, n, n, n]), class_weights=weights), logits)[0]
        for other in (0, 4)
    ]
    assert torch.equal(*slopes)


def test_one_hot_probabilities_are_labels() -> None:
    logits, labels = random(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    one_hot = F.one_hot(labels, 5).double()
    for epsilon in (0.0, 0.2):
        assert float(cross_entropy(logits, one_hot, label_smoothing=epsilon)) == pytest.approx(
            float(cross_entropy(logits, labels, label_smoothing=epsilon))
        )


# Top-k


def test_the_tail_keeps_what_renormalising_would_lose() -> None:
    kept = top_k(T1, 2)
    assert float(soft_target(S1, kept, temperature=1.0)) == pytest.approx(0.853811, abs=PRINTED)
    renormalised = soft_target(S1, T1.masked_fill(T1 < 1, -1e9), temperature=1.0)
    assert float(renormalised) == pytest.approx(1.061470, abs=PRINTED)
    assert float(soft_target(S1, kept, temperature=1.0)) < 0.856988


@pytest.mark.parametrize("loss", [soft_target, reverse_soft_target, jensen_shannon, skewed, skewed_reverse])
def test_more_kept_classes_see_more(loss: Callable[..., Tensor]) -> None:
    student, teacher = random(20, 9), random(20, 9, seed=1)
    values = [float(loss(student, top_k(teacher, k, temperature=2.0), temperature=2.0)) for k in range(1, 10)]
    assert all(more >= fewer - 1e-12 for fewer, more in itertools.pairwise(values))
    assert values[0] < 0.9 * values[-1]
    assert values[-1] == float(loss(student, teacher, temperature=2.0))


def test_top_k_of_a_student_that_agrees_is_zero() -> None:
    teacher = random(20, 9, seed=1)
    for k in (1, 3, 8):
        assert float(soft_target(teacher, top_k(teacher, k, temperature=4.0))) == pytest.approx(0.0, abs=1e-12)
