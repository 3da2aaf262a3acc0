"""Numbers known from outside this code, and identities between losses: a formula that drifts meets one of them."""

from __future__ import annotations

import inspect
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
    adaptive_kl,
    binary_cross_entropy,
    binary_soft_target,
    bounded_regression,
    cross_entropy,
    decoupled,
    dist,
    hard_label,
    jensen_shannon,
    logit_mse,
    margin_mse,
    multi_level,
    normalized,
    one_for_all,
    regression_mse,
    relaxed_ranking,
    reverse_soft_target,
    skewed,
    skewed_reverse,
    soft_target,
    standardized,
    teacher_free,
    transformed_teacher,
    weighted_soft_target,
    weighted_transformed_teacher,
)
from tutelage.losses.targets import top_k


def tensor(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# One example of four classes, and three of them.
T1, S1, Y1 = tensor([[3, 1, 0.2, -1]]), tensor([[1, 2, 0.5, 0]]), torch.tensor([0])
T3 = tensor([[3, 1, 0.2, -1], [0, 2, 1, 0], [-1, 0, 1, 2]])
S3 = tensor([[1, 2, 0.5, 0], [0.5, 1, 1, 0], [0, 0, 1, 1]])
Y3 = torch.tensor([0, 1, 3])
# Probabilities of teacher and student: their difference is 0.15 in the first class, 0.35 in the others.
SHARES_T, SHARES_S = tensor([[0.4, 0.3, 0.2, 0.1]]), tensor([[0.25, 0.35, 0.1, 0.3]])

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
        (normalized(S1, T1, Y1, gamma=0), 1.272998),
        (normalized(S1, T1, Y1, gamma=1) - normalized(S1, T1, Y1, gamma=0), 0.902485),
        (normalized(S1, T1, Y1), 2.626725),
        (one_for_all(S1, T1, Y1, gamma=1), 1.474687),
        (one_for_all(S1, T1, Y1), 2.308551),
        (multi_level(S3, T3, temperatures=[1], batch=0, classes=0), 0.400098),
        (multi_level(S3, T3, temperatures=[1], instance=0, classes=0), 0.074185),
        (multi_level(S3, T3, temperatures=[1], instance=0, batch=0), 0.119097),
        (transformed_teacher(S1, T1, temperature=2), 0.361842),
        (weighted_transformed_teacher(S1, T1, temperature=2), 0.574537),
        (weighted_transformed_teacher(S1, T1, temperature=2) / transformed_teacher(S1, T1, temperature=2), 1.587814),
        (soft_target(SHARES_S.log(), SHARES_T.log(), temperature=1), 0.170524),
        (reverse_soft_target(SHARES_S.log(), SHARES_T.log()), 0.196721),
        (adaptive_kl(SHARES_S.log(), SHARES_T.log()), 0.188862),
        (margin_mse(tensor([[4, 3]]), tensor([[5, 2]]), Y1), 4.0),
        (relaxed_ranking(tensor([[2, 1, 0, 0.5]]), tensor([[9, 8, 1, 0]]), top=2), 1.226276),
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


# The label and the others, weighed


def test_normalized_is_two_cross_entropies_and_falls_beyond_a_match() -> None:
    # At a match the value is −p log p and the entropy of the others, and certainty of the label is better still.
    p = T1.softmax(-1)[0]
    among = T1[:, 1:].softmax(-1)[0]
    at_match = -p[0] * p[0].log() - 1.5 * (among * among.log()).sum()
    assert float(normalized(T1, T1, Y1)) == pytest.approx(float(at_match), rel=1e-12)
    certain = T1 + tensor([[50, 0, 0, 0]])
    least = -1.5 * float((among * among.log()).sum())
    assert float(normalized(certain, T1, Y1)) == pytest.approx(least, rel=1e-9)
    assert least < float(at_match) - 0.1
    # Only the label's part pulls there: p_y (q − e_y).
    slope = gradient(lambda z: normalized(z, T1, Y1), T1)
    assert torch.allclose(slope[0], p[0] * (p - tensor([[1, 0, 0, 0]])[0]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_what_normalized_adds_to_the_others_of_decoupled_is_an_entropy(temperature: float) -> None:
    student, teacher, labels = random(6, 5), random(6, 5, seed=1), torch.tensor([0, 1, 2, 3, 4, 0])
    options = {"temperature": temperature}
    others = decoupled(student, teacher, labels, alpha=0.0, beta=1.0, **options)
    entropy = normalized(teacher, teacher, labels, gamma=1.0, **options) - normalized(
        teacher, teacher, labels, gamma=0.0
    )
    found = normalized(student, teacher, labels, gamma=1.0, **options) - normalized(student, teacher, labels, gamma=0.0)
    assert float(found - entropy) == pytest.approx(float(others), rel=1e-9)


def test_one_for_all_with_exponent_one_is_the_cross_entropy_with_the_teacher() -> None:
    student, teacher, labels = random(6, 5), random(6, 5, seed=1), torch.tensor([0, 1, 2, 3, 4, 0])
    expected = float(cross_entropy(student, teacher.softmax(-1)))
    assert float(one_for_all(student, teacher, labels, gamma=1.0)) == pytest.approx(expected, rel=1e-12)
    assert float(one_for_all(teacher, teacher, labels, gamma=1.0)) > 0.1


def test_the_weight_of_an_example_comes_from_both_cross_entropies() -> None:
    for own, theirs, weight in ((1.2, 0.3, 0.981684), (0.3, 1.2, 0.221199), (0.7, 0.9, 0.540574)):
        student, teacher = (tensor([[-told, math.log(-math.expm1(-told))]]) for told in (own, theirs))
        ratio = weighted_soft_target(student, teacher, Y1) / soft_target(student, teacher, temperature=2.0)
        assert float(ratio) == pytest.approx(weight, abs=PRINTED)


def test_the_weight_of_an_example_carries_no_gradient() -> None:
    student, teacher, labels = random(6, 5), random(6, 5, seed=1), torch.tensor([0, 1, 2, 3, 4, 0])
    for temperature in (1.0, 2.0, 4.0):
        own, theirs = (F.cross_entropy(z, labels, reduction="none") for z in (student, teacher))
        weight = (1 - (-own / theirs).exp()).unsqueeze(-1)
        expected = (
            weight * temperature * ((student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)) / 6
        )
        found = gradient(lambda z, t=temperature: weighted_soft_target(z, teacher, labels, temperature=t), student)
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("head", "share"), [(0.3, 0.3), (0.5, 0.3), (0.69, 0.3), (0.75, 0.4), (0.95, 0.6)])
def test_adaptive_kl_shares_by_the_error_in_the_head(head: float, share: float) -> None:
    # The head is the first class; with the second it holds 0.7, with the third 0.9.
    expected = share * 0.1705242 + (1 - share) * 0.1967210
    assert float(adaptive_kl(SHARES_S.log(), SHARES_T.log(), head=head)) == pytest.approx(expected, abs=PRINTED)


def test_the_share_of_adaptive_kl_carries_no_gradient() -> None:
    slope = gradient(lambda z: adaptive_kl(z, SHARES_T.log()), SHARES_S.log())
    log_ratio = (SHARES_S / SHARES_T).log()
    reverse = SHARES_S * (log_ratio - (SHARES_S * log_ratio).sum())
    assert torch.allclose(slope, 0.3 * (SHARES_S - SHARES_T) + 0.7 * reverse, rtol=1e-9, atol=1e-12)


# Without a teacher


def test_a_teacher_by_hand_is_softened_once() -> None:
    # Read back from the gradient of a flat student, T (1 / C − u). Code that puts probabilities through a softmax
    # at T = 20, as if they were logits, has a target that is almost uniform.
    flat, label = torch.zeros(1, 100, dtype=torch.float64), torch.tensor([0])
    slope = gradient(lambda z: teacher_free(z, label), flat)
    target = 0.01 - slope[0] / 20
    assert target[:2].tolist() == pytest.approx([0.015741, 0.009942], abs=PRINTED)
    u = torch.full((100,), 0.01 / 99, dtype=torch.float64)
    u[0] = 0.99
    assert target.tolist() == pytest.approx((u.log() / 20).softmax(-1).tolist(), rel=1e-9)
    assert (u / 20).softmax(-1)[:2].tolist() == pytest.approx([0.010502, 0.009995], abs=PRINTED)


def test_a_teacher_by_hand_at_temperature_one_is_label_smoothing() -> None:
    student, labels = random(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    smoothed = cross_entropy(student, labels, label_smoothing=0.1, smoothing="others")
    entropy = -0.9 * math.log(0.9) - 0.1 * math.log(0.1 / 4)
    found = teacher_free(student, labels, certainty=0.9, temperature=1.0)
    assert float(found) == pytest.approx(float(smoothed) - entropy, rel=1e-9)


# Temperatures


def test_the_transformed_teacher_is_a_power_and_the_student_stays() -> None:
    power = T1.softmax(-1).pow(0.5)
    power = power / power.sum()
    assert power[0].tolist() == pytest.approx([0.571490, 0.210239, 0.140928, 0.077343], abs=PRINTED)
    expected = soft_target(S1, power.log(), temperature=1.0)
    assert float(transformed_teacher(S1, T1, temperature=2.0)) == pytest.approx(float(expected), rel=1e-12)
    slope = gradient(lambda z: transformed_teacher(z, T1, temperature=2.0), S1)
    assert torch.allclose(slope, S1.softmax(-1) - power, rtol=1e-9, atol=1e-12)
    # Softening both, or multiplying by T², is another loss.
    assert float(soft_target(S1, T1, temperature=2.0)) > 2.5 * float(expected)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 10.0])
def test_the_transformed_teacher_is_distillation_and_an_entropy_of_renyi(temperature: float) -> None:
    order = 1 / temperature
    for seed in range(5):
        student, teacher = random(1, 5, seed=seed), random(1, 5, seed=seed + 9)
        p, q = (teacher / temperature).softmax(-1), student.softmax(-1)
        renyi = float(q.pow(order).sum().log()) / (1 - order)
        shannon = -float((p * p.log()).sum())
        divergence = float(soft_target(student, teacher, temperature=temperature)) / temperature**2
        expected = temperature * divergence - (temperature - 1) * (renyi - shannon)
        assert float(transformed_teacher(student, teacher, temperature=temperature)) == pytest.approx(
            expected, rel=1e-9
        )


def test_weights_of_the_transformed_teacher_are_one_for_certain_and_most_for_flat_answers() -> None:
    for teacher, weight in ((tensor([[900.0, 0, 0, 0]]), 1.0), (torch.zeros(1, 4, dtype=torch.float64), 4**0.9)):
        ratio = weighted_transformed_teacher(S1, teacher) / transformed_teacher(S1, teacher)
        assert float(ratio) == pytest.approx(weight, rel=1e-9)


def test_levels_add_up_over_temperatures() -> None:
    each = [multi_level(S3, T3, temperatures=[t]) for t in (2.0, 3.0, 4.0, 5.0, 6.0)]
    assert float(multi_level(S3, T3)) == pytest.approx(float(sum(each)), rel=1e-12)
    parts = [
        multi_level(S3, T3, **dict.fromkeys(("instance", "batch", "classes"), 0.0) | {name: weight})
        for name, weight in (("instance", 0.9), ("batch", 0.9), ("classes", 2.0))
    ]
    found = multi_level(S3, T3, instance=0.9, batch=0.9, classes=2.0)
    assert float(found) == pytest.approx(float(sum(parts)), rel=1e-12)


def test_levels_grow_with_the_batch() -> None:
    twice = torch.arange(3).repeat(2)
    for weights, factor in (({"classes": 0}, 2), ({"batch": 0}, 4)):
        small, large = (multi_level(s, t, instance=0, **weights) for s, t in ((S3, T3), (S3[twice], T3[twice])))
        assert float(large) == pytest.approx(factor * float(small), rel=1e-12)


def test_a_mask_after_the_mean_chooses_nothing() -> None:
    # Code that multiplies a batch's mean with a mask and averages again has a smaller weight, and no mask.
    sure = T3.softmax(-1).max(-1).values
    mask = sure <= sure.median()
    assert mask.tolist() == [False, True, True]
    after = (soft_target(S3, T3) * mask).mean()
    assert float(after) == pytest.approx(2 / 3 * 0.437174, abs=PRINTED)
    assert float(after) == pytest.approx(float((soft_target(S3, T3) * ~mask).mean()) * 2, rel=1e-12)
    assert float(soft_target(S3, T3, mask=mask)) == pytest.approx((0.162253 + 0.243666) / 2, abs=1e-6)


# Several labels, numbers, scores


def test_one_label_is_a_choice_between_two_classes() -> None:
    student, teacher = random(6, 1), random(6, 1, seed=1)
    two = [torch.cat([z, torch.zeros_like(z)], -1) for z in (student, teacher)]
    for temperature in (1.0, 4.0):
        expected = soft_target(*two, temperature=temperature)
        found = binary_soft_target(student, teacher, temperature=temperature)
        assert float(found) == pytest.approx(float(expected), rel=1e-9)
    labels = torch.tensor([0, 1, 1, 0, 1, 0])  # class 0 of the two is "yes"
    found = binary_cross_entropy(student, 1 - labels.unsqueeze(-1))
    assert float(found) == pytest.approx(float(cross_entropy(two[0], labels)), rel=1e-9)


def test_several_labels_are_the_sum_of_each() -> None:
    student, teacher = random(6, 5), random(6, 5, seed=1)
    each = [binary_soft_target(student[:, c : c + 1], teacher[:, c : c + 1], temperature=3.0) for c in range(5)]
    found = binary_soft_target(student, teacher, temperature=3.0)
    assert float(found) == pytest.approx(float(sum(each)), rel=1e-12)
    slope = gradient(lambda z: binary_soft_target(z, teacher, temperature=3.0), student)
    expected = 3.0 * ((student / 3.0).sigmoid() - (teacher / 3.0).sigmoid()) / 6
    assert torch.allclose(slope, expected, rtol=1e-9, atol=1e-12)
    # The joint answer of two independent labels, as one distribution over four outcomes.
    pairs = [torch.stack([z[:, 0] + z[:, 1], z[:, 0], z[:, 1], 0 * z[:, 0]], -1) for z in (student, teacher)]
    joint = soft_target(*pairs, temperature=1.0)
    assert float(binary_soft_target(student[:, :2], teacher[:, :2])) == pytest.approx(float(joint), rel=1e-9)


def test_a_softmax_does_not_see_how_many_labels_there_are() -> None:
    # "All of them" and "none of them" have the same softmax.
    everything, nothing = tensor([[5.0, 5, 5, 5]]), tensor([[-5.0, -5, -5, -5]])
    assert float(soft_target(nothing, everything, temperature=1.0)) == pytest.approx(0.0, abs=1e-15)
    assert float(binary_soft_target(nothing, everything)) == pytest.approx(4 * 5 * math.tanh(2.5), rel=1e-9)


def test_binary_cross_entropy_beside_that_of_torch() -> None:
    student, target = random(6, 5), random(6, 5, seed=1).sigmoid()
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0, 0.0], dtype=torch.float64)
    for options, theirs in (({}, {}), ({"positive_weights": weights}, {"pos_weight": weights})):
        mean = F.binary_cross_entropy_with_logits(student, target, **theirs)
        assert float(binary_cross_entropy(student, target, **options)) == pytest.approx(5 * float(mean), rel=1e-12)
    hard = target > 0.5
    expected = float(binary_cross_entropy(student, hard.double()))
    for kind in (torch.bool, torch.int64, torch.uint8, torch.float32):
        assert float(binary_cross_entropy(student, hard.to(kind))) == pytest.approx(expected, rel=1e-12)
    # With the teacher's probabilities it is the divergence and the teacher's entropy.
    teacher = random(6, 5, seed=2)
    p = teacher.sigmoid()
    rest = binary_cross_entropy(student, p) - binary_soft_target(student, teacher)
    assert float(rest) == pytest.approx(float(binary_cross_entropy(teacher, p)), rel=1e-9)


