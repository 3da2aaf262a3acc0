"""What every exported loss on logits must keep, one row of the table for each; a loss without a row fails.

Losses on features, which say so in the names of their parameters, keep a contract of their own.

1 a default call works · 2 equals an independent float64 reference · 3 least at a match, and a divergence is 0 there ·
4 gradient matches finite differences, none reaches the teacher · 5 invariances · 6 finite at ±1e4 and in half
precision · 7 masked rows do not matter · 8 T² · 9 chunked = whole, top-k = dense at k = C · 10 errors · 11 the
docstring.
"""

from __future__ import annotations

import dataclasses
import doctest
import functools
import importlib.util
import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tutelage import losses
from tutelage.errors import InputError
from tutelage.losses.chunking import COUPLED, chunked
from tutelage.losses.targets import top_k
from tutelage.objective import NEEDS, Term
from tutelage.types import TopK
from tutelage.words import COMPANIONS

_SPEC = importlib.util.spec_from_file_location("reference_losses", Path(__file__).with_name("reference_losses.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reference)

HEADINGS = ["Equation", "Use", "Args", "Returns", "Raises", "Example", "Reference"]
# Stand for weights of as many classes as the case has.
WEIGHTS = {"class_weights": None}
POSITIVE = {"positive_weights": None}
READ = {"student_logits", "teacher_logits", "labels", "target"}


@dataclasses.dataclass(frozen=True)
class Case:
    """What one loss promises."""

    name: str
    options: tuple[dict[str, Any], ...] = ()  # besides the defaults
    refused: tuple[dict[str, Any], ...] = ()  # options out of range
    target: str = "labels"  # or "probabilities" of classes, "several" labels at once, "numbers"
    divergence: bool = True  # 0 where student and teacher agree
    least: str = "entropy"  # of one that is no divergence: its target's "entropy", 0 at the "target", or "none" is told
    shift: bool = True  # adding a number to a row of logits changes nothing
    scaled: bool = True  # loss(z, T) = T² loss(z / T, 1)
    one_sided: bool = False  # its temperature is the teacher's alone, and there is no T²
    held: bool = False  # weights depend on the student, and are held fixed in the gradient
    doubled: bool = True  # a batch twice over has the value of the batch
    single: bool = False  # one column is enough
    top_k: str = "none"  # "any" k, "all" for k = C only, "none" where there is no teacher
    temperature_free: bool = False  # reads top-k taken at any temperature
    ranks: bool = False  # reads the teacher's first items in order: what a top-k holds is all that teaches
    ordinal: bool = False  # of the teacher only the order counts, so that its shift changes nothing

    @property
    def loss(self) -> Callable[..., Tensor]:
        return getattr(losses, self.name)

    @property
    def reads(self) -> list[str]:
        parameters = inspect.signature(self.loss).parameters.values()
        return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]

    @property
    def softens(self) -> bool:
        return "temperature" in inspect.signature(self.loss).parameters

    @property
    def soft(self) -> bool:
        return self.target != "labels"

    @property
    def usual(self) -> float:
        return float(inspect.signature(self.loss).parameters["temperature"].default)

    @property
    def coupled(self) -> bool:
        return self.loss in COUPLED

    def settings(self) -> tuple[dict[str, Any], ...]:
        return ({}, *self.options)


SHARES = (0.0, 1.0, -0.5, math.nan)  # no number in (0, 1)
WEIGHTINGS = (-1.0, math.inf, math.nan)  # no weight of a part

CASES = [
    Case(
        "adaptive_kl",
        ({"head": 0.9}, {"temperature": 3.0, "head": 0.1}),
        tuple({"head": bad} for bad in SHARES),
        held=True,
        top_k="all",
    ),
    Case(
        "binary_cross_entropy",
        (POSITIVE,),
        tuple({"positive_weights": torch.ones(shape)} for shape in ((3,), (), (5, 1))),
        target="several",
        divergence=False,
        shift=False,
        single=True,
    ),
    Case("binary_soft_target", ({"temperature": 4.0},), shift=False, top_k="all", single=True),
    Case(
        "bounded_regression",
        ({"margin": 1.5},),
        tuple({"margin": bad} for bad in WEIGHTINGS),
        target="numbers",
        divergence=False,
        least="target",
        shift=False,
        top_k="all",
        single=True,
    ),
    Case(
        "collaborative_ranking",
        ({"top": 2}, {"top": 3, "decay": 1.0, "temperature": 2.0}),
        (
            *[{"top": bad} for bad in (0, 6, -1)],
            *[{"decay": bad} for bad in (0.0, -1.0, math.nan, math.inf)],
            *[{"shift": bad} for bad in (math.nan, math.inf)],
        ),
        shift=False,
        one_sided=True,
        top_k="any",
        temperature_free=True,
        ranks=True,
    ),
    Case(
        "cross_entropy",
        (
            {"label_smoothing": 0.1},
            {"label_smoothing": 0.3, "smoothing": "others"},
            WEIGHTS,
            WEIGHTS | {"label_smoothing": 0.2},
        ),
        (
            *[{"label_smoothing": bad} for bad in (1.0, -0.1, math.nan)],
            {"smoothing": "some"},
            *[{"class_weights": torch.ones(shape)} for shape in ((3,), (), (5, 1))],
        ),
        divergence=False,
    ),
    Case(
        "cross_entropy",
        ({"label_smoothing": 0.1}, WEIGHTS),
        ({"smoothing": "others"},),
        target="probabilities",
        divergence=False,
    ),
    Case(
        "decoupled",
        ({"alpha": 0.5, "beta": 2.0}, {"temperature": 1.0}, {"alpha": 0.0}),
        tuple({name: bad} for name in ("alpha", "beta") for bad in WEIGHTINGS),
        top_k="all",
    ),
    Case(
        "dist",
        ({"beta": 2.0, "gamma": 0.5, "temperature": 4.0}, {"gamma": 0.0}, {"beta": 0.0}),
        tuple({name: bad} for name in ("beta", "gamma") for bad in WEIGHTINGS),
        top_k="all",
    ),
    Case("hard_label", divergence=False, top_k="any", temperature_free=True),
    Case(
        "jensen_shannon",
        ({"mix": 0.1}, {"mix": 0.9, "temperature": 3.0}),
        tuple({"mix": bad} for bad in SHARES),
        top_k="any",
    ),
    Case("logit_mse", shift=False, top_k="all"),
    Case("margin_mse", top_k="all"),
    Case(
        "multi_level",
        ({"temperatures": [1.0], "instance": 0.0}, {"temperatures": (4.0, 0.5), "batch": 0.0}, {"classes": 0.0}),
        (
            *[{"temperatures": bad} for bad in ((), 4.0, (1.0, 0.0), (math.nan,))],
            *[{name: bad} for name in ("instance", "batch", "classes") for bad in WEIGHTINGS],
        ),
        doubled=False,
        top_k="all",
    ),
    Case(
        "normalized",
        ({"gamma": 0.0}, {"gamma": 1.0, "temperature": 4.0}),
        tuple({"gamma": bad} for bad in WEIGHTINGS),
        divergence=False,
        least="none",
        scaled=False,
        top_k="all",
    ),
    Case(
        "one_for_all",
        ({"gamma": 1.0}, {"gamma": 0.5}),
        tuple({"gamma": bad} for bad in (0.0, -1.0, math.inf, math.nan)),
        divergence=False,
        top_k="all",
    ),
    Case(
        "position_weighted_ranking",
        ({"top": 2}, {"discrepancy": None}, {"top": 3, "decay": 1.0, "discrepancy": 0.5}),
        (
            *[{"top": bad} for bad in (0, 6, -1)],
            *[{"decay": bad} for bad in (0.0, -1.0, math.nan, math.inf)],
            *[{"discrepancy": bad} for bad in WEIGHTINGS],
        ),
        divergence=False,
        least="none",
        shift=False,
        top_k="any",
        temperature_free=True,
        ranks=True,
        ordinal=True,
    ),
    Case("regression_mse", target="numbers", divergence=False, least="target", shift=False, single=True),
    Case(
        "relaxed_ranking",
        ({"top": 2}, {"top": 1}, {"top": 2, "others": 1}, {"others": 3}),
        ({"top": 0}, {"top": 6}, {"top": -1}, {"others": 0}, {"others": -1}),
        divergence=False,
        least="none",
        top_k="any",
        temperature_free=True,
        ranks=True,
        ordinal=True,
    ),
    Case("reverse_soft_target", ({"temperature": 4.0},), top_k="any"),
    Case("skewed", ({"skew": 0.5, "temperature": 2.0},), tuple({"skew": bad} for bad in SHARES), top_k="any"),
    Case("skewed_reverse", ({"skew": 0.5, "temperature": 2.0},), tuple({"skew": bad} for bad in SHARES), top_k="any"),
    Case("soft_target", ({"temperature": 1.0}, {"temperature": 0.5}), top_k="any"),
    Case(
        "standardized",
        ({"ddof": 0}, {"temperature": 4.0}),
        ({"ddof": 2}, {"ddof": -1}),
        scaled=False,
        top_k="all",
    ),
    Case(
        "teacher_free",
        ({"certainty": 0.5, "temperature": 1.0}, {"certainty": 1e-3}),
        tuple({"certainty": bad} for bad in SHARES),
        divergence=False,
        scaled=False,
    ),
    Case("transformed_teacher", ({"temperature": 2.0}, {"temperature": 0.5}), one_sided=True, top_k="any"),
    Case("weighted_soft_target", ({"temperature": 1.0},), scaled=False, held=True, top_k="all"),
    Case("weighted_transformed_teacher", ({"temperature": 2.0}, {"temperature": 0.5}), one_sided=True, top_k="all"),
]


def _named(case: Case) -> str:
    return case.name + ("-probabilities" if case.target == "probabilities" else "")


every = pytest.mark.parametrize("case", CASES, ids=_named)
taught = pytest.mark.parametrize("case", [case for case in CASES if case.top_k != "none"], ids=_named)


def draw(
    case: Case, *, seed: int = 0, leading: tuple[int, ...] = (6,), classes: int = 5, scale: float = 2.0
) -> list[Tensor]:
    """The loss's positional arguments in float64, the student's logits first and with a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def logits() -> Tensor:
        return torch.randn(*leading, classes, generator=generator, dtype=torch.float64) * scale

    drawn = []
    for name in case.reads:
        if name == "labels" or (name == "target" and not case.soft):
            drawn.append(torch.randint(0, classes, leading, generator=generator))
        else:
            made = {"probabilities": lambda z: z.softmax(-1), "several": torch.sigmoid}.get(case.target, lambda z: z)
            drawn.append(made(logits()) if name == "target" else logits())
    drawn[0].requires_grad_()
    return drawn


def filled(options: dict[str, Any], classes: int) -> dict[str, Any]:
    weights = torch.linspace(0.5, 2.0, classes, dtype=torch.float64)
    return options | {name: weights for name in ("class_weights", "positive_weights") if name in options}


def number(value: Tensor) -> float:
    return float(value.detach())


def gradient(value: Tensor, student: Tensor) -> Tensor:
    # No step on the way back may make a NaN either, even one that a later step would drop.
    with torch.autograd.set_detect_anomaly(value.device.type != "meta"):
        (found,) = torch.autograd.grad(value, student)
    return found


def as_dtype(inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The same inputs in another precision, as leaves."""
    cast = [one.detach().to(dtype) if one.is_floating_point() else one for one in inputs]
    cast[0].requires_grad_()
    return cast


def rows_of(inputs: list[Tensor], index: Tensor) -> list[Tensor]:
    taken = [one.detach()[index] for one in inputs]
    taken[0].requires_grad_()
    return taken


def test_every_loss_has_a_row() -> None:
    reads = {name: set(Case(name).reads) for name in losses.__all__}
    listed = {name for name, words in reads.items() if words <= READ}
    assert {case.name for case in CASES} == listed
    assert {name for name in vars(reference) if name in losses.__all__} == listed
    for name in reads.keys() - listed:
        assert any(kind in word for word in reads[name] for kind in ("feature", "gradient", "adversarial")) or any(
            word in (*COMPANIONS, "teacher_members", "progress", "partner_logits") for word in reads[name]
        ), f"{name} has no contract"
    assert list(losses.__all__) == sorted(losses.__all__)


# 1 · a default call works


@every
def test_a_default_call_gives_a_number_with_a_gradient(case: Case) -> None:
    inputs = as_dtype(draw(case), torch.float32)
    value = case.loss(*inputs)
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert gradient(value, inputs[0]).abs().sum() > 0


@every
def test_its_parameters_are_words_that_an_objective_knows(case: Case) -> None:
    assert set(case.reads) <= set(NEEDS)
    assert case.reads[0] == "student_logits"
    keywords = [p for p in inspect.signature(case.loss).parameters.values() if p.name not in case.reads]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in keywords)
    assert keywords[-1].name == "mask"


