"""Curricula, a student that teaches itself, and judges: against their equations in float64, and the loss contract."""

from __future__ import annotations

import doctest
import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage import losses
from tutelage.errors import InputError
from tutelage.losses.targets import top_k
from tutelage.objective import NEEDS, Term
from tutelage.words import COMPANIONS

HEADINGS = ["Equation", "Use", "Args", "Returns", "Raises", "Example", "Reference"]
ROWS, CLASSES, EXITS = 6, 5, 2
Array = Any
Inputs = dict[str, Any]


# ---- the equations, once more ----------------------------------------------------------------------------------------


def softmax(z: Array) -> Array:
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def kl(p: Array, q: Array) -> float:
    return float((p * (np.log(p) - np.log(q))).sum(-1).mean())


def ce(z: Array, y: Array) -> float:
    return float(-np.log(softmax(z)[np.arange(len(y)), y]).mean())


def soft(student: Array, teacher: Array, t: float) -> float:
    return t * t * kl(softmax(teacher / t), softmax(student / t))


def curriculum_temperature(i: Inputs, start: float = 1.0, reach: float = 20.0, rise: float = 10 / 240) -> float:
    t = start + reach / (1 + math.exp(-float(i["temperature_parameter"])))
    return soft(i["student_logits"], i["teacher_logits"], t)


def annealed(i: Inputs, levels: int = 10, until: float = 0.6) -> float:
    if i["progress"] >= until:
        return 0.0
    number = next(n for n in range(levels) if i["progress"] < (n + 1) * until / levels)
    phi = (number + 1) / levels
    return float(((i["student_logits"] - phi * i["teacher_logits"]) ** 2).sum(-1).mean())


def progressive(i: Inputs, final: float = 0.8) -> float:
    total = 0.0
    for z, past, y in zip(i["student_logits"], i["past_probabilities"], i["labels"], strict=True):
        alpha = 0.0 if np.isnan(past).any() else final * i["progress"]
        target = (1 - alpha) * np.eye(len(z))[y] + (alpha * past if alpha else 0.0)
        total -= float((target * np.log(softmax(z))).sum())
    return total / len(i["labels"])


def class_consistency(i: Inputs, temperature: float = 4.0) -> float:
    return soft(i["student_logits"], i["partner_logits"], temperature)