def test_a_sigmoid_twice_has_a_floor() -> None:
    # A model that ends in a sigmoid, and a loss that applies one: every perfect answer costs log(1 + 1/e) or log 2.
    perfect = tensor([[1, 0, 0, 1]])
    assert float(binary_cross_entropy(perfect, perfect)) == pytest.approx(2 * 0.313262 + 2 * 0.693147, abs=2e-6)
    assert float(binary_cross_entropy(perfect * 200 - 100, perfect)) == pytest.approx(0.0, abs=1e-12)


def test_numbers_of_another_shape_are_not_spread_into_a_table() -> None:
    outputs, target = tensor([[1], [2], [3]]), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert float((outputs - target).square().mean()) == pytest.approx(4 / 3)  # all pairs, although every one is right
    with pytest.raises(ValueError, match=r"target\.unsqueeze\(-1\)"):
        regression_mse(outputs, target)
    assert float(regression_mse(outputs, target.unsqueeze(-1))) == 0.0
    with pytest.raises(ValueError, match=r"target\.float\(\)"):
        regression_mse(outputs, torch.tensor([[1], [2], [3]]))


def test_numbers_against_a_teacher_are_logits_against_a_teacher() -> None:
    student, teacher = random(6, 5), random(6, 5, seed=1)
    assert float(regression_mse(student, teacher)) == pytest.approx(float(logit_mse(student, teacher)), rel=1e-12)
    assert float(regression_mse(student, teacher)) == pytest.approx(float(F.mse_loss(student, teacher)), rel=1e-12)


