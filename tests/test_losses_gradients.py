"""Losses on gradients and on attacked inputs: the contract, known numbers, and the second derivatives behind a step."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from feature_contract import Case, Contract, draw, number, refuse
from tutelage.errors import InputError
from tutelage.losses import cross_entropy, soft_target
from tutelage.losses.gradients import (
    adversarially_robust,
    feature_gradient_matching,
    grad_cam,
    introspective,
    jacobian_matching,
    kernels_with_derivatives,
    robust_soft_label,
)
from tutelage.losses.targets import top_k
from tutelage.models import ModelSpec, build

Array = np.ndarray
KEPT = torch.tensor([True, False, True, True, False])
SETTINGS = ({"normalised": False}, {"distance": "norm"}, {"normalised": False, "distance": "norm"})
READS = {
    jacobian_matching: ["student_input_gradient", "teacher_input_gradient"],
    feature_gradient_matching: ["student_feature_gradient", "teacher_feature_gradient"],
    grad_cam: ["student_feature", "teacher_feature", "student_feature_gradient", "teacher_feature_gradient"],
    adversarially_robust: ["adversarial_logits", "teacher_logits"],
    robust_soft_label: ["student_logits", "teacher_logits", "adversarial_logits"],
    introspective: [
        "student_logits", "teacher_logits", "adversarial_logits", "teacher_adversarial_logits", "labels"
    ],
}  # fmt: skip
OTHERS = (grad_cam, adversarially_robust, robust_soft_label, introspective)


# ---- the same in NumPy, from the equations ---------------------------------------------------------------------------


def apart(student: Array, teacher: Array, normalised: bool = True, distance: str = "square") -> float:
    total = 0.0
    for one, other in zip(student, teacher, strict=True):
        scale, its = (np.sqrt((g**2).sum()) if normalised else 1.0 for g in (one, other))
        square = ((one / scale - other / its) ** 2).sum()
        total += square if distance == "square" else np.sqrt(square)
    return total / len(student)


def pooled(maps: Array, height: int, width: int) -> Array:
    rows = [maps[a * len(maps) // height : -(-(a + 1) * len(maps) // height)].mean(0) for a in range(height)]
    wide = np.stack(rows)
    across = wide.shape[1]
    return np.stack([wide[:, b * across // width : -(-(b + 1) * across // width)].mean(1) for b in range(width)], 1)


def cam(feature: Array, slope: Array) -> Array:
    """(C, H, W) twice → (H, W)."""
    return np.maximum(sum(slope[c].mean() * feature[c] for c in range(len(feature))), 0.0)


def cams_apart(student: Array, teacher: Array, ours: Array, theirs: Array, distance: str = "absolute") -> float:
    total = 0.0
    for s, t, g, h in zip(student, teacher, ours, theirs, strict=True):
        height, width = min(s.shape[1], t.shape[1]), min(s.shape[2], t.shape[2])
        maps = [pooled(cam(*each), height, width) for each in ((s, g), (t, h))]
        a, b = (one / np.sqrt((one**2).sum()) for one in maps)
        total += np.abs(a - b).sum() if distance == "absolute" else ((a - b) ** 2).mean()
    return total / len(student)


def softmax(z: Array) -> Array:
    scaled = np.exp(z - z.max(-1, keepdims=True))
    return scaled / scaled.sum(-1, keepdims=True)


def kl(a: Array, b: Array) -> Array:
    return (a * np.log(a / b)).sum(-1)


def robust(attacked: Array, teacher: Array, temperature: float = 30.0) -> float:
    return temperature**2 * kl(softmax(teacher / temperature), softmax(attacked / temperature)).mean()


def robust_labels(student: Array, teacher: Array, attacked: Array, share: float = 5 / 6) -> float:
    p = softmax(teacher)
    return share * kl(p, softmax(attacked)).mean() + (1 - share) * kl(p, softmax(student)).mean()


def looking_inward(
    student: Array, teacher: Array, attacked: Array, misled: Array, labels: Array, beta: float = 0.1
) -> float:
    trust = softmax(misled)[np.arange(len(labels)), labels] ** beta
    own = (1 - trust) * kl(softmax(student), softmax(attacked))
    return robust(attacked, teacher, 1.0) + own.mean()


# ---- the contract ----------------------------------------------------------------------------------------------------

REFUSED = ({"distance": "absolute"}, {"distance": None})
SAME = (((7,), (7,)), ((2, 4, 3), (2, 4, 3)), ((3, 5), (3, 5)))
CASES = [
    Case(loss, SAME, SETTINGS, REFUSED, needs={"distance": "square"})
    for loss in (jacobian_matching, feature_gradient_matching)
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestContract(Contract):
    def test_its_parameters_are_words_that_an_objective_knows(self, case: Case) -> None:
        assert case.reads == READS[case.loss]
        keywords = [p for p in inspect.signature(case.loss).parameters.values() if p.name not in case.reads]
        assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in keywords)
        assert keywords[-1].name == "mask"

    def test_it_equals_the_reference(self, case: Case) -> None:
        for kind, options, seed in self._all(case, 3, everywhere=True):
            ours, theirs = draw(case, kind, seed=seed, examples=3 + seed)
            assert isinstance(ours, Tensor)
            assert isinstance(theirs, Tensor)
            expected = apart(ours.detach().numpy(), theirs.numpy(), **options)
            assert number(case.loss(ours, theirs, **options)) == pytest.approx(expected, rel=1e-9)

    def test_its_second_derivative_matches_finite_differences(self, case: Case) -> None:
        for kind, options, _ in self._all(case):
            ours, theirs = draw(case, kind, seed=3)
            function = functools.partial(case.loss, **options)
            assert torch.autograd.gradgradcheck(lambda g, f=function, t=theirs: f(g, t), (ours,), fast_mode=True)

    def test_other_shapes_are_refused_and_none_is_stretched(self, case: Case) -> None:
        ours, theirs = draw(case)
        assert isinstance(ours, Tensor)
        refuse(case.loss, ours[:, :1], theirs, says="student (5, 1), teacher (5, 7)")


# ---- the others, by the same rules -----------------------------------------------------------------------------------


def inputs_of(loss: Callable[..., Tensor], *, seed: int = 0, kind: int = 0, examples: int = 5) -> list[Tensor]:
    """Arguments in float64; what is the student's has a gradient."""
    generator = torch.Generator().manual_seed(seed)
    names = READS[loss]
    maps = {"student": ((3, 4, 4), (3, 6))[kind], "teacher": ((5, 2, 3), (3, 4))[kind]}
    found = []
    for name in names:
        if name == "labels":
            found.append(torch.randint(0, 4, (examples,), generator=generator))
            continue
        shape = maps[name.partition("_")[0]] if loss is grad_cam else (4,)
        drawn = 1.5 * torch.randn(examples, *shape, generator=generator, dtype=torch.float64)
        if loss is grad_cam:
            drawn = drawn + 0.7  # so that no map is all zeros
        found.append(drawn.requires_grad_(not name.startswith("teacher")))
    return found


