"""Losses on what networks that learn along put out: the contract for each, known numbers, and those networks."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage import losses
from tutelage.companions import Around, Seen
from tutelage.companions.assignment import Calibration, Projections
from tutelage.companions.building import BUILDERS
from tutelage.companions.fusion import Fusion
from tutelage.companions.generation import Generation
from tutelage.companions.heads import Regressed
from tutelage.distiller import Distiller
from tutelage.errors import InputError, ModelError
from tutelage.losses import masked_generation, representation_regression, review, semantic_calibration, vit_mimic
from tutelage.models import ModelSpec, build
from tutelage.objective import NEEDS, Term
from tutelage.types import Batch, Outputs

pytest.register_assert_rewrite("feature_contract")
from feature_contract import EXAMPLES, Case, Contract, draw, number, refuse, tensors  # noqa: E402

STAGES = ["net.stages.0", "net.stages.1"]
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


# ---- the networks ---------------------------------------------------------------------------------------------------


def net(name: str, **args: int) -> nn.Module:
    return build(ModelSpec(name, args), input_shape=(1, 8, 8), classes=10, mean=[0.3], std=[0.4])


def batch(size: int = 6, *, seed: int = 0, view: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        torch.arange(size), {"x": torch.rand(size, 1, 8, 8, generator=generator)}, torch.arange(size) % 10, view=view
    )


def features(*shapes: tuple[int, ...], seed: int = 0, examples: int = 4) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    drawn = {f"l{n}": torch.randn(examples, *shape, generator=generator) for n, shape in enumerate(shapes)}
    return Outputs(torch.zeros(examples, 10), drawn)


def seen(told: Outputs | None = None, *, examples: int = 4, progress: float = 0.0, view: int = 0) -> Seen:
    return Seen(batch(examples, view=view), told, progress)


def made(loss: Callable[..., Tensor], word: str, ours: Outputs, told: Outputs, **also: Any) -> Any:
    """The companion of a word, as a student's `Listening` builds it."""
    around = Around(
        batch(len(ours.logits)), told, **{k: v for k, v in also.items() if k in ("head", "batch_size", "seed")}
    )
    at = also.get("at", [(layer, layer) for layer in ours.features])
    torch.manual_seed(0)
    return BUILDERS[word](Term(loss, at=at, companion=also.get("settings", {})), nn.Identity(), ours, around)


def normed(x: Tensor, block: nn.Module) -> Tensor:
    """A convolution and its batch norm, from their numbers."""
    maps = F.conv2d(x, block[0].weight, padding=block[0].padding)
    mean, variance = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), correction=0, keepdim=True)
    weight, bias = (p[None, :, None, None] for p in (block[1].weight, block[1].bias))
    return (maps - mean) / (variance + 1e-5).sqrt() * weight + bias


def test_fusion_is_the_published_one() -> None:
    ours, told = features((3, 8, 8), (4, 4, 4), (5, 2, 2)), features((6, 8, 8), (7, 4, 4), (8, 2, 2), seed=1)
    fusion: Fusion = made(review, "reviewed_features", ours, told, settings={"width": 6})
    x, found = [ours.features[f"l{n}"] for n in range(3)], fusion(ours, seen(told))
    assert [tuple(one.shape) for one in found] == [tuple(one.shape) for one in told.features.values()]
    deepest = normed(x[2], fusion.inward[2])
    torch.testing.assert_close(found[2], normed(deepest, fusion.outward[2]))
    deeper = deepest
    for level in (1, 0):
        inward = normed(x[level], fusion.inward[level])
        nearest = F.interpolate(deeper, scale_factor=2, mode="nearest")
        share = torch.sigmoid(fusion.shares[level](torch.cat([inward, nearest], 1)))
        deeper = inward * share[:, :1] + nearest * share[:, 1:]
        torch.testing.assert_close(found[level], normed(deeper, fusion.outward[level]))


def test_an_early_layer_is_taught_by_no_deeper_one_but_teaches_none() -> None:
    # The deepest fused map depends on the deepest layer alone; the earliest on all of them.
    ours, told = features((3, 4, 4), (4, 2, 2)), features((6, 4, 4), (7, 2, 2), seed=1)
    for feature in ours.features.values():
        feature.requires_grad_()
    found = made(review, "reviewed_features", ours, told)(ours, seen(told))
    slopes = [
        torch.autograd.grad(one.square().sum(), list(ours.features.values()), allow_unused=True, retain_graph=True)
        for one in found
    ]
    assert [[slope is not None for slope in some] for some in slopes] == [[True, True], [False, True]]


def test_calibration_adds_up_to_one_over_the_teachers_layers() -> None:
    ours = features((3, 4, 4), (4, 2, 2))
    told = features((6, 4, 4), (7, 2, 2), (8, 2, 2), seed=1)
    at = [("l0", "l0"), ("l1", "l1"), ("l1", "l2")]
    attention: Calibration = made(semantic_calibration, "calibration", ours, told, at=at, batch_size=4)
    weights = attention(ours, seen(told))
    assert weights.shape == (4, 2, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 2))
    assert float(weights.detach().std()) > 0
    projections: Projections = made(semantic_calibration, "calibrated_features", ours, told, at=at)
    found = projections(ours, seen(told))
    shapes = [tuple(one.shape[1:]) for one in found]
    assert shapes[:6] == shapes[6:] == [(6, 4, 4), (7, 2, 2), (8, 2, 2), (6, 2, 2), (7, 2, 2), (8, 2, 2)]
    assert not any(one.requires_grad for one in found[6:])