def own_exits(
    i: Inputs, labels: float = 0.7, teaching: float = 0.3, features: float = 0.03, temperature: float = 3.0
) -> float:
    total = 0.0
    for number in range(len(i["exits"]) // 2):
        logits, feature = i["exits"][number], i["exits"][number + len(i["exits"]) // 2]
        total += labels * ce(logits, i["target"]) + teaching * soft(logits, i["student_logits"], temperature)
        total += features * float(((feature - i["student_features"][-1]) ** 2).mean())
    return total


def native_ensemble(i: Inputs, temperature: float = 3.0) -> float:
    all_, gate = [i["student_logits"], *i["branches"][:-1]], i["branches"][-1]
    together = sum(gate[:, n : n + 1] * z for n, z in enumerate(all_))
    return ce(together, i["target"]) + sum(ce(z, i["target"]) + soft(z, together, temperature) for z in all_)


def players(scores: Sequence[Array], balance: float) -> float:
    student, detached, teacher = (1 / (1 + np.exp(-one)) for one in scores)
    return float((-np.log(student) - balance * (np.log(teacher) + np.log(1 - detached))).mean())


def adversarial(i: Inputs, logit: float = 1.0, balance: float = 1.0) -> float:
    apart = np.abs(i["student_logits"] - i["teacher_logits"]).sum(-1).mean()
    return logit * float(apart) + players(i["judged"], balance)


def adversarial_feature(i: Inputs, balance: float = 1.0) -> float:
    return players(i["judged_feature"], balance)


# ---- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    reference: Callable[..., float]
    learns: Sequence[str]  # what a gradient must reach; nothing else may have one
    options: Sequence[dict[str, Any]] = ()
    refused: Sequence[dict[str, Any]] = ()
    progresses: Sequence[float] = (0.35,)
    held: bool = False  # a constant of its equation is a function of what learns
    top_k: bool = False  # its teacher may be a whole top-k
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.reference.__name__

    @property
    def loss(self) -> Callable[..., Tensor]:
        return getattr(losses, self.name)

    @property
    def reads(self) -> list[str]:
        return [p.name for p in inspect.signature(self.loss).parameters.values() if p.kind is not p.KEYWORD_ONLY]

    def settings(self) -> tuple[dict[str, Any], ...]:
        return ({}, *self.options)


NO_WEIGHT = (-1.0, math.inf, math.nan)
SCORES = ["judged"]
CASES = [
    Case(
        adversarial, ["student_logits", *SCORES], ({"logit": 0.0}, {"logit": 2.0, "balance": 0.3}, {"balance": 0.0}),
        [{name: bad} for name in ("logit", "balance") for bad in NO_WEIGHT], top_k=True,
    ),
    Case(adversarial_feature, ["judged_feature"], ({"balance": 0.3},), [{"balance": bad} for bad in NO_WEIGHT]),
    Case(
        annealed, ["student_logits"], ({"levels": 1}, {"levels": 3, "until": 1.0}, {"until": 0.35}),
        [*({"levels": bad} for bad in (0, -1, 2.5, True)), *({"until": bad} for bad in (0.0, 1.1, math.nan))],
        progresses=(0.0, 0.06, 0.35, 0.5999, 0.6, 1.0), top_k=True,
    ),
    Case(class_consistency, ["student_logits"], ({"temperature": 1.0},), [{"temperature": b} for b in (0.0, math.nan)]),
    Case(
        curriculum_temperature, ["student_logits", "temperature_parameter"],
        ({"start": 0.5, "reach": 3.0}, {"reach": 0.0}),
        [*({"start": bad} for bad in (0.0, math.nan)), *({"reach": bad} for bad in NO_WEIGHT), {"rise": 0.0}],
        progresses=(0.0, 0.02, 1.0), held=True, top_k=True,
    ),
    Case(
        native_ensemble, ["student_logits", "branches"], ({"temperature": 1.0},), [{"temperature": 0.0}], held=True
    ),
    Case(
        own_exits, ["exits"], ({"labels": 0.0, "temperature": 1.0}, {"teaching": 2.0, "features": 1.0}),
        [{name: bad} for name in ("labels", "teaching", "features") for bad in NO_WEIGHT],
    ),
    Case(
        progressive, ["student_logits"], ({"final": 1.0}, {"final": 0.0}),
        [{"final": bad} for bad in (-0.1, 1.1, math.nan)], progresses=(0.0, 0.35, 1.0),
    ),
]  # fmt: skip
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def draw(case: Case, *, seed: int = 0, progress: float | None = None, scale: float = 2.0) -> Inputs:
    """The positional arguments of a loss in float64, by name."""
    source = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64) * scale

    logits = (ROWS, CLASSES)
    seen = normal(*logits).softmax(-1)
    seen[2] = math.nan
    labels = torch.randint(0, CLASSES, (ROWS,), generator=source)
    made: Inputs = {
        "student_logits": normal(*logits),
        "teacher_logits": normal(*logits),
        "partner_logits": normal(*logits),
        "temperature_parameter": normal(),
        "progress": case.progresses[-1] if progress is None else progress,
        "past_probabilities": seen,
        "labels": labels,
        "target": labels,
        "judged": [normal(ROWS) for _ in range(3)],
        "judged_feature": [normal(ROWS) for _ in range(3)],
        "exits": [*(normal(*logits) for _ in range(EXITS)), *(normal(ROWS, 3, 2, 2) for _ in range(EXITS))],
        "student_features": [normal(ROWS, 2, 4, 4), normal(ROWS, 7), normal(ROWS, 3, 2, 2)],
        "branches": [normal(*logits), normal(*logits), normal(ROWS, 3).softmax(-1)],
    }
    return {name: made[name] for name in case.reads}


def mapped(inputs: Inputs, change: Callable[[Tensor], Any]) -> Inputs:
    """Every tensor changed; lists stay lists, numbers numbers."""

    def one(value: object) -> object:
        if isinstance(value, list):
            return [change(part) for part in value]
        return change(value) if isinstance(value, Tensor) else value

    return {name: one(value) for name, value in inputs.items()}


def leaves(case: Case, inputs: Inputs) -> list[Tensor]:
    """What learns, with a gradient from here on."""
    found = []
    for name in case.learns:
        value = inputs[name]
        found += value if isinstance(value, list) else [value]
    return [one.requires_grad_() for one in found]


def floats(kind: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda one: one.detach().to(kind) if one.is_floating_point() else one


def number(value: Tensor) -> float:
    return float(value.detach())


def test_the_table_has_what_no_other_contract_has() -> None:
    ours = {
        name
        for name in losses.__all__
        if getattr(losses, name).__module__.rpartition(".")[2] in ("curricula", "self_taught", "adversaries")
    }
    assert {case.name for case in CASES} == ours
    words = {word for case in CASES for word in case.reads}
    assert words <= set(NEEDS)
    assert {"judged", "judged_feature", "exits", "branches", "past_probabilities"} <= words & set(COMPANIONS)


@every
def test_a_default_call_gives_a_number_with_a_gradient(case: Case) -> None:
    inputs = mapped(draw(case, progress=case.progresses[0]), floats(torch.float32))
    learning = leaves(case, inputs)
    value = case.loss(*inputs.values())
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert math.isfinite(number(value))
    value.backward()
    expected = [one.grad is not None for one in learning]
    assert all(expected)
    assert sum(float(one.grad.abs().sum()) for one in learning if one.grad is not None) > 0


@every
def test_it_equals_the_equation(case: Case) -> None:
    for seed in range(5):
        for progress in case.progresses:
            inputs = draw(case, seed=seed, progress=progress, scale=0.5 + seed)
            for options in case.settings():
                told = mapped(inputs, lambda one: one.numpy())
                found = case.loss(*inputs.values(), **options)
                assert found.dtype == torch.float64
                assert number(found) == pytest.approx(case.reference(told, **options), rel=1e-9, abs=1e-12), options


@every
def test_its_gradient_matches_finite_differences(case: Case) -> None:
    if case.held:
        pytest.skip("what it holds fixed has a test of its own")
    for options in case.settings():
        inputs = draw(case, seed=1, progress=case.progresses[0])
        learning = leaves(case, inputs)

        def function(*parts: Tensor, inputs: Inputs = inputs, options: dict[str, Any] = options) -> Tensor:
            # The leaves themselves are moved by finite differences in place.
            return case.loss(*inputs.values(), **options)

        assert torch.autograd.gradcheck(function, tuple(learning), fast_mode=True), options


@every
def test_no_gradient_reaches_whoever_teaches(case: Case) -> None:
    inputs = draw(case, progress=case.progresses[0])
    learning = {id(one) for one in leaves(case, inputs)}
    everybody = [
        part
        for value in inputs.values()
        for part in (value if isinstance(value, list) else [value])
        if isinstance(part, Tensor) and part.is_floating_point()
    ]
    for one in everybody:
        one.requires_grad_()
    case.loss(*inputs.values()).backward()
    for one in everybody:
        if id(one) not in learning:
            assert one.grad is None or not one.grad.any()


@every
def test_the_order_of_examples_changes_nothing(case: Case) -> None:
    order = torch.tensor([3, 1, 0, 5, 2, 4])
    inputs = draw(case, progress=case.progresses[0])
    moved = mapped(inputs, lambda one: one[order] if one.ndim else one)
    assert number(case.loss(*moved.values())) == pytest.approx(number(case.loss(*inputs.values())), rel=1e-12)


@every
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_extremes_stay_finite(case: Case, kind: torch.dtype) -> None:
    for progress in case.progresses:
        for size in (0.0, 1e-4, 1.0, 1e4):
            inputs = draw(case, seed=2, progress=progress, scale=1.0)
            whole = mapped(inputs, lambda one, s=size: one * s if one.is_floating_point() else one)
            for name in ("past_probabilities", "temperature_parameter"):  # which are bounded, or one number
                whole |= {name: inputs[name]} if name in inputs else {}
            if "branches" in whole:
                whole["branches"][-1] = inputs["branches"][-1]
            whole = mapped(whole, floats(kind))
            if "temperature_parameter" in whole:  # a parameter, which is never of half precision
                whole["temperature_parameter"] = inputs["temperature_parameter"].detach().float()
            learning = leaves(case, whole)
            value = case.loss(*whole.values())
            assert value.dtype == (torch.float64 if kind is torch.float64 else torch.float32)
            assert math.isfinite(number(value))
            grads = torch.autograd.grad(value, learning, allow_unused=True)
            assert all(torch.isfinite(one).all() for one in grads if one is not None)


@every
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e300])
def test_masked_rows_do_not_matter(case: Case, garbage: float) -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    inputs = draw(case, progress=case.progresses[0])
    left = mapped(inputs, lambda one: one[mask] if one.ndim else one)
    spoiled = mapped(
        inputs,
        lambda one: (
            torch.where(mask.view(-1, *[1] * (one.ndim - 1)), one, garbage)
            if one.ndim and one.is_floating_point()
            else one
        ),
    )
    learning = leaves(case, spoiled)
    found = case.loss(*spoiled.values(), mask=mask)
    assert number(found) == pytest.approx(number(case.loss(*left.values())), rel=1e-10)
    for one, slope in zip(learning, torch.autograd.grad(found, learning, allow_unused=True), strict=True):
        if slope is not None and one.ndim:
            assert torch.isfinite(slope).all()
            assert not slope[~mask].any()
    nothing = case.loss(*spoiled.values(), mask=torch.zeros_like(mask))
    assert number(nothing) == 0.0
    with pytest.raises(InputError, match="mask"):
        case.loss(*inputs.values(), mask=torch.ones(4, dtype=torch.bool))