def learners(inputs: list[Tensor]) -> list[Tensor]:
    return [one for one in inputs if one.requires_grad]


def settings(loss: Callable[..., Tensor]) -> list[dict[str, Any]]:
    more = {
        grad_cam: [{"distance": "square"}],
        adversarially_robust: [{"temperature": 2.0}],
        robust_soft_label: [{"share": 0.0}, {"share": 1.0}, {"share": 0.3}],
        introspective: [{"beta": 0.0}, {"beta": 2.0}],
    }
    return [{}, *more[loss]]


others = pytest.mark.parametrize("loss", OTHERS, ids=lambda loss: loss.__name__)


def changed(inputs: list[Tensor], change: Callable[[Tensor], Tensor]) -> list[Tensor]:
    return [
        change(one.detach()).requires_grad_(one.requires_grad) if one.is_floating_point() else one for one in inputs
    ]


@others
def test_they_equal_the_reference(loss: Callable[..., Tensor]) -> None:
    told = {
        grad_cam: cams_apart, adversarially_robust: robust, robust_soft_label: robust_labels,
        introspective: looking_inward,
    }[loss]  # fmt: skip
    for options, seed in itertools.product(settings(loss), range(4)):
        inputs = inputs_of(loss, seed=seed, examples=3 + seed)
        expected = told(*[one.detach().numpy() for one in inputs], **options)
        assert number(loss(*inputs, **options)) == pytest.approx(expected, rel=1e-9), options