# 2 · the reference


@every
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(3, 9),
    classes=st.integers(3, 12),
    scale=st.floats(0.1, 5.0),
    temperature=st.floats(0.5, 20.0),
)
def test_it_equals_the_reference(
    case: Case, seed: int, rows: int, classes: int, scale: float, temperature: float
) -> None:
    inputs = draw(case, seed=seed, leading=(rows,), classes=classes, scale=scale)
    for options in case.settings():
        options = filled(options, classes)
        if case.softens:
            options = {"temperature": temperature} | options
        told = {key: value.numpy() if isinstance(value, Tensor) else value for key, value in options.items()}
        expected = getattr(reference, case.name)(*[one.detach().numpy() for one in inputs], **told)
        found = case.loss(*inputs, **options)
        assert found.dtype == torch.float64
        assert number(found) == pytest.approx(expected, rel=1e-7, abs=1e-9), options


# 3 · the least value


@every
def test_no_value_is_below_that_of_a_match(case: Case) -> None:
    for seed in range(20):
        inputs = draw(case, seed=seed, scale=0.1 + seed / 4)
        student = inputs[0].detach()
        for options in case.settings():
            options = filled(options, 5)
            value = number(case.loss(*inputs, **options))
            if case.divergence:
                # A student that is not softened itself matches the teacher's softened answer.
                match = student * options.get("temperature", case.usual) if case.one_sided else student.clone()
                assert number(case.loss(student, match, *inputs[2:], **options)) == pytest.approx(0, abs=1e-12)
                assert value >= 0.0
            elif case.least == "target":
                assert value >= 0.0
                assert number(case.loss(inputs[-1], *inputs[1:], **options)) == 0.0
            elif case.least == "entropy":
                # A cross-entropy's least value is its target's entropy, reached where the student says the target.
                best, least = told_target(case, inputs, options)
                assert value >= least - 1e-9
                if case.name != "hard_label":  # whose teacher would move as well
                    assert number(case.loss(best, *inputs[1:], **options)) == pytest.approx(least, abs=1e-9)