@every
def test_options_out_of_range_are_refused_by_name(case: Case) -> None:
    for options in case.refused:
        with pytest.raises(InputError, match=next(iter(options))):
            case.loss(*draw(case).values(), **options)
    if "progress" in case.reads:
        for bad in (-0.1, 1.1, math.nan):
            with pytest.raises(InputError, match="progress"):
                case.loss(*draw(case, progress=bad).values())


@every
def test_shapes_that_do_not_belong_together_are_refused(case: Case) -> None:
    for name, value in draw(case).items():
        if name in ("progress", "temperature_parameter"):
            continue
        inputs = draw(case)
        tensors = value if isinstance(value, list) else [value]
        for number_ in range(len(tensors)):
            if name == "student_features" and number_ < len(tensors) - 1:
                continue  # which it has no use for
            shorter = [part[:2] if n == number_ else part for n, part in enumerate(tensors)]
            inputs[name] = shorter if isinstance(value, list) else shorter[0]
            if len(case.reads) == 1 and not isinstance(value, list):
                continue
            with pytest.raises(InputError):
                case.loss(*inputs.values())
        if isinstance(value, list):
            for wrong in (value[:-1], value[0], []):
                inputs[name] = wrong
                with pytest.raises(InputError):
                    case.loss(*inputs.values())
        if name in ("labels", "target"):
            inputs[name] = torch.full((ROWS,), CLASSES)
            with pytest.raises(InputError, match="a label is not a class number"):
                case.loss(*inputs.values())