def test_tokens_have_maps_too() -> None:
    inputs = inputs_of(grad_cam, kind=1)
    # The same as maps of height 1, whose channels stand first.
    as_maps = [one.detach().mT.unsqueeze(2).numpy() for one in inputs]
    for options in settings(grad_cam):
        assert number(grad_cam(*inputs, **options)) == pytest.approx(cams_apart(*as_maps, **options), rel=1e-9)


@others
def test_gradients_match_finite_differences_twice(loss: Callable[..., Tensor]) -> None:
    for kind, options in itertools.product(range(2 if loss is grad_cam else 1), settings(loss)):
        inputs = inputs_of(loss, seed=1, kind=kind)
        for also in ({}, {"mask": KEPT}):

            def function(*parts: Tensor, i: Any = inputs, o: Any = options | also) -> Tensor:
                rest = iter(parts)
                return loss(*[next(rest) if one.requires_grad else one for one in i], **o)

            assert torch.autograd.gradcheck(function, tuple(learners(inputs)), fast_mode=True)
            assert torch.autograd.gradgradcheck(function, tuple(learners(inputs)), fast_mode=True)


@others
def test_no_gradient_reaches_the_teacher(loss: Callable[..., Tensor]) -> None:
    inputs = [one.detach().requires_grad_(one.is_floating_point()) for one in inputs_of(loss)]
    loss(*inputs).backward()
    for name, one in zip(READS[loss], inputs, strict=True):
        assert name == "labels" or (one.grad is None) == name.startswith("teacher"), name


@others
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e300])
def test_masked_rows_do_not_matter(loss: Callable[..., Tensor], garbage: float) -> None:
    for options in settings(loss):
        inputs = inputs_of(loss)
        left = [one.detach()[KEPT].requires_grad_(one.requires_grad) for one in inputs]
        rows = [KEPT.reshape(-1, *(1 for _ in one.shape[1:])) for one in inputs]
        spoiled = [
            torch.where(row, one.detach(), garbage).requires_grad_(one.requires_grad)
            if one.is_floating_point() else torch.where(row, one, -100)
            for row, one in zip(rows, inputs, strict=True)
        ]  # fmt: skip
        found, expected = loss(*spoiled, mask=KEPT, **options), loss(*left, **options)
        assert number(found) == pytest.approx(number(expected), rel=1e-10)
        slopes, right = (
            torch.autograd.grad(v, learners(i), allow_unused=True) for v, i in ((found, spoiled), (expected, left))
        )
        for slope, good in zip(slopes, right, strict=True):
            assert slope is not None
            assert good is not None
            assert torch.allclose(slope[KEPT], good, rtol=1e-9, atol=1e-13)
            assert not slope[~KEPT].any()
        assert number(loss(*spoiled, mask=torch.zeros(5, dtype=torch.bool), **options)) == 0.0