def told_target(case: Case, inputs: list[Tensor], options: dict[str, Any]) -> tuple[Tensor, float]:
    """Logits that say what a cross-entropy is told, and its value there."""
    if case.name == "binary_cross_entropy":
        weighted = inputs[1] * options.get("positive_weights", 1.0)
        p = weighted / (weighted + 1 - inputs[1])
        entropy = -torch.special.xlogy(weighted, p) - torch.special.xlogy(1 - inputs[1], 1 - p)
        return p.logit(), float(entropy.sum(-1).mean())
    if case.name == "teacher_free":
        a = options.get("certainty", 0.99)
        u = torch.where(torch.nn.functional.one_hot(inputs[1], 5) == 1, a, (1 - a) / 4).double()
        return u.log(), 0.0
    shares = weighted_shares(case, inputs, options)
    best = (shares / shares.sum(-1, keepdim=True)).clamp(min=1e-300)
    return best.log(), -float(torch.special.xlogy(shares, best).sum(-1).mean())


def weighted_shares(case: Case, inputs: list[Tensor], options: dict[str, Any]) -> Tensor:
    """w_c t_c, the target as a cross-entropy sees it."""
    target = inputs[1]
    if case.name == "one_for_all":
        label = torch.nn.functional.one_hot(inputs[2], 5)
        return (target.softmax(-1) + label) ** options.get("gamma", 1.5) - label
    labels = target.argmax(-1) if case.name == "hard_label" else target
    shares = target if case.soft else torch.nn.functional.one_hot(labels, 5).double()
    epsilon = options.get("label_smoothing", 0.0)
    others = (
        epsilon / 4 * (1 - shares) if options.get("smoothing") == "others" else epsilon / 5 * torch.ones_like(shares)
    )
    return (shares * (1 - epsilon) + others) * options.get("class_weights", 1.0)