@every
def test_a_part_of_the_teachers_logits_is_refused(case: Case) -> None:
    if not case.top_k:
        assert "teacher_logits" not in case.reads
        return
    inputs = draw(case, progress=case.progresses[0])
    whole = number(case.loss(*inputs.values()))
    teacher = inputs["teacher_logits"]
    assert number(case.loss(*(inputs | {"teacher_logits": top_k(teacher, CLASSES)}).values())) == pytest.approx(whole)
    with pytest.raises(InputError, match=f"{case.name} reads every logit"):
        case.loss(*(inputs | {"teacher_logits": top_k(teacher, 3)}).values())


@every
def test_its_docstring_says_everything_in_order(case: Case) -> None:
    text = inspect.getdoc(case.loss)
    assert text is not None
    assert re.search(r" → \(\)\.$", text.splitlines()[0]), "the first line ends with the shapes"
    assert re.findall(r"^(\w+):$", text, re.MULTILINE) == HEADINGS
    parts = dict(zip(HEADINGS, re.split(r"^\w+:$", text, flags=re.MULTILINE)[1:], strict=True))
    arguments = re.findall(r"^    (\w+): ", parts["Args"], re.MULTILINE)
    assert arguments == list(inspect.signature(case.loss).parameters)
    assert re.search(r"\bNot\b", parts["Use"]), "it says when not to use it"
    assert re.search(r"\d{4}, arXiv \d{4}\.\d{5}", parts["Reference"])
    (example,) = doctest.DocTestFinder(recurse=False).find(
        case.loss, case.name, globs={"torch": torch, case.name: case.loss}
    )
    assert re.search(r"tensor\(\d+\.\d{4}\)", "".join(step.want for step in example.examples))
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


