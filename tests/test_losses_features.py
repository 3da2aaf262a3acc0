"""Losses on features: the contract for each, numbers known from outside this code, and what their equations promise."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.features import attention_transfer, factor_transfer, flow, hint, neuron_selectivity
from tutelage.losses.features_targets import activation_boundary, negative_mean, overhaul, variational
from tutelage.losses.features_transformer import (
    attention_kl,
    attention_mse,
    cosine_hidden,
    hidden_mse,
    patient,
    relation_kl,
)

pytest.register_assert_rewrite("feature_contract")
from feature_contract import Case, Contract, draw, gradients, number, refuse  # noqa: E402

VECTORS, TOKENS, MAPS = (6,), (4, 6), (6, 3, 4)
EQUAL = ((MAPS, MAPS), (TOKENS, TOKENS), (VECTORS, VECTORS))
LAYERS = [(4, 6), (4, 3)]
HEADS = [(2, 4, 4), (2, 4, 4), (3, 4, 4)]
PER_CHANNEL = torch.linspace(-2.0, 1.0, 6, dtype=torch.float64)

CASES = [
    Case(hint, EQUAL, ({"whiten": True},), tokens="rows"),
    Case(
        attention_transfer,
        (((3, 3, 4), (2, 3, 4)), ((3, 5, 4), (4, 3, 2)), ((2, 2, 5), (4, 4, 4)), ((4, 3), (4, 5))),
        ({"power": 1.0}, {"power": 4.0}, {"distance": "norm"}),
        (*[{"power": bad} for bad in (0.5, math.nan, math.inf)], {"distance": "cosine"}),
    ),
    Case(
        flow,
        (
            ([(3, 4, 4), (4, 4, 4), (2, 2, 3)], [(3, 4, 4), (4, 4, 4), (2, 2, 3)]),
            ([(3, 4, 4), (2, 2, 3)], [(3, 5, 3), (2, 5, 3)]),
            ([(4, 6), (4, 3)], [(4, 6), (4, 3)]),
        ),
    ),
    Case(neuron_selectivity, (((3, 4, 5), (4, 4, 5)), ((6, 2, 3), (3, 3, 2)), ((7, 3), (7, 5)))),
    Case(factor_transfer, EQUAL),
    Case(
        activation_boundary,
        EQUAL,
        ({"margin": 0.3},),
        tuple({"margin": bad} for bad in (0.0, -1.0, math.nan, math.inf)),
        zero=False,
    ),
    Case(
        overhaul,
        EQUAL,
        ({"margin": -0.8}, {"margin": 0.0}, {"margin": PER_CHANNEL - 1.5}),
        (
            *[{"margin": bad} for bad in (0.1, math.nan, -math.inf)],
            {"margin": torch.zeros(5)},
            {"margin": torch.zeros(6, dtype=torch.int64)},
        ),
    ),
    Case(
        variational,
        EQUAL,
        ({"log_variance": PER_CHANNEL}, {"log_variance": PER_CHANNEL - 20.0}),
        ({"log_variance": torch.zeros(5)}, {"log_variance": torch.zeros(6, dtype=torch.int64)}),
        zero=False,
        tokens="rows",
    ),
    Case(hidden_mse, ((LAYERS, LAYERS), ([VECTORS], [VECTORS])), tokens="rows"),
    Case(cosine_hidden, ((TOKENS, TOKENS), (VECTORS, VECTORS)), tokens="rows"),
    Case(patient, ((LAYERS, LAYERS), ([VECTORS], [VECTORS]))),
    Case(attention_mse, ((HEADS, HEADS),), tokens="both"),
    Case(attention_kl, ((HEADS, HEADS),), ({"given": "scores"},), ({"given": "logits"},), maps=True, tokens="both"),
    Case(
        relation_kl,
        (((4, 6), (4, 12)), ((5, 12), (5, 6))),
        ({"heads": 3}, {"heads": 2}),
        ({"heads": 0}, {"heads": 4}, {"heads": 12}, {"heads": -1}, {"heads": 2.0}),
        tokens="both",
    ),
]
# Half of the last of six printed decimals, and a little for the rounding of that.
PRINTED = 5.1e-7


def tensor(rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Two channels of two places.
T, S = tensor([[[[1, 2]], [[2, 0]]]]), tensor([[[[1, 1]], [[1, 0]]]])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestContract(Contract):
    """Every loss of this file's cases."""


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (hint(S, T), 0.5),
        (hint(S, T) * S.numel() / 2, 1.0),
        (attention_transfer(S, T), 0.022198),
        (attention_transfer(S, T, distance="norm"), 0.210702),
        (flow([S, tensor([[[[0, 1]], [[1, 0]]]])], [T, tensor([[[[1, 0]], [[1, 1]]]])]), 0.5625),
        (neuron_selectivity(S, T), 0.05),
        (activation_boundary(tensor([[0.5, -2, 0.2, 3]]), tensor([[1, -1, -0.5, 2]])), 1.69),
        (overhaul(tensor([[0.5, -2, -0.3, 0.2, -1.5]]), tensor([[1, -1, -0.5, -2, -0.1]]), margin=-0.8), 1.29),
        (negative_mean(tensor([0.0]), tensor([1.0])), -0.797885),
        (negative_mean(tensor([1.0]), tensor([2.0])), -1.282156),
        # What some code calls by this name: the paraphrased feature is the attention of T and of S.
        (factor_transfer(tensor([[2, 1]]), tensor([[5, 4]])), 0.145520),
        (variational(tensor([[1]]), tensor([[3]])), 1.204719),
        (variational(tensor([[1]]), tensor([[3]]), log_variance=tensor([math.log(4 - 1e-5)])), 1.193147),
        (relation_kl(tensor([[[1, 1], [0, 1]]]), torch.eye(2, dtype=torch.float64).unsqueeze(0)), 0.029400),
        (cosine_hidden(tensor([[1, 2, 2]]), tensor([[2, 0, 1]])), 0.403715),
        (patient([tensor([[1, 2, 2]])], [tensor([[2, 0, 1]])]), 0.807430),
    ],
)
def test_known_numbers(found: Tensor, expected: float) -> None:
    assert float(found) == pytest.approx(expected, abs=PRINTED)


