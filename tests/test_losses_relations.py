"""Losses on relations of examples: the contract for each, known numbers, and what their equations promise."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.losses import relations
from tutelage.losses.contrastive import contrastive, info_nce
from tutelage.losses.relations import (
    correlation_congruence,
    probabilistic_transfer,
    relational_angle,
    relational_distance,
    similarity_preserving,
)

pytest.register_assert_rewrite("feature_contract")
import feature_references as reference  # noqa: E402
from feature_contract import EXAMPLES, Case, Contract, gradients, number, refuse  # noqa: E402

ANY = (((6,), (4,)), ((3, 2, 2), (5, 3)), ((4, 5), (2, 3, 3)))
EQUAL = (((6,), (6,)), ((2, 3), (2, 3)), ((2, 3, 2), (2, 3, 2)))
RELATIONS = [
    correlation_congruence,
    probabilistic_transfer,
    relational_angle,
    relational_distance,
    similarity_preserving,
]
NUMBERS = (0.0, -1.0, math.nan, math.inf)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensor(rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


SHARED, OWN = random(7, 6, seed=5), random(EXAMPLES, 3, 6, seed=6)
CASES = [
    Case(
        correlation_congruence,
        ANY,
        ({"gamma": 1.0}, {"gamma": 150.0}, {"order": 5}),
        (*[{"gamma": bad} for bad in NUMBERS], {"order": 0}, {"order": 21}, {"order": 2.0}),
    ),
    Case(probabilistic_transfer, ANY),
    Case(relational_angle, ANY),
    Case(relational_distance, ANY),
    Case(similarity_preserving, ANY),
    Case(
        contrastive,
        EQUAL,
        (
            {"tau": 0.5, "level": 2.0},
            {"tau": 0.5, "level": 2.0, "negatives": SHARED},
            {"tau": 0.5, "level": 0.7, "negatives": OWN, "student_negatives": SHARED},
        ),
        (*[{"tau": bad} for bad in NUMBERS], *[{"level": bad} for bad in NUMBERS],
         {"negatives": torch.zeros(7, 5)}, {"negatives": torch.zeros(4, 3, 6)}, {"student_negatives": SHARED}),
        zero=False,
        needs={"level": 2.0},
    ),
    Case(
        info_nce,
        EQUAL,
        ({"tau": 0.5}, {"tau": 0.5, "negatives": SHARED}, {"tau": 0.5, "negatives": OWN}),
        (*[{"tau": bad} for bad in NUMBERS], {"negatives": torch.zeros(7, 5)}, {"negatives": torch.zeros(4, 3, 6)}),
        zero=False,
    ),
]  # fmt: skip
PRINTED = 5.1e-7

# Three examples, as vectors from the origin and as points.
T, S = tensor([[1, 0], [1, 1], [0, 2]]), tensor([[1, 1], [2, 0], [0, 1]])
POINTS_T, POINTS_S = tensor([[0, 0], [3, 4], [6, 0]]), tensor([[0, 0], [1, 0], [0, 1]])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestContract(Contract):
    """Every loss of this file's cases."""


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (relational_distance(POINTS_S, POINTS_T), 0.017472),
        (relational_distance(POINTS_S, POINTS_T) * 9, 0.157244),
        (relational_angle(POINTS_S, POINTS_T), 0.020515),
        (relational_angle(POINTS_S, POINTS_T) * 27, 0.553892),
        (similarity_preserving(S, T), 0.150973),
        (correlation_congruence(S, T), 0.047254),
        (probabilistic_transfer(S, T), 0.045115),
        (probabilistic_transfer(S, T) / 3, 0.015038),
        # 16384 negatives that all look like the right one.
        (contrastive(tensor([[1]]), tensor([[2]]), negatives=torch.ones(16384, 1)), 10.704091),
        (info_nce(tensor([[1]]), tensor([[2]]), negatives=torch.ones(16384, 1)), 9.704122),
    ],
)
def test_known_numbers(found: Tensor, expected: float) -> None:
    assert float(found) == pytest.approx(expected, abs=PRINTED)


# What is not seen