@every
def test_it_can_be_a_term(case: Case) -> None:
    if case.name in ("own_exits",):
        at: Any = ["net.stages.0", "net.stages.2"]
    else:
        at = "net.stages.1" if case.name in ("adversarial_feature", "native_ensemble") else ()
    term = Term(case.loss, at=at)
    assert term.needs == tuple(case.reads)
    assert term.reads_teacher == any(word in ("teacher_logits", "judged_feature") for word in case.reads)


# ---- what each of them promises beside ------------------------------------------------------------------------------


def curriculum(theta: Tensor, progress: float, inputs: Inputs) -> Tensor:
    return losses.curriculum_temperature(inputs["student_logits"], inputs["teacher_logits"], theta, progress, rise=0.1)


@pytest.mark.parametrize(("progress", "turned"), [(0.0, 0.0), (0.025, 0.146447), (0.05, 0.5), (0.1, 1.0), (0.7, 1.0)])
def test_the_temperature_goes_up_the_loss_as_far_as_the_curriculum_is(progress: float, turned: float) -> None:
    inputs, theta = draw(CASES[4]), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    value = curriculum(theta, progress, inputs)
    value.backward()
    step = 1e-6
    sides = [number(curriculum(torch.tensor(0.4 + s, dtype=torch.float64), progress, inputs)) for s in (step, -step)]
    slope = (sides[0] - sides[1]) / (2 * step)
    assert theta.grad is not None
    assert float(theta.grad) == pytest.approx(-turned * slope, rel=1e-5, abs=1e-9)
    assert abs(slope) > 1e-3
    # The value is that of soft targets, with or without the reversal.
    t = 1 + 20 / (1 + math.exp(-0.4))
    assert number(value) == pytest.approx(
        number(losses.soft_target(inputs["student_logits"], inputs["teacher_logits"], temperature=t)), rel=1e-12
    )


def test_the_students_gradient_under_the_curriculum_is_that_of_soft_targets() -> None:
    inputs = draw(CASES[4])
    student = inputs["student_logits"].requires_grad_()
    (found,) = torch.autograd.grad(curriculum(torch.tensor(0.4, dtype=torch.float64), 0.5, inputs), student)
    t = 1 + 20 / (1 + math.exp(-0.4))
    soft_value = losses.soft_target(student, inputs["teacher_logits"], temperature=t)
    (expected,) = torch.autograd.grad(soft_value, student)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_it_starts_where_its_authors_start() -> None:
    start = 1 + 20 / (1 + math.exp(-COMPANIONS["temperature_parameter"].settings["initial"]))
    assert start == pytest.approx(15.6212, abs=1e-4)


def test_a_temperature_that_is_no_number_is_refused() -> None:
    inputs = draw(CASES[4])
    for bad in (torch.zeros(2), torch.tensor(1)):
        with pytest.raises(InputError, match="temperature_parameter is one number"):
            losses.curriculum_temperature(inputs["student_logits"], inputs["teacher_logits"], bad, 0.5)


def test_a_teacher_grows_in_levels_and_then_is_silent() -> None:
    teacher = torch.tensor([[3.0, 1.0, 0.2, -1.0]], dtype=torch.float64)
    for step in range(60):
        phi = (step // 6 + 1) / 10
        matched = phi * teacher
        assert number(losses.annealed(matched, teacher, step / 100)) == pytest.approx(0.0, abs=1e-20), step
    silent = torch.full((1, 4), 1e30, requires_grad=True)
    value = losses.annealed(silent, teacher.float(), 0.6)
    value.backward()
    assert number(value) == 0.0
    assert silent.grad is not None
    assert not silent.grad.any()


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.5, 0.4), (1.0, 0.8)])
def test_the_past_counts_as_far_as_training_is(progress: float, share: float) -> None:
    uniform, sure = torch.full((1, 4), 0.25), torch.tensor([[30.0, 0.0, 0.0, 0.0]])
    value = number(losses.progressive(sure, uniform, torch.tensor([0]), progress))
    assert value == pytest.approx(share * 30 * 0.75, rel=1e-5, abs=1e-9)
    never = torch.full((1, 4), math.nan)
    alone = number(losses.progressive(sure, never, torch.tensor([0]), progress))
    assert alone == pytest.approx(0.0, abs=1e-9)