# What is not seen


@pytest.mark.parametrize("loss", [attention_transfer, neuron_selectivity, factor_transfer])
def test_the_size_of_an_example_is_not_seen(loss: Callable[..., Tensor]) -> None:
    student, teacher = random(4, 3, 5, 5), random(4, 3, 5, 5, seed=1)
    factors = tensor([1e-6, 0.1, 30.0, 1e6]).reshape(4, 1, 1, 1)
    value = number(loss(student, teacher))
    assert number(loss(student * factors, teacher)) == pytest.approx(value, rel=1e-9)
    assert number(loss(student, teacher * factors)) == pytest.approx(value, rel=1e-9)
    assert number(loss(student * factors, student)) == pytest.approx(0.0, abs=1e-12)
    # Nor does single precision end where its squares would.
    for factor in (1e-10, 1e25):
        assert number(loss(student.float() * factor, teacher.float())) == pytest.approx(value, rel=1e-4)


def test_neuron_selectivity_does_not_see_the_order_or_size_of_channels() -> None:
    student, teacher = random(4, 6, 3, 3), random(4, 5, 3, 3, seed=1)
    changed = student[:, [3, 1, 0, 2, 5, 4]] * tensor([1, -2, 3, 4, 0.5, 6]).reshape(1, 6, 1, 1)
    assert number(neuron_selectivity(changed, teacher)) == pytest.approx(number(neuron_selectivity(student, teacher)))
    assert number(neuron_selectivity(changed, student)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("places", [(2, 2), (2, 3), (1, 6), (3, 3), (4, 5)])
def test_both_forms_of_neuron_selectivity_are_one(places: tuple[int, int]) -> None:
    # Channels that are repeated are the same distribution, and make the other form the smaller one.
    student, teacher = random(4, 3, *places), random(4, 2, *places, seed=1)
    few, many = neuron_selectivity(student, teacher), neuron_selectivity(student.repeat(1, 9, 1, 1), teacher)
    assert number(few) == pytest.approx(number(many), rel=1e-9)
    assert number(few) > 0.01


def test_neuron_selectivity_holds_the_smaller_matrices() -> None:
    held: list[int] = []

    def pack(one: Tensor) -> Tensor:
        held.append(one.numel())
        return one

    for channels, places in ((60, 2), (2, 60)):
        student = random(1, channels, 1, places).requires_grad_()
        held.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
            neuron_selectivity(student, random(1, channels, 1, places, seed=1))
        assert 0 < sum(held) < 60 * 60


def test_neuron_selectivity_is_never_negative() -> None:
    for seed in range(20):
        teacher = random(3, 2, 4, 5, seed=seed).float()
        assert number(neuron_selectivity(teacher + 1e-5 * random(3, 2, 4, 5, seed=99).float(), teacher)) >= 0.0


def test_relations_of_tokens_do_not_see_rotations() -> None:
    student, teacher = random(3, 5, 8), random(3, 5, 12, seed=1)
    turned, _ = torch.linalg.qr(random(4, 4, seed=2))
    both = torch.block_diag(turned, turned)
    value = number(relation_kl(student, teacher, heads=2))
    assert number(relation_kl(student @ both, teacher, heads=2)) == pytest.approx(value, rel=1e-9)
    across, _ = torch.linalg.qr(random(8, 8, seed=3))
    assert number(relation_kl(student @ across, teacher, heads=2)) != pytest.approx(value, rel=1e-3)
    assert number(relation_kl(student @ across, teacher)) == pytest.approx(number(relation_kl(student, teacher)))


# What is


def test_larger_maps_are_averaged_to_the_smaller() -> None:
    small = random(2, 3, 2, 3)
    large = small.repeat_interleave(3, -1).repeat_interleave(2, -2)
    teacher = random(2, 4, 2, 3, seed=1)
    for loss in (attention_transfer, neuron_selectivity):
        assert number(loss(large, teacher)) == pytest.approx(number(loss(small, teacher)), rel=1e-12)
        assert number(loss(teacher, large)) == pytest.approx(number(loss(teacher, small)), rel=1e-12)
    # Windows that do not divide overlap, as torch cuts them.
    odd = random(2, 3, 7, 5, seed=2)
    expected = attention_transfer(torch.nn.functional.adaptive_avg_pool2d(odd, (2, 3)), teacher)
    assert number(attention_transfer(odd, teacher)) == pytest.approx(number(expected), rel=1e-12)


def test_a_whitened_hint_does_not_see_the_size_of_the_teacher() -> None:
    student, teacher = random(4, 6), random(4, 6, seed=1)
    value = number(hint(student, teacher, whiten=True))
    assert number(hint(student, 50.0 * teacher + 3.0, whiten=True)) == pytest.approx(value, rel=1e-4)
    assert number(hint(student, 50.0 * teacher + 3.0)) > 100 * value


def test_activation_boundary_is_content_beyond_the_margin() -> None:
    teacher = tensor([[3.0, -0.1, 0.2, -5.0]])
    student = tensor([[1.0, -1.0, 40.0, -7.0]])
    assert number(activation_boundary(student, teacher)) == 0.0
    assert number(activation_boundary(-student, teacher)) > 1.0
    # So equal features are not always enough.
    assert number(activation_boundary(teacher, teacher)) == pytest.approx(0.9**2 + 0.8**2)


def test_margins_come_from_the_batch_where_none_are_given() -> None:
    student, teacher = random(6, 3, 4, 4), random(6, 3, 4, 4, seed=1)
    teacher[:, 1] = teacher[:, 1].abs()
    means = [teacher[:, c][teacher[:, c] < 0].mean() if c != 1 else tensor(0.0) for c in range(3)]
    expected = overhaul(student, teacher, margin=torch.stack(means))
    assert number(overhaul(student, teacher)) == pytest.approx(number(expected), rel=1e-12)
    # A large sample of normal numbers has the margin that the batch norm's formula says.
    sample = 0.5 + 2.0 * random(100_000, 1)
    mean = float(sample[sample < 0].mean())
    assert float(negative_mean(tensor([0.5]), tensor([2.0]))) == pytest.approx(mean, abs=0.02)


def test_margins_of_a_channel_that_is_hardly_ever_negative() -> None:
    found = negative_mean(tensor([10.0, 4.0, 2.9]), tensor([1.0, 1.0, 1.0]))
    assert found[:2].tolist() == [-3.0, -3.0]
    assert -0.5 < float(found[2]) < 0.0
    refuse(negative_mean, torch.zeros(2), torch.zeros(3), says="(3,)")
    refuse(negative_mean, torch.zeros(2, dtype=torch.int64), torch.zeros(2), says="torch.int64")
    (found,) = doctest.DocTestFinder(recurse=False).find(
        negative_mean, "negative_mean", globs={"negative_mean": negative_mean}
    )
    assert doctest.DocTestRunner(verbose=False).run(found).failed == 0


def test_the_variance_learns_the_error_it_sees() -> None:
    student, teacher = random(500, 2), random(500, 2, seed=1)
    teacher = student + (teacher - teacher.mean(0)) * tensor([0.1, 3.0])
    errors = (teacher - student).square().mean(0)
    best = (errors - 1e-5).log().requires_grad_()
    value = variational(student, teacher, log_variance=best)
    assert number(value) == pytest.approx(float(0.5 * (errors.log() + 1).mean()))
    assert float(torch.autograd.grad(value, best)[0].abs().max()) < 1e-12
    assert torch.autograd.gradcheck(lambda v: variational(student, teacher, log_variance=v), (best,))
    # A student that hits exactly does not gain without end.
    gone = torch.full((2,), -1e4, dtype=torch.float64, requires_grad=True)
    exact = variational(teacher, teacher, log_variance=gone)
    assert number(exact) == pytest.approx(0.5 * math.log(1e-5))
    assert torch.isfinite(torch.autograd.grad(exact, gone)[0]).all()


def test_the_plain_variational_loss_is_a_scaled_error() -> None:
    student, teacher = random(4, 6), random(4, 6, seed=1)
    expected = 0.5 * math.log(5.0) + number(hint(student, teacher)) / 10.0
    assert number(variational(student, teacher)) == pytest.approx(expected, rel=1e-9)


def test_only_the_first_token_is_read_by_patient() -> None:
    case = next(case for case in CASES if case.loss is patient)
    student, teacher = draw(case)
    for slope in gradients(patient(student, teacher), student):
        assert slope[:, 0].abs().sum() > 0
        assert not slope[:, 1:].any()
    vectors = [[one[:, 0] for one in side] for side in (student, teacher)]
    assert number(patient(student, teacher)) == number(patient(*vectors))


# Zeros, and what models fill in


def test_a_row_of_zeros_has_no_direction_but_a_way_out() -> None:
    zeros = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    teacher = tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    value = cosine_hidden(zeros, teacher)
    assert number(value) == pytest.approx(0.25)
    assert number(patient([zeros], [teacher])) == pytest.approx(0.5)
    (slope,) = torch.autograd.grad(value, zeros)
    moved = zeros.detach() - 0.1 * slope
    assert number(cosine_hidden(moved, teacher)) < 1e-12


def test_scores_that_a_model_filled_in_do_not_count() -> None:
    scores, target = random(2, 3, 4, 4), random(2, 3, 4, 4, seed=1)
    future = torch.ones(4, 4, dtype=torch.bool).triu(1)
    kept = ~future.expand(2, 3, 4, 4)
    for filled, others in ((-math.inf, -1e4), (-1e9, -math.inf), (torch.finfo(torch.float64).min, -math.inf)):
        ours = scores.masked_fill(future, filled).requires_grad_()
        theirs = target.masked_fill(future, others)
        value = attention_mse([ours], [theirs])
        expected = (torch.where(kept, scores - target, 0.0).square().mean()).item()
        assert number(value) == pytest.approx(expected, rel=1e-12)
        assert torch.isfinite(torch.autograd.grad(value, ours)[0]).all()
        value = attention_kl([ours], [theirs], given="scores")
        (slope,) = torch.autograd.grad(value, ours)
        assert torch.isfinite(slope).all()
        assert not slope[~kept].any()
        maps = [one.softmax(-1) for one in (ours.detach(), theirs)]
        assert number(attention_kl(maps[:1], maps[1:])) == pytest.approx(number(value), abs=1e-5)


def test_attention_that_is_nothing_has_a_finite_divergence() -> None:
    student = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]], requires_grad=True)
    value = attention_kl([student], [torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]]])])
    assert 0 < number(value) < 40
    assert torch.isfinite(torch.autograd.grad(value, student)[0]).all()


