"""The networks that features go through beside a student: fusion, projections, attention, heads, generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
from tutelage.objective import Term
from tutelage.types import Batch, Outputs

STAGES = ["net.stages.0", "net.stages.1"]


def number(value: Tensor) -> float:
    return float(value.detach())


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
    # What needs shapes only can listen to anybody who has features.
    assert Term(review, at="a", source="ema").listens_to_others