@others
def test_half_precision_is_computed_in_single_and_stays_finite_at_extremes(loss: Callable[..., Tensor]) -> None:
    for options, factor in itertools.product(settings(loss), (1.0, 1e4, 1e-10, 0.0)):
        halves = changed(inputs_of(loss), lambda one, f=factor: (one * f).to(torch.bfloat16))
        value = loss(*halves, **options)
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        slopes = torch.autograd.grad(value, learners(halves), allow_unused=True)
        assert all(slope is None or (slope.dtype == torch.bfloat16 and slope.isfinite().all()) for slope in slopes)
        assert number(value) == number(loss(*changed(halves, Tensor.float), **options))


@others
def test_no_value_is_read(loss: Callable[..., Tensor]) -> None:
    inputs = [one.detach().to("meta").requires_grad_(one.requires_grad) for one in inputs_of(loss)]
    for options in settings(loss):
        assert loss(*inputs, mask=KEPT.to("meta"), **options).device.type == "meta"


@others
def test_their_parameters_and_docstrings(loss: Callable[..., Tensor]) -> None:
    case = Case(loss, ())
    assert case.reads == READS[loss]
    Contract().test_its_docstring_says_everything_in_order(case)


@others
def test_what_does_not_belong_together_is_refused(loss: Callable[..., Tensor]) -> None:
    inputs = inputs_of(loss)
    refuse(loss, *inputs, says="torch.float32", mask=torch.ones(5))
    refuse(loss, *inputs, says="(4,)", mask=torch.ones(4, dtype=torch.bool))
    for place, name in enumerate(READS[loss]):
        wrong = list(inputs)
        wrong[place] = inputs[place][:4]
        refuse(loss, *wrong, says="(4,")
        if name != "labels":
            wrong[place] = inputs[place].detach().long()
            with pytest.raises(InputError):
                loss(*wrong)


@pytest.mark.parametrize(
    ("loss", "options", "says"),
    [
        (grad_cam, {"distance": "norm"}, "distance='norm'"),
        (adversarially_robust, {"temperature": 0.0}, "temperature=0.0"),
        *[(robust_soft_label, {"share": bad}, f"share={bad}") for bad in (-0.1, 1.1, math.nan)],
        *[(introspective, {"beta": bad}, f"beta={bad}") for bad in (-1.0, math.inf, math.nan)],
    ],
)
def test_options_out_of_range_are_refused(loss: Callable[..., Tensor], options: dict[str, Any], says: str) -> None:
    refuse(loss, *inputs_of(loss), says=says, **options)


def test_more_that_is_refused() -> None:
    *rest, labels = inputs_of(introspective)
    refuse(introspective, *rest, labels + 4, says="0 … 3")
    refuse(introspective, *rest, labels.double(), says="torch.float64")
    refuse(introspective, *rest[:3], top_k(rest[3], 2), labels, says="the 2 largest of 4")
    vectors = [torch.ones(2, 3)] * 4
    refuse(grad_cam, *vectors, says="(2, 3)")
    maps = torch.ones(2, 3, 4, 4)
    refuse(grad_cam, maps, maps, maps, maps[..., :1], says="teacher_feature_gradient (2, 3, 4, 1)")
    refuse(grad_cam, maps, maps.flatten(2), maps, maps.flatten(2), says="both (B, T, D)")


# ---- what they mean --------------------------------------------------------------------------------------------------


def test_linear_nets_have_known_jacobians() -> None:
    # Every direction of signs once: in the mean the squared difference of the whole Jacobians, which is 2.
    teacher = torch.eye(2, dtype=torch.float64)
    student = torch.tensor([[1.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=2)), dtype=torch.float64)
    assert number(jacobian_matching(signs @ student, signs @ teacher, normalised=False)) == pytest.approx(2.0)
    rows = jacobian_matching(student, teacher, normalised=False)  # each logit's gradient once, in the mean over two
    assert 2 * number(rows) == pytest.approx(2.0)
    # Noise on inputs adds σ² times this to the squared difference of the answers, exactly so for linear nets.
    x, sigma = torch.tensor([1.0, 2.0], dtype=torch.float64), 0.1
    noise = sigma * math.sqrt(2) * torch.cat([torch.eye(2), -torch.eye(2)]).double()  # covariance σ² times unity
    apart_there = ((x + noise) @ (student - teacher).mT).square().sum(-1).mean()
    assert number(apart_there) == pytest.approx(8.0 + sigma**2 * 2.0)


