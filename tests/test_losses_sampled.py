"""Soft targets from drawn classes: value and gradient of the shares that were drawn, right in the mean over draws."""

from __future__ import annotations

import importlib.util
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage import losses
from tutelage.errors import InputError
from tutelage.losses import soft_target
from tutelage.losses.chunking import chunked
from tutelage.losses.targets import top_k
from tutelage.objective import Objective, Term
from tutelage.store import codec_of
from tutelage.types import Batch, Logits, Outputs, Sampled

_FOUND = importlib.util.spec_from_file_location("reference_losses", Path(__file__).with_name("reference_losses.py"))
assert _FOUND is not None
assert _FOUND.loader is not None
reference = importlib.util.module_from_spec(_FOUND)
_FOUND.loader.exec_module(reference)

Array = np.ndarray

READ_TEACHER = [
    name for name in losses.__all__ if "teacher_logits" in inspect.signature(getattr(losses, name)).parameters
]


def random(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def sampled(logits: Tensor, draws: int = 16, temperature: float = 1.0, *, first: int = 0) -> Sampled:
    """Drawn as a store draws them; sixteenths, so that shares are exact in float32."""
    ids = torch.arange(first, first + len(logits))
    codec = codec_of(f"sample-{draws}", temperature)
    found = codec.decode(codec.encode(logits.float(), ids, 0), logits.shape[-1])
    assert isinstance(found, Sampled)
    return found


def shares_of(drawn: Sampled) -> Array:
    """The shares of all classes, (B, C)."""
    shares = np.zeros((len(drawn.indices), drawn.classes))
    np.add.at(
        shares, (np.arange(len(shares))[:, None], drawn.indices.numpy()), drawn.weights.double().numpy()
    )  # fmt: skip
    return shares


def reference_value(student: Tensor, shares: Array, temperature: float) -> float:
    """T² · mean over rows of Σ w (log w − log q), where a share of 0 adds nothing."""
    q = reference.softmax(student.numpy(), temperature)
    total = 0.0
    for row, own in zip(shares, q, strict=True):
        total += sum(w * (math.log(w) - math.log(c)) for w, c in zip(row, own, strict=True) if w > 0)
    return temperature**2 * total / len(shares)


def gradient(student: Tensor, teacher: Logits, **options: object) -> Tensor:
    student = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(soft_target(student, teacher, **options), student)  # type: ignore[arg-type]
    return found


# By hand

# Two rows of four classes: shares 3/4, 1/4, 0, 0 and 1/2, 0, 1/2, 0. What stands where nothing was drawn is class 0.
HAND = Sampled(
    torch.tensor([[0, 1, 0], [0, 2, 0]]), torch.tensor([[0.75, 0.25, 0.0], [0.5, 0.5, 0.0]]), 4, temperature=1.0
)
FLAT = torch.zeros(2, 4, dtype=torch.float64)


def test_values_by_hand() -> None:
    # q is 1/4 everywhere. Row 1: 3/4 log 3 + 1/4 log 1. Row 2: log 2.
    expected = (0.75 * math.log(3) + math.log(2)) / 2
    assert float(soft_target(FLAT, HAND, temperature=1.0)) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(0.758553, abs=5.1e-7)
    # At T = 2 a flat student is the same distribution: four times the value.
    warm = Sampled(HAND.indices, HAND.weights, 4, temperature=2.0)
    assert float(soft_target(FLAT, warm, temperature=2.0)) == pytest.approx(4 * expected, rel=1e-12)


def test_gradients_by_hand() -> None:
    # T (q − w) / B: for T = 1 half of 1/4 − 3/4, and so on.
    expected = [[-0.25, 0.0, 0.125, 0.125], [-0.125, 0.125, -0.125, 0.125]]
    assert gradient(FLAT, HAND, temperature=1.0).tolist() == expected
    warm = Sampled(HAND.indices, HAND.weights, 4, temperature=2.0)
    assert (gradient(FLAT, warm, temperature=2.0) / 2).tolist() == expected


def test_four_draws_of_a_known_distribution() -> None:
    # softmax(2, 0, 0, 0) is e² / (e² + 3) = 0.711235 and three times 0.096255. Of four draws 2.84 and 0.385 each are
    # expected: the first class comes twice or three times, the others once or not at all.
    drawn = sampled(torch.tensor([[2.0, 0.0, 0.0, 0.0]]).repeat(4000, 1), draws=4)
    shares = shares_of(drawn)
    assert set(np.unique(shares[:, 0])) == {0.5, 0.75}
    assert set(np.unique(shares[:, 1:])) == {0.0, 0.25}
    mean = shares.mean(0)
    assert mean[0] == pytest.approx(0.711235, abs=5 * math.sqrt(0.845 * 0.155 / 4000) / 4)
    assert mean[1:] == pytest.approx([0.096255] * 3, abs=5 * math.sqrt(0.385 * 0.615 / 4000) / 4)


# Against the reference


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("rows", "classes", "draws"), [(1, 2, 1), (5, 4, 16), (9, 300, 64), (3, 10, 256)])
def test_the_value_is_the_divergence_from_the_shares(rows: int, classes: int, draws: int, temperature: float) -> None:
    student, drawn = random(rows, classes, seed=1), sampled(random(rows, classes), draws, temperature)
    expected = reference_value(student, shares_of(drawn), temperature)
    assert float(soft_target(student, drawn, temperature=temperature)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_is_0_where_the_student_answers_the_shares_and_above_elsewhere(temperature: float) -> None:
    drawn = sampled(random(6, 5, scale=0.5), 16, temperature)
    shares = torch.from_numpy(shares_of(drawn))
    # A student that gives nothing to what was not drawn: e^-60 is nothing beside a sixteenth.
    match = temperature * torch.where(shares > 0, shares.clamp(min=1e-9).log(), -60.0)
    assert float(soft_target(match, drawn, temperature=temperature)) == pytest.approx(0.0, abs=1e-12)
    assert float(gradient(match, drawn, temperature=temperature).abs().max()) < 1e-12
    for seed in range(5):
        moved = match + random(6, 5, seed=seed, scale=0.3)
        assert float(soft_target(moved, drawn, temperature=temperature)) > 1e-4 * temperature**2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_gradient_is_t_times_the_difference(temperature: float) -> None:
    student, drawn = random(6, 5, seed=1), sampled(random(6, 5), 16, temperature)
    q = reference.softmax(student.numpy(), temperature)
    expected = temperature * (q - shares_of(drawn)) / 6
    assert gradient(student, drawn, temperature=temperature).numpy() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_gradient_is_that_of_finite_differences(temperature: float) -> None:
    student, drawn = random(3, 4, seed=1), sampled(random(3, 4), 16, temperature)
    found = gradient(student, drawn, temperature=temperature)
    for place in np.ndindex(3, 4):
        step = torch.zeros(3, 4, dtype=torch.float64)
        step[place] = 1e-5
        ahead, behind = (float(soft_target(student + s, drawn, temperature=temperature)) for s in (step, -step))
        assert float(found[place]) == pytest.approx((ahead - behind) / 2e-5, abs=1e-8)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_many_draws_give_the_gradient_of_all_logits(temperature: float) -> None:
    rows, draws = 8000, 8
    teacher, student = random(1, 20), random(1, 20, seed=1)
    drawn = sampled(teacher.repeat(rows, 1), draws, temperature)
    # Every row has the gradient T (q − w) / rows: their sum is the mean over the draws.
    mean = gradient(student.repeat(rows, 1), drawn, temperature=temperature).sum(0).numpy()
    whole = gradient(student, teacher, temperature=temperature)[0].numpy()
    p = reference.softmax(teacher.numpy(), temperature)[0]
    fraction = draws * p % 1.0
    error = temperature * np.sqrt(fraction * (1 - fraction) / rows) / draws
    # Codecs read float32 logits.
    assert (np.abs(mean - whole) <= 5 * error + 1e-6).all()

    # The k largest, made a distribution again, are another target, however many there are of it.
    largest = np.sort(p)[-draws:].min()
    shrunk = np.where(p >= largest, p, 0.0) / p[p >= largest].sum()
    biased = temperature * (reference.softmax(student.numpy(), temperature)[0] - shrunk)
    assert np.abs(biased - whole).max() > 20 * error.max()


def test_no_gradient_reaches_the_teacher() -> None:
    weights = HAND.weights.clone().requires_grad_()
    student = FLAT.clone().requires_grad_()
    soft_target(student, Sampled(HAND.indices, weights, 4), temperature=1.0).backward()
    assert weights.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_students_are_computed_in_float32(dtype: torch.dtype) -> None:
    student, drawn = random(6, 5).to(dtype), sampled(random(6, 5, seed=1))
    found = soft_target(student, drawn, temperature=1.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, soft_target(student.float(), drawn, temperature=1.0))


def test_extreme_students_have_a_finite_loss() -> None:
    drawn = sampled(random(4, 5))
    for size in (0.0, 1e-20, 1e3, 1e30):
        student = (random(4, 5, seed=2) * size).float()
        assert bool(soft_target(student, drawn, temperature=1.0).isfinite())
        assert bool(gradient(student, drawn, temperature=1.0).isfinite().all())


# Masks


def test_rows_that_do_not_count_may_hold_anything() -> None:
    student, drawn = random(6, 5, seed=1), sampled(random(6, 5))
    mask = torch.tensor([True, False, True, True, False, True])
    spoiled = student.clone()
    spoiled[~mask] = torch.tensor([math.nan, math.inf, -math.inf, 0.0, 1.0], dtype=torch.float64)
    weights, indices = drawn.weights.clone(), drawn.indices.clone()
    weights[~mask], indices[~mask] = math.nan, 999
    teacher = Sampled(indices, weights, 5)
    kept = Sampled(drawn.indices[mask], drawn.weights[mask], 5)
    found = soft_target(spoiled, teacher, temperature=1.0, mask=mask)
    assert float(found) == pytest.approx(float(soft_target(student[mask], kept, temperature=1.0)), rel=1e-12)
    slope = gradient(spoiled, teacher, temperature=1.0, mask=mask)
    assert bool((slope[~mask] == 0).all())
    assert torch.allclose(slope[mask], gradient(student[mask], kept, temperature=1.0), rtol=1e-12, atol=0)


def test_without_any_row_it_is_0_with_a_graph() -> None:
    student = random(3, 4).requires_grad_()
    value = soft_target(student, sampled(random(3, 4)), temperature=1.0, mask=torch.zeros(3, dtype=torch.bool))
    assert float(value.detach()) == 0.0
    value.backward()
    assert student.grad is not None
    assert not student.grad.any()


def test_leading_dimensions_are_rows() -> None:
    student, drawn = random(6, 5, seed=1), sampled(random(6, 5))
    folded = Sampled(drawn.indices.reshape(2, 3, -1), drawn.weights.reshape(2, 3, -1), 5)
    whole = soft_target(student, drawn, temperature=1.0)
    assert torch.allclose(soft_target(student.reshape(2, 3, 5), folded, temperature=1.0), whole, rtol=1e-12)
    single = Sampled(drawn.indices[0], drawn.weights[0], 5)
    expected = reference_value(student[:1], shares_of(drawn)[:1], 1.0)
    assert float(soft_target(student[0], single, temperature=1.0)) == pytest.approx(expected, rel=1e-9)


# In chunks


def partial(kind: str, logits: Tensor, temperature: float) -> Logits:
    if kind == "sampled":
        return sampled(logits, 16, temperature)
    return top_k(logits, 3 if kind == "top-3" else logits.shape[-1], temperature=temperature)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("kind", ["sampled", "top-3", "top-all"])
@pytest.mark.parametrize("masked", [False, True])
def test_chunks_add_up(masked: bool, kind: str, rows: int) -> None:
    student, teacher = random(7, 6, seed=1), partial(kind, random(7, 6), 2.0)
    mask = torch.tensor([True, True, False, True, False, False, True]) if masked else None
    cut = chunked(soft_target, rows)
    found, whole = (loss(student, teacher, temperature=2.0, mask=mask) for loss in (cut, soft_target))
    assert float(found) == pytest.approx(float(whole), rel=1e-12)
    slopes = []
    for loss in (cut, soft_target):
        own = student.clone().requires_grad_()
        loss(own, teacher, temperature=2.0, mask=mask).backward()
        assert own.grad is not None
        slopes.append(own.grad)
    assert torch.allclose(*slopes, rtol=1e-12, atol=1e-15)


def test_chunks_keep_leading_dimensions_and_temperature() -> None:
    student, drawn = random(8, 5, seed=1), sampled(random(8, 5), 16, 3.0)
    folded = Sampled(drawn.indices.reshape(2, 4, -1), drawn.weights.reshape(2, 4, -1), 5, 3.0)
    found = chunked(soft_target, 3)(student.reshape(2, 4, 5), folded, temperature=3.0)
    assert float(found) == pytest.approx(float(soft_target(student, drawn, temperature=3.0)), rel=1e-12)
    with pytest.raises(InputError, match="drawn at another temperature"):
        chunked(soft_target, 3)(student, drawn, temperature=1.0)


def test_chunks_of_other_rows_are_refused() -> None:
    with pytest.raises(InputError, match="do not have the same rows"):
        chunked(soft_target, 2)(random(6, 5), sampled(random(5, 5)), temperature=1.0)


# What is refused


def test_draws_at_another_temperature_are_refused() -> None:
    with pytest.raises(InputError, match="drawn at another temperature") as caught:
        soft_target(random(3, 4), sampled(random(3, 4), temperature=2.0), temperature=4.0)
    assert caught.value.problem.given == "drawn at 2, read at 4"


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_none(temperature: float) -> None:
    drawn = Sampled(HAND.indices, HAND.weights, 4, temperature)
    with pytest.raises(InputError, match="temperature must be a finite number above 0"):
        soft_target(FLAT, drawn, temperature=temperature)


@pytest.mark.parametrize(
    ("student", "indices", "weights", "classes"),
    [
        ((3, 4), (3, 2), (3, 2), 5),
        ((3, 4), (2, 2), (2, 2), 4),
        ((3, 4), (3, 2), (3, 3), 4),
        ((3, 4), (3, 1, 2), (3, 1, 2), 4),
        ((4,), (3, 2), (3, 2), 4),
        ((2, 3, 4), (3, 2, 2), (3, 2, 2), 4),
    ],
)
def test_shapes_that_do_not_belong_together(
    student: tuple[int, ...], indices: tuple[int, ...], weights: tuple[int, ...], classes: int
) -> None:
    drawn = Sampled(torch.zeros(indices, dtype=torch.int64), torch.full(weights, 0.5), classes)
    with pytest.raises(InputError, match="do not belong together") as caught:
        soft_target(torch.zeros(student), drawn, temperature=1.0)
    assert str(student) in str(caught.value)
    assert f"{classes} classes" in str(caught.value)


@pytest.mark.parametrize("mask", [torch.ones(2, dtype=torch.bool), torch.ones(3), torch.ones(3, 4, dtype=torch.bool)])
def test_masks_that_do_not_fit(mask: Tensor) -> None:
    with pytest.raises(InputError, match="mask does not fit"):
        soft_target(random(3, 4), sampled(random(3, 4)), temperature=1.0, mask=mask)


def test_students_that_are_no_logits() -> None:
    with pytest.raises(InputError, match="student_logits cannot be logits"):
        soft_target(torch.zeros(2, 4, dtype=torch.int64), HAND, temperature=1.0)


def test_the_losses_that_read_a_teacher_are_those_we_know() -> None:
    assert len(READ_TEACHER) == 31
    assert "soft_target" in READ_TEACHER


# These are soft targets on other inputs, so they read what `soft_target` reads.
MADE_OF_IT = {"soft_target", "adversarially_robust", "introspective", "robust_soft_label"}


@pytest.mark.parametrize("name", [name for name in READ_TEACHER if name not in MADE_OF_IT])
def test_every_other_loss_refuses_drawn_classes(name: str) -> None:
    loss = getattr(losses, name)
    logits, drawn, labels = random(3, 4), sampled(random(3, 4)), torch.zeros(3, dtype=torch.int64)
    target = random(3, 4) if name == "bounded_regression" else labels  # which is about numbers
    values = {"student_logits": logits, "teacher_logits": drawn, "labels": labels, "target": target}
    values |= {"progress": 0.2, "temperature_parameter": torch.tensor(1.0), "centre": torch.zeros(4)}
    values |= {"judged": [random(3)] * 3, "regressed": [random(3, 2), logits], "teacher_feature": random(3, 2)}
    parameters = inspect.signature(loss).parameters.values()
    given = [values[p.name] for p in parameters if p.kind is not p.KEYWORD_ONLY]
    options = {"temperature": 1.0} if "temperature" in inspect.signature(loss).parameters else {}
    with pytest.raises(InputError) as caught:
        loss(*given, **options)
    # They say what they would read, or who reads drawn classes.
    assert "all logits" in str(caught.value) or "soft_target" in str(caught.value)
    assert "drawn" in str(caught.value)


def test_an_objective_reads_drawn_classes() -> None:
    student, drawn = random(3, 4).float(), sampled(random(3, 4), temperature=4.0)
    batch = Batch(torch.arange(3), {}, torch.tensor([0, 1, 2]))
    step = Objective([Term(soft_target, weight=0.5, temperature=4.0)])(Outputs(student), Outputs(drawn), batch)
    assert float(step.loss) == pytest.approx(0.5 * float(soft_target(student, drawn)), rel=1e-6)