@pytest.mark.parametrize("loss", RELATIONS)
def test_rotation_and_size_are_not_seen(loss: Callable[..., Tensor]) -> None:
    student, teacher = random(6, 5), random(6, 4, seed=1)
    turned, _ = torch.linalg.qr(random(5, 5, seed=2))
    value = number(loss(student, teacher))
    assert value > 1e-4
    for factor in (1e-9, 3.0, 1e6):
        assert number(loss(factor * student @ turned, teacher)) == pytest.approx(value, rel=1e-8)
        assert number(loss(student, factor * teacher)) == pytest.approx(value, rel=1e-8)
    assert number(loss(3.0 * teacher @ turned[:4], teacher)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("loss", [relational_distance, relational_angle])
def test_a_shift_of_all_examples_is_not_seen(loss: Callable[..., Tensor]) -> None:
    student, teacher = random(6, 5), random(6, 4, seed=1)
    assert number(loss(student + 7.0, teacher - 3.0)) == pytest.approx(number(loss(student, teacher)), rel=1e-8)
    # And in single precision, far from the origin, little is lost: distances are taken from differences.
    near, far = student.float(), student.float() + 256.0
    exact = number(loss(far.double(), teacher))
    assert number(loss(far, teacher.float())) == pytest.approx(exact, rel=1e-4)
    assert number(loss(near, teacher.float())) == pytest.approx(number(loss(student, teacher)), rel=1e-4)


@pytest.mark.parametrize("loss", [correlation_congruence, probabilistic_transfer, contrastive, info_nce])
def test_the_size_of_single_examples_is_not_seen(loss: Callable[..., Tensor]) -> None:
    student, teacher = random(6, 5), random(6, 5, seed=1)
    factors = torch.logspace(-6, 6, 6, dtype=torch.float64).unsqueeze(-1)
    assert number(loss(student * factors, teacher)) == pytest.approx(number(loss(student, teacher)), rel=1e-9)


# Edges


@pytest.mark.parametrize("loss", [*RELATIONS, contrastive, info_nce])
def test_a_single_example_has_no_relations(loss: Callable[..., Tensor]) -> None:
    student = random(1, 5).requires_grad_()
    value = loss(student, random(1, 5, seed=1))
    assert number(value) == pytest.approx(0.0, abs=1e-12)
    assert float(torch.autograd.grad(value, student)[0].abs().max()) < 1e-9
    # And one that is left by a mask is single too.
    batch = random(4, 5).requires_grad_()
    value = loss(batch, random(4, 5, seed=1), mask=torch.tensor([False, True, False, False]))
    assert number(value) == pytest.approx(0.0, abs=1e-12)
    assert float(torch.autograd.grad(value, batch)[0].abs().max()) < 1e-9


@pytest.mark.parametrize("loss", [relational_distance, relational_angle])
def test_examples_that_coincide_have_a_finite_gradient(loss: Callable[..., Tensor]) -> None:
    student = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 0.1], [1.0, 2.0]], requires_grad=True)
    value = loss(student, torch.randn(4, 3))
    assert torch.isfinite(value)
    for slope in gradients(value, student):
        assert torch.isfinite(slope).all()
        assert 0 < float(slope.abs().max()) < 100
    alike = torch.ones(4, 2, requires_grad=True)
    assert torch.isfinite(gradients(loss(alike, torch.randn(4, 3)), alike)[0]).all()


def test_opposite_examples_are_nobody_s_neighbours() -> None:
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-2.0, 0.0]], requires_grad=True)
    value = probabilistic_transfer(student, torch.ones(3, 2))
    assert 1.0 < number(value) < 20.0
    assert torch.isfinite(gradients(value, student)[0]).all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", [relational_distance, relational_angle])
def test_a_few_vertices_at_a_time_give_the_same(
    loss: Callable[..., Tensor], masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = random(7, 5).requires_grad_(), random(7, 4, seed=1)
    mask = torch.arange(7) != 2 if masked else None
    whole = loss(student, teacher, mask=mask)
    expected = gradients(whole, student)[0]
    for held in (1, 2 * 7 * 7, 3 * 7 * 7):
        monkeypatch.setattr(relations, "_HELD", held)
        parts = loss(student, teacher, mask=mask)
        assert number(parts) == pytest.approx(number(whole), rel=1e-12)
        assert torch.allclose(gradients(parts, student)[0], expected, rtol=1e-10, atol=1e-14)


def test_angles_of_many_examples_do_not_hold_all_triples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "_HELD", 4 * 32 * 32)
    student, teacher = torch.randn(32, 6, requires_grad=True), torch.randn(32, 6)
    held: list[int] = []

    def pack(one: Tensor) -> Tensor:
        held.append(one.numel())
        return one

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
        value = relational_angle(student, teacher)
    assert sum(held) < 32 * 32 * 8 < 32**3
    assert torch.isfinite(gradients(value, student)[0]).all()


