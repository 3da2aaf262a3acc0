"""Views: the same bits however they are asked for, arithmetic that agrees with plain loops, and draws as promised."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from tutelage.data import Examples, Views, as_model_input, view_batch
from tutelage.data.draws import Stream, uniform
from tutelage.errors import InputError
from tutelage.types import Batch

ALL = Views(flip=0.5, shift=2, rotate=20, crop=0.7, erase=0.5, cutmix=0.7)
EACH = [
    Views(flip=0.5),
    Views(shift=3),
    Views(flip=0.3, shift=1),
    Views(rotate=30),
    Views(crop=0.5),
    Views(rotate=10, crop=0.8),
    Views(erase=0.6),
    Views(mixup=0.4),
    Views(cutmix=1.0),
    Views(flip=0.5, shift=2, rotate=20, crop=0.7, erase=0.5, mixup=0.7),
    ALL,
]


def make(count: int = 131, shape: tuple[int, ...] = (1, 28, 28), *, floats: bool = False) -> Examples:
    generator = torch.Generator().manual_seed(count)
    if floats:
        inputs = torch.rand((count, *shape), generator=generator)
    else:
        inputs = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return Examples.make(inputs, torch.arange(count) % 4, ["a", "b", "c", "d"], "set")


def see(examples: Examples, views: Views, index: torch.Tensor | None = None, *, seed: int = 5, epoch: int = 2) -> Batch:
    return view_batch(examples, torch.arange(len(examples)) if index is None else index, views, seed=seed, epoch=epoch)


def same(one: Batch, other: Batch) -> None:
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.inputs["x"], other.inputs["x"])
    assert torch.equal(one.target, other.target)


# ---- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", EACH, ids=repr)
@pytest.mark.parametrize(("shape", "floats"), [((1, 28, 28), False), ((3, 13, 9), False), ((3, 13, 9), True)])
def test_a_view_does_not_depend_on_the_batch(views: Views, shape: tuple[int, ...], floats: bool) -> None:
    examples = make(131, shape, floats=floats)
    whole = see(examples, views)
    for size in (1, 7, 64):
        parts = [see(examples, views, index) for index in torch.split(torch.arange(len(examples)), size)]
        joined = Batch(
            torch.cat([p.ids for p in parts]),
            {"x": torch.cat([p.inputs["x"] for p in parts])},
            torch.cat([p.target for p in parts]),
        )
        same(whole, joined)
        assert all(p.view == whole.view for p in parts)
    order = torch.randperm(len(examples))
    shuffled = see(examples, views, order)
    same(shuffled, Batch(whole.ids[order], {"x": whole.inputs["x"][order]}, whole.target[order]))


@pytest.mark.parametrize("views", EACH, ids=repr)
def test_a_view_does_not_depend_on_threads(views: Views) -> None:
    examples = make()
    alone = see(examples, views)
    torch.set_num_threads(2)
    try:
        together = see(examples, views)
    finally:
        torch.set_num_threads(1)
    same(alone, together)


def digest() -> str:
    batch = see(make(), ALL)
    return hashlib.sha256(batch.inputs["x"].numpy().tobytes() + batch.target.numpy().tobytes()).hexdigest()


def test_a_view_does_not_depend_on_the_process() -> None:
    code = (
        "import importlib.util as u, torch; torch.set_num_threads(2);"
        f"s = u.spec_from_file_location('again', {__file__!r}); m = u.module_from_spec(s); s.loader.exec_module(m);"
        "torch.manual_seed(99); print(m.digest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()


def test_a_view_depends_on_seed_epoch_and_content() -> None:
    examples = make()
    base = see(examples, ALL)
    for other in (see(examples, ALL, seed=6), see(examples, ALL, epoch=3)):
        assert not torch.equal(base.inputs["x"], other.inputs["x"])
        assert base.view != other.view
    # A view number stands for seed and epoch together, so that stored answers of two seeds never meet.
    numbers = {see(examples, ALL, torch.arange(2), seed=s, epoch=e).view for s in range(20) for e in range(20)}
    assert len(numbers) == 400
    assert all(0 < number < 2**63 for number in numbers)


def test_torchs_generator_is_neither_used_nor_moved() -> None:
    state = torch.get_rng_state()
    first = see(make(), ALL)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(77)
    same(first, see(make(), ALL))


def test_the_examples_stay_as_they_are() -> None:
    for floats in (False, True):
        examples = make(floats=floats)
        before = examples.inputs.clone()
        for views in EACH:
            see(examples, views).inputs["x"].zero_()
        assert torch.equal(examples.inputs, before)


def test_nothing_random_is_nothing_at_all() -> None:
    examples = make()
    batch = see(examples, Views())
    assert batch.view == 0
    assert torch.equal(batch.inputs["x"], as_model_input(examples.inputs))
    assert batch.target is not examples.targets
    assert torch.equal(batch.target, examples.targets)


# ---- what a view is --------------------------------------------------------------------------------------------------


def within(count: int, of: int, probability: float) -> bool:
    """Whether a count lies where 99.99 % of binomial counts do."""
    low, high = stats.binom.interval(0.9999, of, probability)
    return bool(low <= count <= high)


@pytest.mark.parametrize("probability", [0.1, 0.5, 1.0])
def test_as_many_flips_as_asked_for(probability: float) -> None:
    examples = make(4000, (1, 3, 4))
    plain, batch = as_model_input(examples.inputs), see(examples, Views(flip=probability))
    flipped = (batch.inputs["x"] == plain.flip(-1)).flatten(1).all(1)
    kept = (batch.inputs["x"] == plain).flatten(1).all(1)
    assert bool((flipped | kept).all())
    assert within(int(flipped.sum()), 4000, probability)


def test_shifts_are_even_and_fill_with_zeros() -> None:
    examples = Examples.make(
        torch.stack([torch.full((1, 9, 9), 1 + n % 255, dtype=torch.uint8) for n in range(255)]),
        torch.arange(255) % 4,
        ["a", "b", "c", "d"],
        "set",
    )
    counts = np.zeros((5, 5), dtype=int)
    for epoch in range(20):
        for image in see(examples, Views(shift=2), epoch=epoch).inputs["x"][:, 0] > 0:
            rows, columns = image.any(1).nonzero().flatten(), image.any(0).nonzero().flatten()
            assert int(image.sum()) == len(rows) * len(columns)
            dy = int(rows[0]) if int(rows[0]) else int(rows[-1]) - 8
            dx = int(columns[0]) if int(columns[0]) else int(columns[-1]) - 8
            counts[dy + 2, dx + 2] += 1
    assert all(within(int(count), 255 * 20, 1 / 25) for count in counts.flat)


def test_crops_alone_bring_in_nothing_from_outside() -> None:
    examples = Examples.make(
        torch.full((2000, 1, 12, 10), 200, dtype=torch.uint8), torch.arange(2000) % 2, ["a", "b"], "set"
    )
    x = see(examples, Views(crop=0.3)).inputs["x"]
    assert torch.allclose(x, torch.full_like(x, 200 / 255), atol=1e-6)


def test_crops_keep_the_share_they_promise() -> None:
    ramp = torch.arange(20.0).expand(1, 20, 20) / 20
    inputs = ramp + torch.arange(3000.0).reshape(-1, 1, 1, 1) * 1e-7  # nearly alike, but each with an id of its own
    examples = Examples.make(inputs, torch.arange(3000) % 2, ["a", "b"], "set")
    x = see(examples, Views(crop=0.6)).inputs["x"]
    side = ((x[:, 0, 5, -1] - x[:, 0, 5, 0]) * 20 / 19).numpy()
    assert stats.kstest(side, stats.uniform(0.6, 0.4).cdf).pvalue > 1e-4
    middle = x[:, 0, 5].mean(1) * 20
    assert float(middle.mean()) == pytest.approx(9.5, abs=0.15)


def test_turns_stay_within_bounds() -> None:
    line = torch.zeros(1, 41, 41)
    line[:, 20, :] = 1.0
    inputs = line + torch.arange(1500.0).reshape(-1, 1, 1, 1) * 1e-6
    examples = Examples.make(inputs, torch.arange(1500) % 2, ["a", "b"], "set")
    x = see(examples, Views(rotate=30)).inputs["x"][:, 0] - examples.inputs[:, 0, 0, :1, None]
    rows = torch.arange(41.0)
    weight = x[:, :, 30].clamp(min=0)
    height = (weight * rows).sum(1) / weight.sum(1) - 20
    angle = torch.rad2deg(torch.atan(height / 10)).numpy()
    assert np.abs(angle).max() < 30.5
    assert stats.kstest(angle, stats.uniform(-30, 60).cdf).pvalue > 1e-4


def test_as_many_erased_as_asked_for() -> None:
    examples = make(3000, (1, 14, 14), floats=True)
    examples.inputs.clamp_(min=0.1)
    x = see(examples, Views(erase=0.3)).inputs["x"]
    gone = (x == 0).flatten(1).float().mean(1)
    assert within(int((gone > 0).sum()), 3000, 0.3)
    assert float(gone[gone > 0].min()) > 0.005
    assert float(gone.max()) < 0.25
    assert torch.equal(x[x != 0], examples.inputs[x != 0])


def test_erasing_always_takes_something() -> None:
    x = see(make(300, (1, 2, 2), floats=True), Views(erase=1.0)).inputs["x"]
    assert bool((x == 0).flatten(1).any(1).all())


def constant(count: int, side: int = 16) -> Examples:
    """Images of one value each: example n is n / count everywhere, its class n modulo 4."""
    value = torch.arange(count).float() / count
    return Examples.make(
        value.reshape(-1, 1, 1, 1).expand(count, 1, side, side).contiguous(),
        torch.arange(count) % 4,
        ["a", "b", "c", "d"],
        "set",
    )


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_mixup_is_beta_distributed(alpha: float) -> None:
    examples = make(4000, (3,), floats=True)
    batch = see(examples, Views(mixup=alpha))
    own = batch.target[torch.arange(4000), examples.targets].double().numpy()
    # Three partners in four are of another class; only there does the label tell the share.
    mixed = batch.target.count_nonzero(1).numpy() == 2
    assert batch.target.dtype == torch.float32
    assert torch.allclose(batch.target.sum(1), torch.ones(4000))
    assert stats.kstest(own[mixed], stats.beta(alpha, alpha).cdf).pvalue > 1e-4


def test_cutmix_labels_say_the_true_area() -> None:
    count = 997
    examples = constant(count)
    batch = see(examples, Views(cutmix=1.0))
    values = torch.round(batch.inputs["x"].flatten(1) * count).long()
    label = {int(torch.round(examples.inputs[n, 0, 0, 0] * count)): int(examples.targets[n]) for n in range(count)}
    partners = []
    pasted = 0
    for n in range(count):
        own = int(torch.round(examples.inputs[n, 0, 0, 0] * count))
        found, counts = values[n].unique(return_counts=True)
        expected = torch.zeros(4)
        for value, pixels in zip(found.tolist(), counts.tolist(), strict=True):
            expected[label[value]] += pixels / 256
            partners += [value] if value != own else []
        if len(found) == 2:
            assert torch.allclose(batch.target[n], expected, atol=1e-6)
            pasted += 1
    assert pasted > 800
    # Partners come from the whole set.
    assert len(set(partners)) > 400


def test_a_partner_comes_with_its_own_view() -> None:
    examples = make(64, (1, 8, 8))
    alone = see(examples, Views(flip=0.5, shift=2)).inputs["x"]
    mixed = see(examples, Views(flip=0.5, shift=2, cutmix=1.0))
    for n in range(64):
        own = mixed.inputs["x"][n] == alone[n]
        others = (mixed.inputs["x"][n] == alone).flatten(1) | own.flatten()
        assert bool(others.all(1).any())


def test_mixing_by_hand() -> None:
    examples = make(50, (5,), floats=True)
    batch = see(examples, Views(mixup=0.8))
    ids = examples.ids.numpy()
    partner = torch.from_numpy(np.floor(uniform(5, 2, ids, Stream.PARTNER) * 50).astype(int))
    share = torch.from_numpy(stats.beta(0.8, 0.8).ppf(uniform(5, 2, ids, Stream.SHARE))).unsqueeze(1)
    blend = share * examples.inputs + (1 - share) * examples.inputs[partner]
    assert torch.allclose(batch.inputs["x"].double(), blend, atol=1e-6)
    target = share * torch.eye(4)[examples.targets] + (1 - share) * torch.eye(4)[examples.targets[partner]]
    assert torch.allclose(batch.target.double(), target, atol=1e-6)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"flip": 1.5}, "`flip` is out of range\n  given     1.5\n  expected  0 … 1"),
        ({"flip": -0.1}, "`flip`"),
        ({"erase": float("nan")}, "`erase`"),
        ({"rotate": 181.0}, "expected  0 … 180"),
        ({"shift": -1}, "expected  a whole number ≥ 0"),
        ({"shift": 1.5}, "`shift`"),
        ({"crop": 0.0}, "`crop` is out of range"),
        ({"crop": 1.1}, "`crop`"),
        ({"crop": float("nan")}, "`crop`"),
        ({"mixup": -1.0}, "`mixup`"),
        ({"cutmix": float("inf")}, "`cutmix`"),
        ({"mixup": 0.2, "cutmix": 1.0}, "only one of mixup and cutmix can be on\nhint: set one of them to 0"),
    ],
)
def test_values_out_of_range(values: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Views(**values)  # type: ignore[arg-type]


def test_features_take_only_mixup() -> None:
    features = make(20, (7,), floats=True)
    with pytest.raises(
        InputError, match=r"are not images(.|\n)*given     flip, crop\n  expected  mixup, the only view"
    ):
        see(features, Views(flip=0.5, crop=0.5, mixup=0.2))
    assert see(features, Views(mixup=0.2)).inputs["x"].shape == (20, 7)


def test_a_shift_as_large_as_the_image() -> None:
    with pytest.raises(InputError, match="given     shift 5 for images of 5×9\n  expected  less than 5"):
        see(make(8, (1, 5, 9)), Views(shift=5))


def test_properties() -> None:
    assert not Views().random
    assert all(views.random for views in EACH)
    assert [views.soft_targets for views in EACH] == [bool(v.mixup or v.cutmix) for v in EACH]