# 4 · gradients


@every
def test_its_gradient_matches_finite_differences(case: Case) -> None:
    student, *others = draw(case, seed=3)
    mask = torch.tensor([True, False, True, True, False, True])
    for options in case.settings():
        for also in ({}, {"mask": mask}):
            function = functools.partial(case.loss, **filled(options, 5), **also)
            # With weights held fixed the gradient is none of the value; their closed forms are among the known numbers.
            matches = torch.autograd.gradcheck(
                lambda z, f=function: f(z, *others), (student,), raise_exception=not case.held
            )
            assert matches is not case.held


@taught
def test_no_gradient_reaches_the_teacher(case: Case) -> None:
    student, teacher, *others = draw(case)
    teacher.requires_grad_()
    before = teacher.detach().clone()
    case.loss(student, teacher, *others).backward()
    assert teacher.grad is None
    assert torch.equal(teacher.detach(), before)
    kept = top_k(teacher, 5)
    assert not kept.values.requires_grad
    assert not kept.tail.requires_grad


# 5 · invariances


@every
def test_a_shift_of_a_row_changes_nothing_where_promised(case: Case) -> None:
    inputs = draw(case)
    shift = torch.linspace(-50, 50, 6, dtype=torch.float64).unsqueeze(-1)
    value = number(case.loss(*inputs))
    moved = number(case.loss(inputs[0] + shift, *inputs[1:]))
    assert (moved == pytest.approx(value, rel=1e-9)) is case.shift
    if case.top_k != "none":
        moved = number(case.loss(inputs[0], inputs[1] - shift, *inputs[2:]))
        assert (moved == pytest.approx(value, rel=1e-9)) is (case.shift or case.ordinal)


@every
def test_order_of_rows_and_doubling_them_change_nothing(case: Case) -> None:
    inputs = draw(case)
    value = number(case.loss(*inputs))
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert number(case.loss(*rows_of(inputs, order))) == pytest.approx(value, rel=1e-12)
    twice = number(case.loss(*rows_of(inputs, torch.arange(6).repeat(2))))
    assert (twice == pytest.approx(value, rel=1e-12)) is case.doubled


@every
def test_order_of_classes_changes_nothing(case: Case) -> None:
    inputs = draw(case)
    value = number(case.loss(*inputs))
    order = torch.tensor([2, 0, 4, 1, 3])
    place = order.argsort()
    moved = [one[..., order] if one.is_floating_point() else place[one] for one in inputs]
    assert number(case.loss(*moved)) == pytest.approx(value, rel=1e-12)


@every
def test_leading_dimensions_do_not_matter(case: Case) -> None:
    inputs = draw(case, leading=(12,))
    shaped = [one.detach().reshape(2, 3, 2, *one.shape[1:]) for one in inputs]
    assert number(case.loss(*shaped)) == pytest.approx(number(case.loss(*inputs)), rel=1e-12)
    mask = torch.arange(12) % 3 > 0
    found = number(case.loss(*shaped, mask=mask.reshape(2, 3, 2)))
    assert found == pytest.approx(number(case.loss(*inputs, mask=mask)), rel=1e-12)
    single = [one.detach()[0] for one in inputs]
    alone = [one.detach()[:1] for one in inputs]
    assert number(case.loss(*single)) == pytest.approx(number(case.loss(*alone)), rel=1e-12)


# 6 · extremes and half precision