# Kernels


def test_the_series_ends_at_the_gaussian_kernel() -> None:
    student, teacher = random(6, 5), random(6, 5, seed=1)
    kernels = []
    for rows in (student, teacher):
        directions = rows / rows.norm(dim=-1, keepdim=True)
        kernels.append((-0.4 * torch.cdist(directions, directions).square()).exp())
    expected = float((kernels[0] - kernels[1]).square().mean())
    assert number(correlation_congruence(student, teacher, order=20)) == pytest.approx(expected, rel=1e-9)
    assert number(correlation_congruence(student, teacher, order=1)) != pytest.approx(expected, rel=1e-2)


def test_twice_the_batch_halves_similarity_preserving() -> None:
    student, teacher = random(5, 4), random(5, 4, seed=1)
    doubled = similarity_preserving(student.repeat(2, 1), teacher.repeat(2, 1))
    assert number(doubled) == pytest.approx(number(similarity_preserving(student, teacher)) / 2, rel=1e-12)


# Contrast


def test_the_level_of_a_batch_is_a_constant() -> None:
    student, teacher = random(5, 4).requires_grad_(), random(5, 4, seed=1)
    ours, theirs = (one / one.norm(dim=-1, keepdim=True) for one in (student.detach(), teacher))
    level = float((ours @ theirs.T / 0.5).exp().mean())
    free, fixed = contrastive(student, teacher, tau=0.5), contrastive(student, teacher, tau=0.5, level=level)
    assert number(free) == pytest.approx(number(fixed), rel=1e-12)
    assert torch.allclose(gradients(free, student)[0], gradients(fixed, student)[0], rtol=1e-10)


def test_in_the_batch_the_others_are_the_negatives() -> None:
    student, teacher = random(5, 4), random(5, 4, seed=1)
    others = torch.stack([torch.cat([teacher[:i], teacher[i + 1 :]]) for i in range(5)])
    inside, outside = info_nce(student, teacher), info_nce(student, teacher, negatives=others)
    assert number(inside) == pytest.approx(number(outside), rel=1e-12)
    ours = torch.stack([torch.cat([student[:i], student[i + 1 :]]) for i in range(5)])
    options = {"tau": 0.3, "level": 1.5}
    inside = contrastive(student, teacher, **options)
    outside = contrastive(student, teacher, negatives=others, student_negatives=ours, **options)
    assert number(inside) == pytest.approx(number(outside), rel=1e-12)


@pytest.mark.parametrize("loss", [contrastive, info_nce])
def test_the_right_partner_is_found(loss: Callable[..., Tensor]) -> None:
    teacher = torch.eye(6, dtype=torch.float64)
    assert number(loss(teacher, teacher)) < 1e-3 + number(loss(teacher.roll(1, 0), teacher)) / 10
    student = random(6, 6).requires_grad_()
    for _ in range(60):
        (slope,) = torch.autograd.grad(loss(student, teacher, tau=0.5), student)
        student = (student.detach() - 2.0 * slope).requires_grad_()
    found = torch.nn.functional.normalize(student.detach(), dim=-1) @ teacher
    assert found.argmax(-1).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("loss", [contrastive, info_nce])
def test_no_gradient_reaches_negatives(loss: Callable[..., Tensor]) -> None:
    negatives = SHARED.clone().requires_grad_()
    loss(random(5, 6).requires_grad_(), random(5, 6, seed=1), negatives=negatives).backward()
    assert negatives.grad is None
    refuse(loss, random(5, 6), random(5, 6), negatives=SHARED.long(), says="torch.int64")


def test_references_agree_with_another_library() -> None:
    # The references themselves, once, against code that is not ours.
    from scipy.spatial.distance import cdist
    from sklearn.metrics.pairwise import cosine_similarity

    rows = random(6, 4).numpy()
    assert np.allclose(reference.cosines(rows), cosine_similarity(rows))
    distances = cdist(rows, rows)
    found = reference.relational_distance(rows, np.zeros((6, 1)) + np.arange(6)[:, None])
    line = np.abs(np.subtract.outer(np.arange(6), np.arange(6))).astype(float)
    ours, theirs = (one / one[one > 0].mean() for one in (distances, line))
    huber = torch.nn.functional.huber_loss(torch.from_numpy(ours), torch.from_numpy(theirs))
    assert found == pytest.approx(float(huber))