def test_the_teacher_bounds_the_error_and_is_never_copied() -> None:
    target = tensor([[0.0], [0.0], [0.0]])
    student, teacher = tensor([[1.0], [2.0], [-3.0]]), tensor([[2.0], [1.0], [3.0]])
    # Better than the teacher, worse, as bad: 0, 4 and 0, as it must be worse to count.
    assert float(bounded_regression(student, teacher, target)) == pytest.approx(4 / 3)
    assert float(bounded_regression(student, teacher, target, margin=0.5)) == pytest.approx((4 + 9) / 3)
    assert float(bounded_regression(student, teacher, target, margin=3.0)) == pytest.approx((4 + 9) / 3)
    assert float(bounded_regression(student, teacher, target, margin=3.1)) == pytest.approx((1 + 4 + 9) / 3)
    slope = gradient(lambda z: bounded_regression(z, teacher, target), student)
    assert slope[:, 0].tolist() == pytest.approx([0.0, 4 / 3, 0.0])  # towards the target, not to the teacher


def test_margins_do_not_see_a_number_added_to_a_query() -> None:
    student, teacher, labels = random(6, 5), random(6, 5, seed=1), torch.tensor([0, 1, 2, 3, 4, 0])
    moved = student + torch.arange(6, dtype=torch.float64).unsqueeze(-1)
    value = float(margin_mse(student, teacher, labels))
    assert float(margin_mse(moved, teacher, labels)) == pytest.approx(value, rel=1e-12)
    # One negative for each query, as the paper trains.
    two = margin_mse(student[:, :2], teacher[:, :2], torch.zeros(6, dtype=torch.int64))
    gaps = [z[:, 0] - z[:, 1] for z in (student, teacher)]
    assert float(two) == pytest.approx(float(F.mse_loss(*gaps)), rel=1e-12)