ROWS = torch.tensor(
    [
        [1e4, -1e4, 0.0, 0.0, 0.0],
        [-1e4, 1e4, 1e4, -1e4, -1e4],
        [1e4, 1e4, 1e4, 1e4, 1e4],
        [0.1, 0.1, 0.1, 0.1, 0.1],
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [1.0, 2.0, 0.5, 0.0, -1.0],
    ]
)


def extremes(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """Every row of `ROWS` for the student beside every one for the teacher, and every label."""
    student, teacher = ROWS.repeat_interleave(len(ROWS), 0), ROWS.repeat(len(ROWS), 1)
    made = []
    for name, drawn in zip(case.reads, draw(case, leading=(len(student),)), strict=True):
        known = {"student_logits": student, "teacher_logits": teacher, "labels": torch.arange(len(student)) % 5}
        made.append(known.get(name, drawn.detach()))
    return as_dtype(made, dtype)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_value_and_gradient_are_finite_at_extremes(case: Case, dtype: torch.dtype) -> None:
    inputs = extremes(case, dtype)
    batches = [torch.arange(36), *torch.arange(36).unsqueeze(-1), *[torch.full((4,), row) for row in range(36)]]
    for options in case.settings():
        for index in batches:  # the whole, single rows, and rows repeated, which makes every column constant
            some = rows_of(inputs, index)
            value = case.loss(*some, **filled(options, 5))
            assert torch.isfinite(value)
            assert torch.isfinite(gradient(value, some[0])).all()


@every
def test_half_precision_is_computed_in_single(case: Case) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        inputs = as_dtype(draw(case), dtype)
        single = as_dtype(inputs, torch.float32)
        value, expected = case.loss(*inputs), case.loss(*single)
        assert value.dtype == torch.float32
        assert number(value) == number(expected)
        assert gradient(value, inputs[0]).dtype == dtype


@taught
def test_precisions_of_student_and_teacher_may_differ(case: Case) -> None:
    student, teacher, *others = draw(case)
    value = case.loss(student, teacher.to(torch.bfloat16), *others)
    assert number(value) == pytest.approx(number(case.loss(student, teacher, *others)), rel=0.1)


@every
def test_no_value_of_a_tensor_is_read(case: Case) -> None:
    # Tensors on "meta" have none to read. On a graphics card each reading would hold up the queue.
    inputs = [one.detach().to("meta") for one in draw(case)]
    inputs[0].requires_grad_()
    mask = torch.ones(6, dtype=torch.bool, device="meta")
    for options in case.settings():
        options = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in filled(options, 5).items()}
        for also in ({}, {"mask": mask}):
            value = case.loss(*inputs, **options, **also)
            assert gradient(value, inputs[0]).shape == (6, 5)