def test_calibration_equals_its_equation() -> None:
    ours, told = features((3, 4, 4)), features((6, 4, 4), (7, 2, 2), seed=1)
    attention = made(
        semantic_calibration,
        "calibration",
        ours,
        told,
        at=[("l0", "l0"), ("l0", "l1")],
        batch_size=4,
        settings={"width": 5},
    )
    vectors = []
    for feature, embedding in (
        (ours.features["l0"], attention.queries[0]),
        *zip(told.features.values(), attention.keys, strict=True),
    ):
        rows = F.normalize(feature.flatten(1))
        vectors.append(F.normalize(embedding(rows @ rows.T)))
    energy = torch.stack([(vectors[0] * key).sum(-1) for key in vectors[1:]], -1)
    torch.testing.assert_close(attention(ours, seen(told))[:, 0], energy.softmax(-1))


@pytest.mark.parametrize("examples", [3, 5])
def test_calibration_reads_batches_that_are_smaller_or_larger_than_a_whole_one(examples: int) -> None:
    ours, told = features((3, 2, 2)), features((6, 2, 2), (5, 2, 2), seed=1)
    attention = made(semantic_calibration, "calibration", ours, told, at=[("l0", "l0"), ("l0", "l1")], batch_size=4)
    other = features((3, 2, 2), examples=examples), features((6, 2, 2), (5, 2, 2), seed=1, examples=examples)
    found = attention(other[0], seen(other[1], examples=examples))
    assert found.shape == (examples, 1, 2)
    torch.testing.assert_close(found.sum(-1), torch.ones(examples, 1))


def head_and_answer(seed: int = 5) -> tuple[nn.Linear, Outputs]:
    """A last layer, and what a teacher that ends in it says: its map, and the logits of the map's mean."""
    told = features((6, 2, 2), seed=seed)
    torch.manual_seed(seed)
    head = nn.Linear(6, 10)
    return head, Outputs(head(told.features["l0"].mean((2, 3))).detach(), told.features)


@pytest.mark.parametrize("shape", [(3, 4, 4), (3,)])
def test_a_regressed_feature_goes_through_the_teachers_last_layer(shape: tuple[int, ...]) -> None:
    head, told = head_and_answer()
    ours = features(shape)
    companion: Regressed = made(representation_regression, "regressed", ours, told, head=head)
    feature, logits = companion(ours, seen(told))
    assert feature.shape == (4, 6)
    torch.testing.assert_close(logits, head(feature))
    assert {"weight", "bias"} <= set(companion.state_dict())
    assert not {"weight", "bias"} & {name for name, _ in companion.named_parameters()}
    # A student whose feature is the teacher's is at the end of its way.
    with torch.no_grad():
        at_match = representation_regression(
            [told.features["l0"].mean((2, 3)), told.logits], told.features["l0"], told.logits
        )
    assert number(at_match) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("case", ["unknown", "elsewhere", "width"])
def test_a_last_layer_that_does_not_read_the_place_is_refused(case: str) -> None:
    head, told = head_and_answer()
    if case == "elsewhere":
        told = Outputs(told.logits.roll(1, 0), told.features)
    if case == "width":
        told = Outputs(told.logits, {"l0": told.features["l0"][:, :5]})
    says = {
        "unknown": "last linear layer is not known",
        "elsewhere": "makes other logits of this layer",
        "width": "does not read this layer",
    }[case]
    with pytest.raises(ModelError, match=says) as caught:
        made(
            representation_regression, "regressed", features((3, 4, 4)), told, head=None if case == "unknown" else head
        )
    assert caught.value.problem.fix


def generation(ours: Outputs, told: Outputs, share: float = 0.5, seed: int = 0) -> Generation:
    companion: Generation = made(
        masked_generation, "generated_feature", ours, told, settings={"share": share}, seed=seed
    )
    return companion


def test_hidden_tokens_are_as_many_as_asked_and_depend_on_example_view_seed_and_progress() -> None:
    companion = generation(features((16, 5)), features((16, 7)), 0.25)
    hidden = companion.drawn(batch(6), 0.0)
    assert hidden.sum(-1).tolist() == [4] * 6
    assert len({tuple(row) for row in hidden.tolist()}) > 1
    assert torch.equal(hidden, companion.drawn(batch(6), 0.0))
    turned = batch(6)
    turned = Batch(turned.ids.flip(0), turned.inputs, turned.target)
    assert torch.equal(companion.drawn(turned, 0.0), hidden.flip(0))
    for other in (
        companion.drawn(batch(6, view=1), 0.0),
        companion.drawn(batch(6), 1e-6),
        generation(features((16, 5)), features((16, 7)), 0.25, seed=1).drawn(batch(6), 0.0),
    ):
        assert not torch.equal(other, hidden)
    # Every token is hidden as often as any other.
    many = companion.drawn(Batch(torch.arange(4000), {}, torch.zeros(4000)), 0.5)
    assert float((many.float().mean(0) - 0.25).abs().max()) < 0.035  # five deviations of a share of 4000