def test_the_cross_entropy_of_a_linear_net_has_the_gradient_that_is_in_the_books() -> None:
    weight = torch.randn(3, 5, dtype=torch.float64)
    x = torch.randn(4, 5, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 2, 1, 1])
    (found,) = torch.autograd.grad(4 * cross_entropy(x @ weight.mT, labels), x)
    books = ((x @ weight.mT).softmax(-1) - nn.functional.one_hot(labels, 3)).detach() @ weight
    assert number(jacobian_matching(found, books, normalised=False, distance="norm")) < 1e-15
    assert number(jacobian_matching(-found, books)) == pytest.approx(4.0)


def test_directions_do_not_see_sizes_and_small_gradients_have_one() -> None:
    ours, theirs = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
    each = torch.tensor([1e-8, 1e3, 2.0, 0.1, 1.0]).reshape(5, 1, 1, 1)
    assert number(jacobian_matching(ours * each, theirs)) == pytest.approx(number(jacobian_matching(ours, theirs)))
    maps = [torch.rand(5, 3, 4, 4), torch.rand(5, 2, 4, 4), ours.abs(), torch.rand(5, 2, 4, 4)]
    # Neither is the product of a small gradient and a small feature nothing.
    small = [maps[0], maps[1] * 1e-3, maps[2] * each, maps[3] * 1e-10]
    assert number(grad_cam(*small)) == pytest.approx(number(grad_cam(*maps)), rel=1e-5)


def test_a_map_of_nothing_stands_as_zeros_with_a_finite_gradient() -> None:
    feature = torch.rand(2, 3, 4, 4, requires_grad=True)
    against = torch.full((2, 3, 4, 4), -1.0, requires_grad=True)
    teacher = torch.rand(2, 3, 4, 4)
    value = grad_cam(feature, teacher, against, torch.ones(2, 3, 4, 4), distance="square")
    assert number(value) == pytest.approx(1 / 16)  # a map of length 1 over 16 places against none
    assert all(torch.isfinite(slope).all() for slope in torch.autograd.grad(value, [feature, against]))


def test_where_an_attack_changes_nothing_they_are_soft_targets() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    plain = number(soft_target(student, teacher, temperature=1.0))
    for share in (0.0, 0.4, 1.0):
        assert number(robust_soft_label(student, teacher, student, share=share)) == pytest.approx(plain, rel=1e-6)
    labels = torch.arange(6) % 4
    assert number(introspective(student, teacher, student, teacher, labels, beta=3.0)) == pytest.approx(plain, rel=1e-6)
    assert number(adversarially_robust(student, teacher, temperature=1.0)) == pytest.approx(plain)
    kept = top_k(teacher, 4)
    assert number(robust_soft_label(student, kept, student)) == pytest.approx(plain, rel=1e-6)


def test_a_teacher_that_is_sure_of_the_label_is_trusted_wholly() -> None:
    clean, attacked, teacher = torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 4)
    labels = torch.tensor([0, 1, 2])
    sure = 60.0 * nn.functional.one_hot(labels, 4).float()
    taught = number(adversarially_robust(attacked, teacher, temperature=1.0))
    assert number(introspective(clean, teacher, attacked, sure, labels)) == pytest.approx(taught)
    own = number(soft_target(attacked, clean, temperature=1.0))
    misled = introspective(clean, teacher, attacked, -20 * sure, labels)
    assert number(misled) == pytest.approx(taught + own, rel=1e-5)


# ---- a step goes through a second derivative -------------------------------------------------------------------------