class Calls(TorchDispatchMode):
    """The names of all operations below, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


# What `torch.use_deterministic_algorithms` refuses on a graphics card, of what a loss could want. Runs set it.
REFUSED = {"cumsum", "bincount", "histc", "median", "nll_loss2d_forward", "put_", "_embedding_bag"}


@every
def test_a_deterministic_run_on_a_graphics_card_refuses_none_of_its_operations(case: Case) -> None:
    inputs = draw(case)
    mask = torch.tensor([True, False, True, True, False, True])
    with Calls() as calls:
        for options in case.settings():
            for also in ({}, {"mask": mask}):
                gradient(case.loss(*inputs, **filled(options, 5), **also), inputs[0])
    assert "sum" in calls.names
    assert not calls.names & REFUSED


# 7 · masks


def spoil(inputs: list[Tensor], mask: Tensor, with_: float) -> list[Tensor]:
    """The same inputs with garbage in the rows that do not count."""
    spoiled = []
    for one in inputs:
        other = one.detach().clone()
        other[~mask] = with_ if one.is_floating_point() else -100
        spoiled.append(other)
    spoiled[0].requires_grad_()
    return spoiled


@every
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e300])
def test_masked_rows_do_not_matter(case: Case, garbage: float) -> None:
    inputs = draw(case)
    mask = torch.tensor([True, False, True, True, False, True])
    for options in case.settings():
        options = filled(options, 5)
        left = rows_of(inputs, mask)
        expected = case.loss(*left, **options)
        spoiled = spoil(inputs, mask, garbage)
        found = case.loss(*spoiled, mask=mask, **options)
        assert number(found) == pytest.approx(number(expected), rel=1e-12)
        slope = gradient(found, spoiled[0])
        assert torch.allclose(slope[mask], gradient(expected, left[0]), rtol=1e-10, atol=1e-14)
        assert torch.equal(slope[~mask], torch.zeros(2, 5, dtype=torch.float64))


@every
def test_a_mask_that_leaves_all_changes_nothing(case: Case) -> None:
    inputs = draw(case)
    value = number(case.loss(*inputs, mask=torch.ones(6, dtype=torch.bool)))
    assert value == pytest.approx(number(case.loss(*inputs)), rel=1e-12)


@every
def test_a_mask_that_leaves_none_gives_a_differentiable_zero(case: Case) -> None:
    mask = torch.zeros(6, dtype=torch.bool)
    for options in case.settings():
        inputs = spoil(draw(case), mask, math.nan)
        value = case.loss(*inputs, mask=mask, **filled(options, 5))
        assert number(value) == 0.0
        assert torch.equal(gradient(value, inputs[0]), torch.zeros(6, 5, dtype=torch.float64))


# 8 · temperature


@every
def test_temperature_scales_as_stated(case: Case) -> None:
    text = inspect.getdoc(case.loss) or ""
    if case.name != "multi_level" and (not case.softens or case.one_sided):
        assert "T²" not in text.replace("No T²", "").replace("no T²", "")
        return
    assert "T² ·" in text
    if not case.softens:
        return
    inputs = draw(case)
    for temperature in (0.5, 3.0, 20.0):
        if case.scaled:
            parts = [z / temperature if z.is_floating_point() else z for z in inputs]
            expected = temperature**2 * number(case.loss(*parts, temperature=1.0))
            assert number(case.loss(*inputs, temperature=temperature)) == pytest.approx(expected, rel=1e-9)


@every
def test_the_gradient_keeps_its_size_when_the_temperature_rises(case: Case) -> None:
    if not case.softens:
        return
    inputs = draw(case)
    base = gradient(case.loss(*inputs, temperature=32.0), inputs[0]).norm()
    for temperature in (16.0, 64.0, 512.0):
        size = gradient(case.loss(*inputs, temperature=temperature), inputs[0]).norm()
        if case.name == "dist":
            # A correlation does not fade as probabilities draw together: here T² is not made up for, as its text says.
            size = size * (32.0 / temperature) ** 2
        assert 0.5 < float(size / base) < 2.0


# 9 · chunks and top-k


@every
@pytest.mark.parametrize("rows", [1, 4, 5, 12, 100])
def test_chunks_equal_the_whole(case: Case, rows: int) -> None:
    if case.coupled:
        with pytest.raises(InputError, match="chunks"):
            chunked(case.loss, rows)
        with pytest.raises(InputError, match=f"{case.name} compares rows"):
            chunked(functools.partial(case.loss, mask=None), rows)
        return
    for leading in ((12,), (3, 4)):
        inputs = draw(case, leading=leading)
        some = (torch.arange(12) % 5 > 1).reshape(leading)
        for mask in (None, some, torch.zeros_like(some)):
            for options in case.settings():
                options = filled(options, 5)
                whole = case.loss(*inputs, mask=mask, **options)
                parts = chunked(case.loss, rows)(*inputs, mask=mask, **options)
                assert parts.dtype == whole.dtype
                assert number(parts) == pytest.approx(number(whole), rel=1e-12)
                slope, expected = gradient(parts, inputs[0]), gradient(whole, inputs[0])
                assert torch.allclose(slope, expected, rtol=1e-10, atol=1e-14)


@every
def test_chunked_it_is_still_a_term(case: Case) -> None:
    if case.coupled:
        return
    wrapped = chunked(case.loss, 8)
    assert inspect.signature(wrapped) == inspect.signature(case.loss)
    term = Term(wrapped, temperature=3.0 if case.softens else None)
    assert term.name == case.name
    assert term.needs == tuple(case.reads)


@taught
def test_all_classes_as_top_k_are_the_whole_teacher(case: Case) -> None:
    student, teacher, *others = draw(case)
    mask = torch.tensor([True, False, True, True, False, True])
    # Nothing is in the tail, so the temperature it was taken at does not matter.
    kept = top_k(teacher, 5, temperature=7.0)
    assert torch.isneginf(kept.tail).all()
    for options in case.settings():
        for also in ({}, {"mask": mask}):
            whole = case.loss(student, teacher, *others, **options, **also)
            found = case.loss(student, kept, *others, **options, **also)
            assert number(found) == number(whole)
            assert torch.equal(gradient(found, student), gradient(whole, student))


@taught
@pytest.mark.parametrize("k", [1, 2, 4])
def test_top_k_is_a_divergence_over_k_classes_and_the_others(case: Case, k: int) -> None:
    student, teacher, *others = draw(case, seed=4)
    temperature = {"temperature": 3.0} if case.softens else {}
    kept = top_k(teacher, k, **temperature)
    if case.top_k == "all":
        with pytest.raises(InputError, match="top-k is read by soft_target"):
            case.loss(student, kept, *others)
        return
    found = case.loss(student, kept, **temperature)
    assert torch.autograd.gradcheck(lambda z: case.loss(z, kept, **temperature), (student,))
    if case.temperature_free:
        first = {"top": k} if case.ranks else {}
        assert number(found) == number(case.loss(student, teacher, **temperature, **first))
        if case.ranks:
            refuse(case.loss, student, kept, says=f"1 … {k}", top=k + 1)
        return
    # Merged outcomes as logits at temperature 1, from probabilities.
    merged = []
    for logits in (student * 3.0 if case.one_sided else student, teacher):
        shares = (logits.detach() / 3.0).softmax(-1)
        first = shares.gather(-1, kept.indices)
        merged.append(torch.cat([first, 1 - first.sum(-1, keepdim=True)], -1).log())
    expected = getattr(reference, case.name)(*[one.numpy() for one in merged], temperature=1.0)
    assert number(found) == pytest.approx((1.0 if case.one_sided else 9.0) * expected, rel=1e-8)
    assert number(found) <= number(case.loss(student, teacher, **temperature)) + 1e-12
    with pytest.raises(InputError, match="taken at 3, read at 2"):
        case.loss(student, kept, temperature=2.0)


@taught
@pytest.mark.parametrize("k", [2, 5])
def test_masked_rows_of_top_k_do_not_matter(case: Case, k: int) -> None:
    if k < 5 and case.top_k == "all":
        return
    student, teacher, *others = draw(case)
    temperature = {"temperature": 3.0} if case.softens else {}
    mask = torch.tensor([True, False, True, True, False, True])
    kept = top_k(teacher, k, **temperature)
    expected = case.loss(student, kept, *others, **temperature, mask=mask)
    values, indices, tail = kept.values.clone(), kept.indices.clone(), kept.tail.clone()
    values[~mask], indices[~mask], tail[~mask] = math.nan, 10**9, math.nan
    spoiled = dataclasses.replace(kept, values=values, indices=indices, tail=tail)
    ruined = spoil([student], mask, math.nan)[0]
    found = case.loss(ruined, spoiled, *others, **temperature, mask=mask)
    assert number(found) == number(expected)
    assert torch.equal(gradient(found, ruined), gradient(expected, student))


@taught
def test_chunks_of_top_k_equal_the_whole(case: Case) -> None:
    if case.top_k == "all" or case.coupled:
        return
    student, teacher = draw(case, leading=(3, 4))
    temperature = {"temperature": 3.0} if case.softens else {}
    kept = top_k(teacher, 2, **temperature)
    mask = (torch.arange(12) % 5 > 1).reshape(3, 4)
    found = chunked(case.loss, 5)(student, kept, mask=mask, **temperature)
    assert number(found) == pytest.approx(number(case.loss(student, kept, mask=mask, **temperature)), rel=1e-12)


# 10 · errors


def refuse(call: Callable[..., Tensor], *inputs: Any, says: str, **options: Any) -> None:
    """It raises, in the template: what is wrong, what was given, what was expected."""
    with pytest.raises(InputError) as caught:
        call(*inputs, **options)
    assert says in str(caught.value)
    assert caught.value.problem.given
    assert caught.value.problem.expected


@every
def test_wrong_shapes_and_types_are_refused(case: Case) -> None:
    student, *others = draw(case)
    refuse(case.loss, student.detach().long(), *others, says="torch.int64")
    narrow = [student.detach()[:, :1], *[o[:, :1] if o.is_floating_point() else o for o in others]]
    if case.single:
        assert torch.isfinite(case.loss(*narrow))
    else:
        refuse(case.loss, *narrow, says="C")
    refuse(case.loss, student[:0], *[o[:0] for o in others], says="(0, 5)")
    refuse(case.loss, student[0, 0], *others, says="()")
    refuse(case.loss, student[:4], *others, says="(4, 5)")
    if case.top_k != "none" or case.soft:
        refuse(case.loss, torch.cat([student, student], -1), *others, says="10")
    for place, name in enumerate(case.reads[1:]):
        wrong = list(others)
        if name.endswith("logits"):
            wrong[place] = others[place].long()
            refuse(case.loss, student, *wrong, says="torch.int64")
        elif case.target == "numbers":
            wrong[place] = others[place].long()
            refuse(case.loss, student, *wrong, says="torch.int64")
            wrong[place] = others[place][:, 0]
            refuse(case.loss, student, *wrong, says="(6,)")
        elif not case.soft:
            wrong[place] = others[place].int()
            refuse(case.loss, student, *wrong, says="torch.int32")
            wrong[place] = others[place].unsqueeze(-1)
            refuse(case.loss, student, *wrong, says="(6, 1)")


@every
def test_labels_that_are_no_classes_are_refused(case: Case) -> None:
    student, *others = draw(case)
    for place, name in enumerate(case.reads[1:]):
        if name == "teacher_logits" or case.soft:
            continue
        for label, says in ((5, "to 5"), (-1, "from -1"), (-100, "mask=labels != -100")):
            wrong = list(others)
            wrong[place] = others[place].clone()
            wrong[place][2] = label
            for options in case.settings():
                refuse(case.loss, student, *wrong, says=says, **filled(options, 5))


@every
def test_masks_that_do_not_fit_are_refused(case: Case) -> None:
    inputs = draw(case)
    refuse(case.loss, *inputs, says="torch.float32", mask=torch.ones(6))
    refuse(case.loss, *inputs, says="(5,)", mask=torch.ones(5, dtype=torch.bool))
    refuse(case.loss, *inputs, says="(6, 1)", mask=torch.ones(6, 1, dtype=torch.bool))
    if not case.coupled:
        refuse(chunked(case.loss, 2), *inputs, says="(5,)", mask=torch.ones(5, dtype=torch.bool))
        refuse(chunked(case.loss, 2), inputs[0], *[one[:5] for one in inputs[1:]], says="(5")


@every
def test_options_out_of_range_are_refused(case: Case) -> None:
    inputs = draw(case)
    bad = [{"temperature": t} for t in (0.0, -1.0, math.nan, math.inf)] if case.softens else []
    for options in [*bad, *case.refused]:
        (name,) = options
        refuse(case.loss, *inputs, says=name, **options)


@taught
def test_a_top_k_that_does_not_fit_is_refused(case: Case) -> None:
    student, teacher, *others = draw(case)
    k = 5 if case.top_k == "all" else 2
    temperature = {"temperature": 3.0} if case.softens else {}
    kept = top_k(teacher, k, **temperature)
    call = functools.partial(case.loss, **temperature)
    refuse(call, student, top_k(teacher[:4], k, **temperature), *others, says="(4,")
    refuse(call, student[:, :3], kept, *others, says="(6, 3)")
    if not case.temperature_free:
        refuse(call, student, dataclasses.replace(kept, indices=kept.indices.int()), *others, says="torch.int32")
        refuse(call, student, dataclasses.replace(kept, indices=kept.indices[:, :1]), *others, says="(6, 1)")


def test_top_k_refuses_what_it_cannot_keep() -> None:
    logits = torch.randn(2, 4)
    refuse(lambda: top_k(logits, 0), says="k=0")
    refuse(lambda: top_k(logits, 5), says="1 … 4")
    refuse(lambda: top_k(logits, 2, temperature=0.0), says="temperature")
    refuse(lambda: top_k(logits.long(), 2), says="torch.int64")
    kept = top_k(logits, 2)
    tail = dataclasses.replace(kept, tail=kept.tail.unsqueeze(-1))
    refuse(losses.soft_target, logits, tail, says="tail (2, 1)", temperature=1.0)


def test_chunks_refuse_what_they_cannot_cut() -> None:
    with pytest.raises(InputError, match="at least one row"):
        chunked(losses.soft_target, 0)
    with pytest.raises(InputError, match="by position"):
        chunked(losses.soft_target, 2)(student_logits=torch.zeros(4, 2), teacher_logits=torch.zeros(4, 2))


# 11 · the docstring


@every
def test_its_docstring_says_everything_in_order(case: Case) -> None:
    text = inspect.getdoc(case.loss)
    assert text is not None
    first, blank, *_ = text.splitlines()
    assert blank == ""
    assert re.search(r"\(…, C\).*→ \(\)\.$", first), "the first line ends with the shapes"
    assert re.findall(r"^(\w+):$", text, re.MULTILINE) == HEADINGS
    parts = dict(zip(HEADINGS, re.split(r"^\w+:$", text, flags=re.MULTILINE)[1:], strict=True))
    arguments = re.findall(r"^    (\w+): ", parts["Args"], re.MULTILINE)
    assert arguments == list(inspect.signature(case.loss).parameters)
    assert re.search(r"\bNot\b|\bnot\b", parts["Use"]), "it says when not to use it"
    assert parts["Returns"].strip().startswith("()")
    assert "InputError" in parts["Raises"]
    assert re.search(r"\d{4}.*(arXiv \d{4}\.\d{5}|CVPR|NeurIPS|Journal|Theoria)", parts["Reference"], re.DOTALL)
    examples = doctest.DocTestFinder(recurse=False).find(case.loss, case.name, globs=dict(vars(losses)))
    assert any(re.search(r"tensor\(\d+\.\d{4}\)", step.want) for step in examples[0].examples)
    assert doctest.DocTestRunner(verbose=False).run(examples[0]).failed == 0


def test_the_examples_of_the_helpers_run() -> None:
    for helper in (top_k, chunked):
        (found,) = doctest.DocTestFinder(recurse=False).find(helper, helper.__name__, globs={helper.__name__: helper})
        assert doctest.DocTestRunner(verbose=False).run(found).failed == 0


def test_what_is_kept_between_forward_and_backward_in_chunks() -> None:
    student, teacher = torch.randn(64, 32, requires_grad=True), torch.randn(64, 32)
    kept: list[int] = []

    inputs = {one.untyped_storage().data_ptr() for one in (student, teacher)}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in inputs:  # pieces of the inputs cost nothing
            kept.append(tensor.numel())
        return tensor

    sizes = {}
    for name, loss in {"whole": losses.soft_target, "chunked": chunked(losses.soft_target, 8)}.items():
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss(student, teacher)
        sizes[name] = sum(kept)
    assert sizes["whole"] >= 2 * student.numel()
    assert sizes["chunked"] <= 64  # a number or two for each chunk; the rest is made again


def test_top_k_keeps_what_it_says() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.2, -1.0], [0.0, 2.0, 1.0, 0.5]], dtype=torch.float64)
    kept = top_k(logits, 2, temperature=2.0)
    assert isinstance(kept, TopK)
    assert kept.values.tolist() == [[3.0, 1.0], [2.0, 1.0]]
    assert kept.indices.tolist() == [[0, 1], [1, 2]]
    assert (kept.classes, kept.temperature) == (4, 2.0)
    others = np.exp(np.array([[0.2, -1.0], [0.0, 0.5]]) / 2.0).sum(-1)
    assert kept.tail.numpy() == pytest.approx(np.log(others))
    assert top_k(logits.to(torch.bfloat16), 2).tail.dtype == torch.float32
