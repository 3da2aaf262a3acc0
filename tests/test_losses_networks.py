"""Losses on what networks that learn along put out: the contract for each, and known numbers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage import losses
from tutelage.errors import InputError
from tutelage.losses import masked_generation, representation_regression, review, semantic_calibration, vit_mimic
from tutelage.objective import NEEDS, Term

pytest.register_assert_rewrite("feature_contract")
from feature_contract import EXAMPLES, Case, Contract, draw, number, refuse, tensors  # noqa: E402

MAPS = [(2, 8, 8), (2, 4, 5), (2, 1, 1)]
PAIRS = [(3, 2, 2), (4, 2, 2), (3, 1, 2), (4, 1, 2)]  # of two layers and two
TOKENS = [(4, 6), (9, 3)]


def calibrated(ours: list[Tensor], theirs: list[Tensor], *, mask: Tensor | None = None) -> Tensor:
    """`semantic_calibration` as the contract calls a loss: the student's side, the teacher's side."""
    return semantic_calibration([*ours[1:], *theirs], ours[0], mask=mask)


def regressed(ours: list[Tensor], theirs: list[Tensor], *, beta: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """`representation_regression` likewise."""
    return representation_regression(ours, theirs[0], theirs[1], beta=beta, mask=mask)


def generated(ours: Tensor, theirs: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """`masked_generation` likewise, every other token hidden."""
    hidden = (torch.arange(ours.shape[1], device=ours.device) % 2 == 0).expand(ours.shape[:2])
    return masked_generation([ours, hidden], theirs, mask=mask)


CASES = [
    Case(review, ((MAPS, MAPS), ([(2, 3, 3)], [(2, 3, 3)]))),
    Case(vit_mimic, ((TOKENS, TOKENS),)),
    Case(calibrated, (([(2, 2), *PAIRS], PAIRS), ([(1, 4), *PAIRS], PAIRS)), zero=False),
    Case(
        regressed,
        (([(6,), (4,)], [(6,), (4,)]),),
        ({"beta": 0.0}, {"beta": 3.0}),
        tuple({"beta": bad} for bad in (-1.0, math.nan, math.inf)),
    ),
    Case(generated, (((9, 4), (9, 4)), ((4, 3), (4, 3)))),
]
MEANT: dict[str, Callable[..., Tensor]] = {
    "calibrated": semantic_calibration,
    "regressed": representation_regression,
    "generated": masked_generation,
}


# ---- independent references, in loops -------------------------------------------------------------------------------


def of_review(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    total = 0.0
    for s, t in zip(ours, theirs, strict=True):
        weight, levels = 1.0, [(1.0, float(np.mean((s - t) ** 2)))]
        for side in (4, 2, 1):
            if side < min(s.shape[2:]):
                weight /= 2
                a, b = (F.adaptive_avg_pool2d(torch.from_numpy(one), side).numpy() for one in (s, t))
                levels.append((weight, float(np.mean((a - b) ** 2))))
        total += sum(w * value for w, value in levels) / sum(w for w, _ in levels)
    return total


def of_vit_mimic(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    return sum(float(((s - t) ** 2).sum()) / len(s) for s, t in zip(ours, theirs, strict=True))


def of_calibrated(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    weights, total = ours[0], 0.0
    for b in range(len(weights)):
        for i in range(weights.shape[1]):
            for j in range(weights.shape[2]):
                pair = i * weights.shape[2] + j
                total += weights[b, i, j] * float(np.mean((ours[1 + pair][b] - theirs[pair][b]) ** 2))
    return total / (len(weights) * weights.shape[1])


def of_regressed(ours: list[np.ndarray], theirs: list[np.ndarray], *, beta: float = 1.0) -> float:
    first, second = (float(np.mean((s - t) ** 2)) for s, t in zip(ours, theirs, strict=True))
    return first + beta * second


def of_generated(ours: np.ndarray, theirs: np.ndarray) -> float:
    hidden = range(0, ours.shape[1], 2)
    total = sum(float(((ours[b, n] - theirs[b, n]) ** 2).sum()) for b in range(len(ours)) for n in hidden)
    return total / len(ours) / (len(hidden) / ours.shape[1])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestContract(Contract):
    """What every loss on features keeps."""

    def test_its_parameters_are_words_that_an_objective_knows(self, case: Case) -> None:
        loss = MEANT.get(case.name, case.loss)
        parameters = inspect.signature(loss).parameters.values()
        reads = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        assert set(reads) <= set(NEEDS)
        assert [p.name for p in parameters if p.kind is p.KEYWORD_ONLY][-1] == "mask"
        assert Term(loss, at="a").needs == tuple(reads)
        assert loss.__name__ in losses.__all__

    def test_it_equals_the_reference(self, case: Case) -> None:
        for kind, options, seed in self._all(case, 3, everywhere=True):
            inputs = draw(case, kind, seed=seed, scale=0.3 + seed / 2, examples=3 + seed)
            plain = [
                [p.detach().numpy() for p in one] if isinstance(one, list) else one.detach().numpy() for one in inputs
            ]
            expected = globals()[f"of_{case.name}"](*plain, **options)
            assert number(case.loss(*inputs, **options)) == pytest.approx(expected, rel=1e-9)

    def test_its_docstring_says_everything_in_order(self, case: Case) -> None:
        real = Case(MEANT.get(case.name, case.loss), case.shapes)
        super().test_its_docstring_says_everything_in_order(real)

    def test_wrong_shapes_and_types_are_refused(self, case: Case) -> None:
        if case.name in ("review", "vit_mimic"):
            super().test_wrong_shapes_and_types_are_refused(case)
            return
        ours, theirs = draw(case)
        for mask, says in ((torch.ones(EXAMPLES), "torch.float32"), (torch.ones(4, dtype=torch.bool), "(4,)")):
            refuse(case.loss, ours, theirs, says=says, mask=mask)
        short = [one[:2] for one in tensors(ours)]
        refuse(case.loss, short if isinstance(ours, list) else short[0], theirs, says="(2, ")
        whole = [one.detach().long() for one in tensors(ours)]
        refuse(case.loss, whole if isinstance(ours, list) else whole[0], theirs, says="int64")
        for options in case.refused:
            (option,) = options
            refuse(case.loss, ours, theirs, says=option, **options)


# ---- known numbers, and what each equation promises -----------------------------------------------------------------


@pytest.mark.parametrize(("side", "weights"), [(8, 1.875), (4, 1.75), (2, 1.5), (1, 1.0)])
def test_a_review_weighs_a_whole_map_and_its_averages(side: int, weights: float) -> None:
    constant = torch.ones(2, 3, side, side, dtype=torch.float64)
    assert number(review([constant], [torch.zeros_like(constant)])) == pytest.approx(1.0)
    # What averages away is seen at full size only, where it weighs 1 of all weights.
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(side // 2 or 1)[:side]
    board = constant * sign
    if side > 1:
        assert number(review([board], [torch.zeros_like(board)])) == pytest.approx(1 / weights)
    assert number(review([constant, constant], [0 * constant, 0 * constant])) == pytest.approx(2.0)


def test_equal_distances_are_the_calibration_whatever_the_attention() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64).softmax(-1)
    told = [torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(6)]
    ours = [one + math.sqrt(0.7) for one in told]
    assert number(semantic_calibration([*ours, *told], weights)) == pytest.approx(0.7)
    assert number(semantic_calibration([*told, *told], weights)) == 0.0


def test_what_the_teachers_last_layer_does_not_see_does_not_count_in_its_logits() -> None:
    weight = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    told = torch.tensor([[0.3, -0.2, 0.7]], dtype=torch.float64)
    blind = told + torch.tensor([[0.5, -0.5, 0.0]], dtype=torch.float64)
    seen = told + torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    parts = [representation_regression([one, one @ weight.T], told, told @ weight.T) for one in (told, blind, seen)]
    assert number(parts[0]) == 0.0
    assert number(parts[1]) == pytest.approx(0.5 / 3)
    assert number(parts[2]) == pytest.approx(0.5 / 3 + 1.0 / 2)
    maps = told[..., None, None] + torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    assert number(representation_regression([told, told @ weight.T], maps, told @ weight.T)) == pytest.approx(0.0)


def test_generation_counts_hidden_tokens_only_and_leaves_the_class_token_out() -> None:
    made = torch.zeros(2, 4, 3, dtype=torch.float64)
    told = torch.ones(2, 5, 3, dtype=torch.float64)
    told[:, 0], told[:, 2] = 100.0, 7.0  # the class token, and one that is not hidden
    hidden = torch.tensor([[True, False, True, False]] * 2)
    assert number(masked_generation([made, hidden], told)) == pytest.approx(2 * 3 / 0.5)
    assert number(masked_generation([made, ~hidden & False], told)) == 0.0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: semantic_calibration([torch.ones(2, 3)] * 3, torch.ones(2, 1, 2)), "3 features"),
        (lambda: semantic_calibration(torch.ones(2, 3), torch.ones(2, 1, 2)), "Tensor"),  # type: ignore[arg-type]
        (lambda: semantic_calibration([torch.ones(2, 3)] * 2, torch.ones(3, 1, 1)), "2 and 3 examples"),
        (lambda: representation_regression(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 4)), "Tensor"),  # type: ignore[arg-type]
        (lambda: representation_regression([torch.ones(2, 3)], torch.ones(2, 3), torch.ones(2, 4)), "1 tensors"),
        (lambda: masked_generation(torch.ones(2, 4, 3), torch.ones(2, 4, 3)), "Tensor"),  # type: ignore[arg-type]
        (lambda: masked_generation([torch.ones(2, 4, 3), torch.ones(2, 4)], torch.ones(2, 4, 3)), "torch.float32"),
        (lambda: masked_generation([torch.ones(2, 4, 3), torch.ones(2, 4) > 0], torch.ones(2, 7, 3)), "(2, 7, 3)"),
        (lambda: vit_mimic([torch.ones(2, 3, 2, 2)], [torch.ones(2, 3, 2, 2)]), "(B, T, D)"),
        (lambda: review([torch.ones(2, 3, 4)], [torch.ones(2, 3, 4)]), "(B, C, H, W)"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], Tensor], says: str) -> None:
    with pytest.raises(InputError, match="(?s)" + says.replace("(", r"\(").replace(")", r"\)")):
        call()