def test_the_least_value_with_a_past_is_the_entropy_of_the_mixture() -> None:
    past = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    target = 0.6 * torch.tensor([[0.0, 1.0, 0.0, 0.0]], dtype=torch.float64) + 0.4 * past
    entropy = -float((target * target.log()).sum())
    labels = torch.tensor([1])
    assert number(losses.progressive(target.log(), past, labels, 0.5)) == pytest.approx(entropy)
    for seed in range(20):
        other = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        assert number(losses.progressive(other, past, labels, 0.5)) > entropy


def test_a_judge_that_cannot_tell_says_one_half_and_loses_log_four() -> None:
    even = [torch.zeros(7, dtype=torch.float64)] * 3
    assert number(losses.adversarial_feature(even)) - math.log(2) == pytest.approx(math.log(4))
    # For equal distributions that is the best that any judge can do.
    same = torch.linspace(-2, 2, 200, dtype=torch.float64)
    score = torch.zeros(200, dtype=torch.float64, requires_grad=True)
    finder = torch.optim.LBFGS([score], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        finder.zero_grad()
        loss = losses.adversarial_feature([torch.zeros_like(same), score, score])
        loss.backward()
        return loss

    with torch.no_grad():
        score += same
    finder.step(closure)
    assert torch.sigmoid(score.detach()).numpy() == pytest.approx(0.5, abs=1e-4)
    assert number(closure()) - math.log(2) == pytest.approx(math.log(4), abs=1e-6)


def test_the_best_exit_is_neither_the_label_nor_the_deepest_one() -> None:
    deep, labels = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), torch.tensor([1])
    exit_ = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    still = torch.zeros(1, 2, dtype=torch.float64)
    finder = torch.optim.LBFGS([exit_], max_iter=80, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        finder.zero_grad()
        loss = losses.own_exits(deep, [exit_, still], [still, still], labels, temperature=1.0)
        loss.backward()
        return loss

    finder.step(closure)
    # At temperature 1 both parts are linear in log q, so the best is their mixture.
    expected = 0.7 * torch.tensor([0.0, 1.0, 0.0]) + 0.3 * deep[0].softmax(-1)
    assert exit_.detach().softmax(-1)[0].numpy() == pytest.approx(expected.numpy(), abs=1e-4)


def test_an_exit_of_another_shape_is_refused() -> None:
    inputs = draw(CASES[6])
    inputs["exits"][-1] = torch.zeros(ROWS, 3, 4, 4, dtype=torch.float64)
    with pytest.raises(InputError, match="does not have the shape of the deepest one"):
        losses.own_exits(*inputs.values())


def test_branches_learn_from_an_ensemble_that_is_a_constant() -> None:
    inputs = draw(CASES[5])
    student, (one, two, gate), labels = inputs["student_logits"], inputs["branches"], inputs["target"]
    learning = [part.requires_grad_() for part in (student, one, two, gate)]
    found = torch.autograd.grad(losses.native_ensemble(student, [one, two, gate], labels), learning)
    together = gate[:, :1] * student + gate[:, 1:2] * one + gate[:, 2:] * two
    fixed = together.detach()
    # Written out with the ensemble's answer as a number, each gradient can be told from this alone.
    expected = torch.nn.functional.cross_entropy(together, labels)
    for part in (student, one, two):
        expected = expected + torch.nn.functional.cross_entropy(part, labels)
        log_q = (part / 3).log_softmax(-1)
        p = (fixed / 3).softmax(-1)
        expected = expected + 9 * (p * (p.log() - log_q)).sum(-1).mean()
    for mine, right in zip(found, torch.autograd.grad(expected, learning), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-9, atol=1e-12)