def test_what_is_hidden_cannot_be_seen_and_the_global_generator_is_left_alone() -> None:
    ours, told = features((16, 5)), features((16, 7), seed=1)
    companion = generation(ours, told)
    state = torch.get_rng_state()
    tokens, hidden = companion(ours, seen(told))
    assert torch.equal(torch.get_rng_state(), state)
    assert tokens.shape == (4, 16, 7)
    spoiled = Outputs(ours.logits, {"l0": torch.where(hidden.unsqueeze(-1), 100.0, ours.features["l0"])})
    assert torch.equal(companion(spoiled, seen(told))[0], tokens)
    shown = Outputs(ours.logits, {"l0": torch.where(hidden.unsqueeze(-1), ours.features["l0"], 100.0)})
    assert not torch.equal(companion(shown, seen(told))[0], tokens)


def test_a_class_token_in_front_takes_no_part() -> None:
    ours, told = features((17, 5)), features((17, 7), seed=1)
    companion = generation(ours, told)
    tokens, hidden = companion(ours, seen(told))
    assert tokens.shape == (4, 16, 7)
    assert hidden.shape == (4, 16)
    moved = Outputs(ours.logits, {"l0": ours.features["l0"].clone()})
    moved.features["l0"][:, 0] = 50.0
    assert torch.equal(companion(moved, seen(told))[0], tokens)
    assert torch.isfinite(masked_generation([tokens, hidden], told.features["l0"]))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: made(review, "reviewed_features", features((3, 5)), features((3, 5))), "made of maps"),
        (
            lambda: made(review, "reviewed_features", features((3, 2, 2), (3, 4, 4)), features((3, 2, 2), (3, 4, 4))),
            "turn the order of the places round",
        ),
        (
            lambda: made(review, "reviewed_features", features((3, 2, 2)), features((3, 2, 2)), settings={"width": 0}),
            "`width`",
        ),
        (lambda: made(semantic_calibration, "calibrated_features", features((5,)), features((5,))), "made of maps"),
        (lambda: generation(features((15, 5)), features((15, 7))), "made up on a square"),
        (lambda: generation(features((3, 4, 4)), features((3, 4, 4))), "made up on a square"),
        (lambda: generation(features((16, 5)), features((25, 7))), "other tokens"),
        (lambda: generation(features((16, 5)), features((16, 7)), 1.0), "share of hidden tokens"),
    ],
)
def test_networks_that_cannot_be_built_say_why(make: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises((ModelError, InputError), match=says):
        make()


@pytest.mark.parametrize(
    ("loss", "at", "model"),
    [
        (review, STAGES, "cnn"),
        (semantic_calibration, STAGES, "cnn"),
        (representation_regression, STAGES[1], "cnn"),
        (vit_mimic, ["net.blocks.0"], "transformer"),
        (masked_generation, "net.blocks.1", "transformer"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_step_learns_in_student_and_network_and_not_in_the_teacher(loss: Any, at: Any, model: str) -> None:
    args = {"depth": 2} if model == "cnn" else {"depth": 2, "patch": 2}
    torch.manual_seed(0)
    teacher, student = net(model, width=12, **args), net(model, width=8, **args)
    distiller = Distiller(student, teacher, [Term(loss, at=at)], example=batch())
    optimizer = torch.optim.SGD(distiller.parameters(), 1e-4)
    values = []
    for _ in range(12):
        optimizer.zero_grad()
        step = distiller(batch(), progress=0.0)
        step.loss.backward()
        optimizer.step()
        values.append(number(step.loss))
    assert values[-1] < values[0]
    assert all(p.grad is None for p in teacher.parameters())
    learned = [p for p in distiller.student.extras.parameters() if p.requires_grad]
    assert learned
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learned if p.ndim > 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [review, semantic_calibration, representation_regression])
def test_half_precision_and_channels_last_change_rounding_only(loss: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    teacher, student = net("cnn", width=12, depth=2), net("cnn", width=8, depth=2)
    at = STAGES[1] if loss is representation_regression else STAGES
    distiller = Distiller(student, teacher, [Term(loss, at=at)], example=batch())
    plain = number(distiller(batch()).loss)
    with torch.autocast("cpu", dtype):
        assert number(distiller(batch()).loss) == pytest.approx(plain, rel=0.05)
    distiller.to(memory_format=torch.channels_last)
    assert number(distiller(batch()).loss) == pytest.approx(plain, rel=1e-4)


def test_a_source_that_is_not_the_teacher_has_no_last_layer_to_look_through() -> None:
    with pytest.raises(InputError, match="reads `regressed`, which ema"):
        Term(representation_regression, at="a", source="ema")
    assert functools.reduce(lambda a, b: a and b, [Term(review, at="a", source="ema").listens_to_others])