def smooth(channels: int) -> nn.Sequential:
    """A small net whose second derivatives are not zero nearly everywhere."""
    return nn.Sequential(nn.Conv2d(1, channels, 2), nn.Softplus(), nn.Flatten(), nn.Linear(4 * channels, 3)).double()


@pytest.mark.parametrize("options", [{}, *SETTINGS], ids=str)
def test_the_gradient_of_weights_matches_finite_differences(options: dict[str, Any]) -> None:
    student, x = smooth(2), torch.rand(3, 1, 3, 3, dtype=torch.float64).requires_grad_()
    goal, labels = torch.randn(3, 1, 3, 3, dtype=torch.float64), torch.tensor([0, 1, 2])
    names = [name for name, _ in student.named_parameters()]

    def loss(*weights: Tensor) -> Tensor:
        logits = torch.func.functional_call(student, dict(zip(names, weights, strict=True)), x)
        (slope,) = torch.autograd.grad(cross_entropy(logits, labels), x, create_graph=True)
        return jacobian_matching(slope, goal, **options)

    weights = tuple(weight.detach().clone().requires_grad_() for weight in student.parameters())
    assert torch.autograd.gradcheck(loss, weights)
    assert all(slope.abs().sum() > 0 for slope in torch.autograd.grad(loss(*weights), weights))


def test_the_gradient_of_weights_through_a_map_matches_finite_differences() -> None:
    student, teacher, x = smooth(2), smooth(3), torch.rand(3, 1, 3, 3, dtype=torch.float64)
    feature = teacher[:2](x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(teacher[2:](feature)[:, 1].sum(), feature)

    def loss(kernel: Tensor, head: Tensor) -> Tensor:
        own = nn.functional.softplus(nn.functional.conv2d(x, kernel))
        logits = own.flatten(1).square() @ head  # squares, so that the gradient depends on the feature
        (its,) = torch.autograd.grad(logits[:, 1].sum(), own, create_graph=True)
        return grad_cam(own, feature, its, slope, distance="square")

    weights = (student[0].weight.detach().clone().requires_grad_(), torch.rand(8, 3).double().requires_grad_())
    assert torch.autograd.gradcheck(loss, weights)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["mlp", "cnn", "dscnn", "gru", "transformer"])
def test_every_net_has_a_second_derivative(name: str, training: bool) -> None:
    model = build(ModelSpec(name, {}), input_shape=(1, 8, 8), classes=4, mean=[0.3], std=[0.4]).train(training)
    x, goal = torch.rand(4, 1, 8, 8, requires_grad=True), torch.randn(4, 1, 8, 8)
    with kernels_with_derivatives(model):
        (slope,) = torch.autograd.grad(model(x)[:, 1].sum(), x, create_graph=True)
    jacobian_matching(slope, goal).backward()
    reached = {part for part, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    # An offset of the logits moves no gradient, so the last bias learns from another term or not at all.
    assert "net.head.weight" in reached
    assert "net.head.bias" not in reached
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


def test_fused_attention_has_none_and_its_twin_answers_the_same() -> None:
    model = build(ModelSpec("transformer", {}), input_shape=(1, 8, 8), classes=4, mean=[0.3], std=[0.4]).eval()
    x = torch.rand(4, 1, 8, 8, requires_grad=True)
    fused = model(x)
    (slope,) = torch.autograd.grad(fused[:, 1].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented"):
        slope.square().sum().backward()
    with kernels_with_derivatives(model):
        torch.testing.assert_close(model(x), fused, rtol=1e-4, atol=1e-5)


def test_recurrent_layers_leave_cudnn_and_settings_come_back() -> None:
    cudnn = torch.backends.cudnn
    before = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic)
    with kernels_with_derivatives(nn.Sequential(nn.GRU(2, 2)), twice=False):
        assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic) == (False, *before[1:])
    with kernels_with_derivatives(nn.Linear(2, 2)):
        assert cudnn.enabled == before[0]
    assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic) == before