def test_only_the_order_of_the_best_matters() -> None:
    student, teacher = random(6, 5), random(6, 5, seed=1)
    value = float(relaxed_ranking(student, teacher, top=2))
    assert float(relaxed_ranking(student, teacher.exp() * 9, top=2)) == pytest.approx(value, rel=1e-12)
    # Behind the first two the teacher may have any order.
    bottom = teacher.argsort(dim=-1, descending=True)[:, 2:]
    changed = teacher.scatter(-1, bottom, teacher.gather(-1, bottom).flip(-1))
    assert float(relaxed_ranking(student, changed, top=2)) == pytest.approx(value, rel=1e-12)
    assert float(relaxed_ranking(student, changed)) != pytest.approx(float(relaxed_ranking(student, teacher)))
    # One place is the teacher's choice; the right order with wide gaps costs nothing, the wrong one most.
    assert float(relaxed_ranking(student, teacher, top=1)) == pytest.approx(float(hard_label(student, teacher)))
    places = teacher.argsort(dim=-1).argsort(dim=-1).double()
    assert float(relaxed_ranking(99 * places, teacher)) == pytest.approx(0.0, abs=1e-12)
    assert float(relaxed_ranking(-99 * places, teacher)) == pytest.approx(99 * (4 + 3 + 2 + 1), rel=1e-9)


@pytest.mark.parametrize(
    "loss", [binary_cross_entropy, binary_soft_target, bounded_regression, multi_level, normalized, adaptive_kl]
)
def test_autocast_changes_nothing(loss: Callable[..., Tensor]) -> None:
    values = {
        "student_logits": random(8, 5).float(),
        "teacher_logits": random(8, 5, seed=1).float(),
        "labels": torch.arange(8) % 5,
        "target": random(8, 5, seed=2).sigmoid().float(),
    }
    reads = [p.name for p in inspect.signature(loss).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    given_ = [values[name] for name in reads]
    plain = loss(*given_)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(*given_)
    assert float(found) == float(plain)