# Errors of their own


def test_features_without_places_are_refused() -> None:
    for loss in (attention_transfer, neuron_selectivity):
        refuse(loss, random(4, 6), random(4, 6), says="(4, 6)")
        refuse(loss, random(4, 5, 6), random(4, 6, 5), says="(4, 6, 5)")
        refuse(loss, random(4, 5, 6), random(4, 5, 6, 1), says="no places in common")
    refuse(flow, [random(4, 3, 2, 2)], [random(4, 3, 2, 2)], says="at least 2")
    refuse(flow, [random(4, 3, 2, 2), random(4, 6)], [random(4, 3, 2, 2), random(4, 6)], says="(4, 6)")


def test_attention_of_other_numbers_of_heads_is_refused() -> None:
    for loss in (attention_mse, attention_kl):
        refuse(loss, [random(2, 3, 4, 4)], [random(2, 6, 4, 4)], says="(2, 6, 4, 4)")
        refuse(loss, [random(2, 3, 4, 5)], [random(2, 3, 4, 5)], says="(B, h, T, T)")
        with pytest.raises(InputError, match="relation_kl compares"):
            loss([random(2, 3, 4, 4)], [random(2, 6, 4, 4)])


def test_tokens_that_differ_are_refused() -> None:
    refuse(relation_kl, random(2, 5, 6), random(2, 4, 6), says="the same tokens")


@pytest.mark.parametrize("loss", [activation_boundary, overhaul, factor_transfer])
def test_what_belongs_to_an_example_is_not_cut_into_tokens(loss: Callable[..., Tensor]) -> None:
    feature = random(2, 3, 4)
    refuse(loss, feature, feature + 1, says="(2, 3)", mask=torch.ones(2, 3, dtype=torch.bool))


def test_a_hint_leaves_out_tokens() -> None:
    student, teacher = random(2, 3, 4), random(2, 3, 4, seed=1)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    value = number(hint(student, teacher, mask=mask))
    assert value == pytest.approx(float((student - teacher)[mask].square().mean()), rel=1e-12)
