"""Distillation experts: the loss against loops in float64, the networks and their noise, and what they cost."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tutelage import costs, losses
from tutelage.companions import Around, Listening, Seen
from tutelage.companions.building import BUILDERS
from tutelage.companions.experts import Experts
from tutelage.distiller import Distiller
from tutelage.errors import InputError
from tutelage.losses import distillation_experts, hint
from tutelage.models import ModelSpec, build
from tutelage.objective import NEEDS, Term
from tutelage.types import Batch, Outputs

pytest.register_assert_rewrite("feature_contract")
from feature_contract import EXAMPLES, Case, Contract, draw, number, refuse, tensors  # noqa: E402

SHAPES = ([(3, 4), (3,)], (4,)), ([(1, 2), (1,)], (2,))


def experts(
    ours: list[Tensor], theirs: Tensor, *, progress: float = 0.5, mask: Tensor | None = None, **options: float
) -> Tensor:
    """`distillation_experts` as the contract calls a loss: the student's side, the teacher's side."""
    return distillation_experts([*ours, theirs], progress, mask=mask, **options)


CASE = Case(
    experts,
    SHAPES,
    ({"progress": 0.0}, {"progress": 1.0, "end": 0.5}, {"start": 4.0, "end": 4.0}),
    tuple({name: bad} for name in ("start", "end", "progress") for bad in (-1.0, math.nan, math.inf)),
    zero=False,
)


def reference(
    guesses: np.ndarray, choices: np.ndarray, told: np.ndarray, *, progress: float, start: float, end: float
) -> float:
    """The equation, example by example, feature by feature."""
    tau, total = math.exp(math.log(start) + progress * (math.log(end) - math.log(start))), 0.0
    for b in range(len(guesses)):
        powers = [math.exp((choices[b, m] - max(choices[b])) / tau) for m in range(guesses.shape[1])]
        for d in range(guesses.shape[2]):
            mixed = sum(power * guesses[b, m, d] for m, power in enumerate(powers)) / sum(powers)
            total += (told[b, d] - mixed) ** 2
    return total / len(guesses)


@pytest.mark.parametrize("case", [CASE], ids=["distillation_experts"])
class TestContract(Contract):
    """What every loss on features keeps."""

    def test_a_default_call_gives_a_number_with_a_gradient(self, case: Case) -> None:
        ours, theirs = draw(case)
        value = case.loss([one.detach().float().requires_grad_() for one in ours], theirs.float())
        assert value.shape == ()
        assert value.dtype == torch.float32
        slopes = torch.autograd.grad(case.loss(ours, theirs), tensors(ours))
        assert all(slope.abs().sum() > 0 for slope in slopes)

    def test_its_parameters_are_words_that_an_objective_knows(self, case: Case) -> None:
        parameters = inspect.signature(distillation_experts).parameters.values()
        reads = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        assert set(reads) <= set(NEEDS)
        assert [p.name for p in parameters if p.kind is p.KEYWORD_ONLY][-1] == "mask"
        term = Term(distillation_experts, at="a")
        assert term.needs == reads
        assert term.companion == {"experts": 30}
        assert term.reads_teacher
        assert term.reads_features_of_others
        assert "distillation_experts" in losses.__all__

    def test_it_equals_the_reference(self, case: Case) -> None:
        for kind, options, seed in self._all(case, 3, everywhere=True):
            ours, theirs = draw(case, kind, seed=seed, scale=0.3 + seed / 2, examples=3 + seed)
            told = {"progress": 0.5, "start": 1.0, "end": 0.01, **options}
            expected = reference(*(one.detach().numpy() for one in (*ours, theirs)), **told)
            assert number(case.loss(ours, theirs, **options)) == pytest.approx(expected, rel=1e-9)

    def test_its_docstring_says_everything_in_order(self, case: Case) -> None:
        super().test_its_docstring_says_everything_in_order(Case(distillation_experts, SHAPES))

    def test_wrong_shapes_and_types_are_refused(self, case: Case) -> None:
        ours, theirs = draw(case)
        for mask, says in ((torch.ones(EXAMPLES), "torch.float32"), (torch.ones(4, dtype=torch.bool), "(4,)")):
            refuse(case.loss, ours, theirs, says=says, mask=mask)
        refuse(case.loss, [one[:2] for one in ours], theirs, says="(2, ")
        refuse(case.loss, ours, theirs[:, :3], says="do not belong together")
        refuse(case.loss, [ours[0], ours[1][:, :2]], theirs, says="do not belong together")
        refuse(case.loss, [ours[0].detach().long(), ours[1]], theirs, says="int64")
        refuse(case.loss, [ours[0]], theirs, says="2 tensors")
        refuse(distillation_experts, ours[0], 0.5, says="Tensor")
        refuse(case.loss, ours, theirs, says="1e-10 ≤ end ≤ start", start=0.5, end=0.6)
        refuse(case.loss, ours, theirs, says="1e-10 ≤ end ≤ start", end=1e-11)
        for options in case.refused:
            (option,) = options
            refuse(case.loss, ours, theirs, says=option, **options)


# ---- known numbers, and what the equation promises ------------------------------------------------------------------


def test_choices_get_harder_in_equal_ratios_from_the_start_to_the_end() -> None:
    # Two experts, one right and one off by 1: the loss is the square of the wrong one's share.
    guesses, told, gap = torch.tensor([[[0.0], [1.0]]]).double(), torch.zeros(1, 1).double(), 0.02
    choices = torch.tensor([[0.0, gap]], dtype=torch.float64)

    def temperature(progress: float, **options: float) -> float:
        share = math.sqrt(number(distillation_experts([guesses, choices, told], progress, **options)))
        return gap / math.log(share / (1 - share))

    assert [temperature(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx(
        [1.0, 0.1**0.5, 0.1, 0.1**1.5, 0.01], rel=1e-9
    )
    assert temperature(1.0, start=5.0, end=2.0) == pytest.approx(2.0)
    assert temperature(0.3, start=0.7, end=0.7) == pytest.approx(0.7)


def test_one_expert_is_plain_regression_whatever_chooses_it() -> None:
    guess, told = torch.randn(6, 1, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    for progress in (0.0, 0.5, 1.0):
        for choice in (torch.zeros(6, 1), 1e6 * torch.randn(6, 1)):
            found = distillation_experts([guess, choice.double(), told], progress, end=1e-10)
            assert number(found) == number((told - guess[:, 0]).square().sum(-1).mean())
    assert number(distillation_experts([guess, torch.zeros(6, 1), told], 0.0)) == pytest.approx(
        5 * number(hint(guess[:, 0], told))
    )


def test_in_the_end_one_expert_alone_is_asked_and_learns() -> None:
    guesses = torch.randn(4, 3, 5, requires_grad=True)
    choices = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0], [0.0, 1.0, 5.0], [1.0, 9.0, 2.0]])
    told = torch.randn(4, 5)
    value = distillation_experts([guesses, choices, told], 1.0)
    best = guesses[torch.arange(4), torch.tensor([1, 0, 2, 1])]
    assert number(value) == pytest.approx(number((told - best).square().sum(-1).mean()), rel=1e-6)
    (slope,) = torch.autograd.grad(value, guesses)
    learning = slope.abs().sum(-1) > 1e-6
    assert learning.tolist() == [[False, True, False], [True, False, False], [False, False, True], [False, True, False]]


@pytest.mark.parametrize(("end", "steepest"), [(0.01, 25.0), (1e-10, 2.5e9)])
def test_equally_good_experts_have_the_slope_that_the_documentation_tells(end: float, steepest: float) -> None:
    # Guesses 0 and 1, a target at 0: the loss is s², and 2 s ∂s / ∂a is ∂s / ∂a at s = ½.
    choices = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    guesses, told = torch.tensor([[[0.0], [1.0]]]).double(), torch.zeros(1, 1).double()
    (slope,) = torch.autograd.grad(distillation_experts([guesses, choices, told], 1.0, end=end), choices)
    assert slope.tolist()[0] == pytest.approx([-steepest, steepest])


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e4, 1e30])
def test_the_coldest_choice_is_finite_in_single_precision(size: float) -> None:
    choices = (size * torch.tensor([[1.0, 1.0, -1.0], [0.0, 1.0, 2.0]])).requires_grad_()
    guesses = torch.randn(2, 3, 4, requires_grad=True)
    value = distillation_experts([guesses, choices, torch.randn(2, 4)], 1.0, end=1e-10)
    assert torch.isfinite(value)
    assert all(torch.isfinite(slope).all() for slope in torch.autograd.grad(value, (guesses, choices)))


# ---- the networks ---------------------------------------------------------------------------------------------------


def batch(size: int = 6, *, first: int = 0, view: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = {"x": torch.rand(size, 1, 8, 8, generator=generator)}
    return Batch(torch.arange(first, first + size), inputs, torch.arange(size) % 10, view=view)


def said(*shape: int, seed: int = 0, examples: int = 6) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    return Outputs(torch.zeros(examples, 10), {"l": torch.randn(examples, *shape, generator=generator)})


def made(ours: Outputs, told: Outputs, *, seed: int = 0, settings: dict[str, Any] | None = None) -> Experts:
    torch.manual_seed(0)
    term = Term(distillation_experts, at="l", companion=settings or {})
    companion = BUILDERS["expert_guesses"](term, nn.Identity(), ours, Around(batch(), told, seed=seed))
    assert isinstance(companion, Experts)
    return companion


@pytest.mark.parametrize(("ours", "theirs"), [((3,), (8,)), ((3, 4, 4), (8,)), ((3,), (8, 2, 2)), ((5, 3), (2, 8))])
def test_experts_and_gate_are_the_published_ones(ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    student, told = said(*ours), said(*theirs, seed=1)
    companion = made(student, told, settings={"experts": 4}).double()
    rows = [
        one.features["l"].double().numpy().mean(axes) if axes else one.features["l"].double().numpy()
        for one, shape in ((student, ours), (told, theirs))
        for axes in [{1: (), 2: (1,), 3: (2, 3)}[len(shape)]]
    ]
    weights = {name: value.numpy() for name, value in companion.state_dict().items()}
    features = {"l": student.features["l"].double()}
    guesses, choices, target = companion(
        Outputs(student.logits, features), Seen(batch(), Outputs(told.logits, {"l": told.features["l"].double()}), 0.25)
    )
    assert weights["inward.weight"].shape == (4 * 5, 3)  # (3 + 8) // 2 hidden units each
    for m in range(4):
        inner = rows[0] @ weights["inward.weight"][5 * m : 5 * m + 5].T + weights["inward.bias"][5 * m : 5 * m + 5]
        expected = np.maximum(inner, 0.0) @ weights["weight"][m] + weights["bias"][m]
        np.testing.assert_allclose(guesses[:, m].detach().numpy(), expected, rtol=1e-6, atol=1e-7)
    gate = rows[1] @ weights["gate.weight"].T + weights["gate.bias"]
    noise = companion.drawn(batch(), 0.25).numpy()
    np.testing.assert_allclose(choices.detach().numpy(), gate + noise, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(target.numpy(), rows[1], rtol=1e-6, atol=1e-7)
    assert not target.requires_grad


def test_experts_begin_as_layers_by_themselves_do() -> None:
    companion = made(said(16), said(48), settings={"experts": 50})
    hidden = 32
    for weight, inputs in ((companion.inward.weight, 16), (companion.weight, hidden), (companion.bias, hidden)):
        bound = 1 / math.sqrt(inputs)
        assert 0.98 * bound < float(weight.detach().abs().max()) <= bound  # uniform, in bounds of their own inputs
    assert companion.weight.shape == (50, hidden, 48)


def test_noise_is_gumbels_and_depends_on_seed_progress_view_example_and_expert_alone() -> None:
    companion = made(said(4), said(5))
    noise = companion.drawn(batch(), 0.0)
    assert noise.shape == (6, 30)
    state = torch.get_rng_state()
    assert torch.equal(companion.drawn(batch(3, first=2), 0.0), noise[2:5])  # however batches are cut
    assert torch.equal(torch.get_rng_state(), state)
    for other in (
        companion.drawn(batch(view=1), 0.0),
        companion.drawn(batch(), 1e-6),
        companion.drawn(batch(first=6), 0.0),
        made(said(4), said(5), seed=1).drawn(batch(), 0.0),
    ):
        assert not (other == noise).any()
    many = companion.drawn(Batch(torch.arange(4000), {}, torch.zeros(4000)), 0.5).numpy()
    assert len(np.unique(many)) == many.size
    # Means and deviations of 120,000 draws, five of their standard errors apart at most; then quantiles.
    assert many.mean() == pytest.approx(np.euler_gamma, abs=5 * math.pi / math.sqrt(6 * many.size))
    assert many.std() == pytest.approx(math.pi / math.sqrt(6), abs=0.02)
    for share in (0.05, 0.5, 0.95):
        expected = -math.log(-math.log(share))
        assert (many < expected).mean() == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / many.size))
    assert np.abs(np.corrcoef(many.T) - np.eye(30)).max() < 0.08  # five errors of 1 / √4000


def test_choices_follow_the_gate_as_often_as_its_softmax_says() -> None:
    companion = made(said(4), said(3), settings={"experts": 3})
    with torch.no_grad():
        companion.gate.weight.zero_()
        companion.gate.bias.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
    noise = companion.drawn(Batch(torch.arange(20000), {}, torch.zeros(20000)), 0.0)
    chosen = (companion.gate.bias.detach() + noise).argmax(-1)
    found = torch.bincount(chosen, minlength=3) / 20000
    assert found.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.018)  # five errors


def test_of_thirty_choices_about_one_in_twenty_is_still_soft_at_the_default_end() -> None:
    noise = made(said(4), said(5)).drawn(Batch(torch.arange(20000), {}, torch.zeros(20000)), 0.0)
    hard = ((noise / 0.01).softmax(-1).amax(-1) > 0.99).double().mean()
    assert 0.94 < float(hard) < 0.97


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_a_number_of_experts_that_makes_no_sense_is_refused(count: Any) -> None:
    with pytest.raises(InputError, match="`experts`") as caught:
        made(said(4), said(5), settings={"experts": count})
    assert caught.value.problem.expected == "a whole number ≥ 1, or null"


def test_a_feature_that_is_no_row_is_refused() -> None:
    with pytest.raises(InputError, match="neither places nor tokens"):
        made(said(2, 2, 2, 2), said(5))


# ---- in a student's step --------------------------------------------------------------------------------------------


def taught(**companion: int) -> tuple[nn.Module, Distiller]:
    torch.manual_seed(0)
    teacher, student = (
        build(ModelSpec("cnn", {"width": width}), input_shape=(1, 8, 8), classes=10, mean=[0.3], std=[0.4])
        for width in (12, 8)
    )
    term = Term(distillation_experts, at="net.dropout", companion=companion)
    return teacher, Distiller(student, teacher, [term], example=batch())


def test_a_step_learns_in_student_experts_and_gate_and_not_in_the_teacher() -> None:
    teacher, distiller = taught(experts=3)
    optimizer = torch.optim.SGD(distiller.parameters(), 0.01)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        step = distiller(batch(), progress=0.0)
        step.loss.backward()
        optimizer.step()
        values.append(number(step.loss))
    assert values[-1] < 0.5 * values[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    assert isinstance(distiller.student, Listening)
    along = list(distiller.student.extras.parameters())
    assert len(along) == 6
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in along)
    inner = [p for name, p in distiller.student.student.named_parameters() if "head" not in name]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in inner)


def test_an_objective_does_not_forget_how_far_training_is() -> None:
    _, distiller = taught(experts=3)
    with pytest.raises(InputError, match="the step has no progress"):
        distiller(batch())


def test_a_cut_batch_is_the_same_batch() -> None:
    _, distiller = taught(experts=3)
    distiller.eval()
    whole = batch(6)
    halves = [
        Batch(whole.ids[rows], {"x": whole.inputs["x"][rows]}, whole.target[rows])
        for rows in (slice(0, 3), slice(3, 6))
    ]
    found = sum(number(distiller(half, progress=0.4).loss) for half in halves) / 2
    assert found == pytest.approx(number(distiller(whole, progress=0.4).loss), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_changes_rounding_only(dtype: torch.dtype) -> None:
    _, distiller = taught(experts=3)
    plain = number(distiller(batch(), progress=0.5).loss)
    with torch.autocast("cpu", dtype):
        assert number(distiller(batch(), progress=0.5).loss) == pytest.approx(plain, rel=0.05)


def test_one_expert_in_a_step_is_regression_behind_a_small_net() -> None:
    teacher, distiller = taught(experts=1)
    assert isinstance(distiller.student, Listening)
    companion = distiller.student.companions["0+expert_guesses"]
    assert isinstance(companion, Experts)
    net = nn.Sequential(nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 24))
    with torch.no_grad():
        net[0].weight.copy_(companion.inward.weight)
        net[0].bias.copy_(companion.inward.bias)
        net[2].weight.copy_(companion.weight[0].mT)
        net[2].bias.copy_(companion.bias[0])
    kept: dict[str, Tensor] = {}
    for name, model in (("student", distiller.student.student), ("teacher", teacher)):
        layer = model.get_submodule("net.dropout")
        layer.register_forward_hook(lambda *parts, name=name: kept.__setitem__(name, parts[2]))
    step = distiller(batch(), progress=0.7)
    expected = (kept["teacher"] - net(kept["student"])).square().sum(-1).mean()
    assert number(step.loss) == pytest.approx(number(expected), rel=1e-6)
    ours = torch.autograd.grad(step.loss, [companion.inward.weight, companion.weight, companion.gate.weight])
    theirs = torch.autograd.grad(expected, [net[0].weight, net[2].weight])
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours[1][0], theirs[1].mT, rtol=1e-4, atol=1e-6)
    assert not ours[2].any()  # there is nothing to choose


def test_the_formula_of_costs_counts_what_learns_along() -> None:
    _, distiller = taught()
    assert isinstance(distiller.student, Listening)
    found = sum(one.numel() for one in distiller.student.extras.parameters())
    values = {"c_s": 16, "c_t": 24, "m": 30, "h": 20}
    formula: Callable[..., int] = eval(  # noqa: S307
        "lambda c_s, c_t, m, h: " + costs.FORMULAS["expert_guesses"][0].replace("·", "*")
    )
    assert found == formula(**values)
    line = costs.told(["expert_guesses", "progress"])
    assert line.startswith("a pass of the teacher, whose layer is kept; parameters of m = 30 experts and their gate")
    assert line.endswith("c_s: the student's channels; c_t: the teacher's channels")
