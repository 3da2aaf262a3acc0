"""Codecs: exact where they say so, otherwise as far off as they say; and drawn classes that are right in the mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.errors import InputError, ModelError
from tutelage.losses import soft_target
from tutelage.losses.targets import dense, top_k
from tutelage.store import Codec, codec_of
from tutelage.types import Sampled, TopK

Array = np.ndarray

EPS = float(np.finfo(np.float32).eps)
EACH = ["fp32", "fp16", "bf16", "int8", "top-1", "top-4", "top-10", "sample-1", "sample-12", "sample-64", "sample-300"]


def random(rows: int, classes: int, *, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * scale


def ids_of(rows: int, *, seed: int = 0) -> Tensor:
    """Content ids: 63 random bits."""
    return torch.randint(0, 2**63 - 1, (rows,), generator=torch.Generator().manual_seed(seed))


def through(codec: Codec, logits: Tensor, *, ids: Tensor | None = None, view: int = 0) -> Tensor | TopK | Sampled:
    columns = codec.encode(logits, ids_of(len(logits)) if ids is None else ids, view)
    assert all(len(column) == len(logits) for column in columns.values())
    return codec.decode(columns, logits.shape[1])


def numbers(codec: Codec, logits: Tensor) -> Tensor:
    decoded = through(codec, logits)
    assert isinstance(decoded, Tensor)
    return decoded


def softmax(logits: Tensor, temperature: float) -> Array:
    scaled = logits.double().numpy() / temperature
    shares = np.exp(scaled - scaled.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


# All logits


def test_fp32_is_exact_to_the_bit() -> None:
    logits = torch.cat([
        random(50, 7),
        torch.tensor([[0.0, -0.0, 1e-45, -1e-40, 3.4e38, -3.4e38, 1 / 3]]),
    ])  # fmt: skip
    decoded = numbers(codec_of("fp32"), logits)
    assert torch.equal(decoded.view(torch.int32), logits.view(torch.int32))


def nearest_bf16(values: Array) -> Array:
    """The upper 16 bits, rounded half to even, in integers."""
    bits = values.view(np.uint32).astype(np.uint64)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return (kept << 16).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 3.0, 1e4])
def test_half_precision_is_rounded_to_the_nearest(scale: float) -> None:
    logits = random(200, 9, scale=scale)
    logits[0, :4] = torch.tensor([1 + 2**-9, 1 + 3 * 2**-9, 1 + 2**-12, 1 + 3 * 2**-12])  # ties go to even
    half, brain = numbers(codec_of("fp16"), logits), numbers(codec_of("bf16"), logits)
    assert half.dtype == torch.float16
    assert brain.dtype == torch.bfloat16
    assert np.array_equal(half.numpy(), logits.numpy().astype(np.float16))
    assert np.array_equal(brain.float().numpy(), nearest_bf16(logits.numpy()))


def test_fp16_ends_at_65504() -> None:
    # 65520 is half-way between the largest number of fp16 and the first that it lacks: it rounds to infinity.
    below = torch.tensor([[np.nextafter(np.float32(65520), np.float32(0)), -65504.0]])
    assert numbers(codec_of("fp16"), below).tolist() == [[65504.0, -65504.0]]
    for value in (65520.0, -65520.0, 1e6, -3e38):
        with pytest.raises(ModelError, match="logits do not fit fp16") as caught:
            through(codec_of("fp16"), torch.tensor([[0.0, 1.0], [value, 0.0]]))
        assert caught.value.problem.given == f"up to {abs(np.float32(value)):g}"
        assert "bf16 or fp32" in str(caught.value)


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16", "int8", "top-2"])
@pytest.mark.parametrize("row", [[-3.4e38, 3.4e38, 0.0], [3.4028e38, 0.0, 1.0], [-3.4e38, -3.4e38, 3.4e38]])
def test_a_finite_answer_is_stored_finite_or_refused(name: str, row: list[float]) -> None:
    codec, logits = codec_of(name), torch.tensor([row])
    try:
        decoded = through(codec, logits)
    except ModelError:
        return
    found = decoded.values if isinstance(decoded, TopK) else decoded
    assert isinstance(found, Tensor)
    assert bool(found.float().isfinite().all())


def off_by(logits: Tensor, decoded: Tensor) -> tuple[Array, Array]:
    """How far each number is off, and how far it may be."""
    exact = logits.double().numpy()
    half_a_step = (exact.max(-1) - exact.min(-1)) / 254 / 2
    # Both are float32: middle, step, product and sum are rounded at the size of the row's greatest number.
    rounding = 4 * EPS * np.abs(exact).max(-1)
    return np.abs(decoded.double().numpy() - exact), (half_a_step + rounding)[:, None]


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 3.0, 1e4, 1e30])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_int8_is_off_by_half_a_step_of_its_row_at_most(classes: int, scale: float) -> None:
    logits = random(100, classes, scale=scale)
    off, allowed = off_by(logits, numbers(codec_of("int8"), logits))
    assert bool((off <= allowed).all())


@pytest.mark.parametrize(
    "row",
    [
        [0.0, 0.0, 0.0, 1000.0],
        [-1000.0, 0.0, 0.0, 0.0],
        [1e6, 1e6 + 1, 1e6 + 2, 1e6 + 3],
        [-1.7e38, 1.7e38, 0.0, 1.0],
        [1e-20, -1e-20, 0.0, 5e-21],
        [-5.0, -5.0, 5.0, 5.0],
        [1.0, 1.0 + 2**-23, 1.0, 1.0],
    ],
)
def test_int8_of_odd_rows(row: list[float]) -> None:
    # Beside rows of quite other sizes: each has a step of its own.
    logits = torch.tensor([[1e30, -1e30, 3e29, 0.0], row, [0.0, 1.0, 2.0, 3.0]])
    decoded = numbers(codec_of("int8"), logits)
    off, allowed = off_by(logits, decoded)
    assert bool((off <= allowed).all())
    # The best class is still one of the best.
    assert torch.equal(decoded.gather(-1, logits.argmax(-1, keepdim=True))[:, 0], decoded.amax(-1))


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -7.25, 1 / 3, 1e-45, -3e38, 65504.0])
def test_int8_of_a_row_of_equal_numbers_is_exact(value: float) -> None:
    logits = torch.full((2, 5), value)
    assert torch.equal(numbers(codec_of("int8"), logits), logits)


# The largest


def reference_top_k(logits: Tensor, k: int, temperature: float) -> tuple[Array, Array]:
    """The k largest, in order, and the logarithm of the sum of exp(z / T) over all others; in float64."""
    ordered = -np.sort(-logits.double().numpy(), -1)
    rest = ordered[:, k:] / temperature
    with np.errstate(divide="ignore"):
        return ordered[:, :k], np.log(np.exp(rest).sum(-1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("k", [1, 2, 7, 299, 300])
def test_top_k_keeps_what_the_losses_keep(k: int, temperature: float) -> None:
    logits = random(40, 300)
    decoded = through(codec_of(f"top-{k}", temperature), logits)
    assert isinstance(decoded, TopK)
    assert (decoded.classes, decoded.temperature) == (300, temperature)
    assert decoded.indices.dtype == torch.int64
    expected = top_k(logits, k, temperature=temperature)
    assert torch.equal(decoded.values, expected.values)
    assert torch.equal(decoded.indices, expected.indices)
    assert torch.equal(decoded.tail, expected.tail)
    values, tail = reference_top_k(logits, k, temperature)
    assert np.array_equal(decoded.values.double().numpy(), values)
    assert torch.equal(logits.gather(-1, decoded.indices), decoded.values)
    assert decoded.tail.double().numpy() == pytest.approx(tail, rel=1e-6, abs=1e-5)


def test_the_tail_is_that_of_the_given_temperature() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.2, -1.0]])
    # log(e^0.2 + e^-1) and log(e^0.1 + e^-0.5)
    for temperature, tail in ((1.0, math.log(1.2214028 + 0.3678794)), (2.0, math.log(1.1051709 + 0.6065307))):
        decoded = through(codec_of("top-2", temperature), logits)
        assert isinstance(decoded, TopK)
        assert float(decoded.tail) == pytest.approx(tail, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 10, 257])
def test_top_of_all_classes_leaves_nothing_out(classes: int) -> None:
    logits, student = random(30, classes), random(30, classes, seed=1)
    decoded = through(codec_of(f"top-{classes}", 2.0), logits)
    assert isinstance(decoded, TopK)
    assert torch.equal(dense(decoded, "this test"), logits)
    assert bool(torch.isneginf(decoded.tail).all())
    assert torch.equal(soft_target(student, decoded, temperature=2.0), soft_target(student, logits, temperature=2.0))


def test_more_than_all_classes_are_refused() -> None:
    with pytest.raises(InputError, match="top-5 keeps more classes than there are") as caught:
        through(codec_of("top-5"), random(3, 4))
    assert caught.value.problem.where == "teacher.store.codec"
    assert caught.value.problem.given == "4 classes"
    assert "top-4" in str(caught.value.problem.expected)


# Bytes


@pytest.mark.parametrize("classes", [10, 256, 257, 1000, 65536, 65537])
@pytest.mark.parametrize("name", [*EACH, "sample-254", "sample-255", "sample-256"])
def test_a_row_has_as_many_bytes_as_promised(name: str, classes: int) -> None:
    codec = codec_of(name)
    columns = codec.encode(random(2, classes), ids_of(2), 0)
    found = sum(column.element_size() * column[0].numel() for column in columns.values())
    assert found == codec.row_bytes(classes)


def test_bytes_by_hand() -> None:
    names = ("fp32", "fp16", "bf16", "int8", "top-4", "sample-64")
    assert [codec_of(name).row_bytes(1000) for name in names] == [4000, 2000, 2000, 1008, 4 * (4 + 2) + 4, 64 * (2 + 1)]


@pytest.mark.parametrize("best", [255, 256, 257, 32767, 32768, 65535, 65536])
def test_no_class_number_wraps_around(best: int) -> None:
    for classes in {best + 1, 70_000}:
        logits = torch.zeros(2, classes)
        logits[0, best], logits[1, 0] = 1000.0, 1000.0
        largest, drawn = through(codec_of("top-1"), logits), through(codec_of("sample-3"), logits)
        assert isinstance(largest, TopK)
        assert isinstance(drawn, Sampled)
        assert largest.indices.tolist() == [[best], [0]]
        assert drawn.indices[:, 0].tolist() == [best, 0]
        assert drawn.weights.tolist() == [[1.0, 0.0, 0.0]] * 2


@pytest.mark.parametrize("draws", [1, 255, 256, 257, 65535, 65536, 99999])
def test_no_count_wraps_around(draws: int) -> None:
    decoded = through(codec_of(f"sample-{draws}"), torch.tensor([[0.0, 1000.0, 0.0]]))
    assert isinstance(decoded, Sampled)
    assert decoded.indices[0, 0] == 1
    assert decoded.weights[0].double().sum() == decoded.weights[0, 0] == 1.0


# Drawn classes


def counts_of(logits: Tensor, draws: int, temperature: float, *, ids: Tensor | None = None, view: int = 0) -> Array:
    """How often each class was drawn, (B, C)."""
    decoded = through(codec_of(f"sample-{draws}", temperature), logits, ids=ids, view=view)
    assert isinstance(decoded, Sampled)
    assert (decoded.classes, decoded.temperature) == (logits.shape[1], temperature)
    assert (decoded.indices.dtype, decoded.weights.dtype) == (torch.int64, torch.float32)
    weights, indices = decoded.weights.double().numpy(), decoded.indices.numpy()
    assert weights.sum(-1) == pytest.approx(np.ones(len(logits)), abs=1e-6)
    for row_indices, row_weights in zip(indices, weights, strict=True):
        taken = row_indices[row_weights > 0]
        assert len(set(taken.tolist())) == len(taken)
    spread = np.zeros(logits.shape)
    np.add.at(spread, (np.arange(len(logits))[:, None], indices), weights * draws)
    counts = np.rint(spread)
    assert np.abs(spread - counts).max() < 1e-3
    assert (counts.sum(-1) == draws).all()
    return counts


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("classes", [3, 10, 256, 257, 1000])
def test_every_class_comes_as_often_as_expected_but_for_rounding(classes: int, temperature: float) -> None:
    logits = random(60, classes, seed=classes)
    for draws in (1, 5, 12, 64, 300):
        counts = counts_of(logits, draws, temperature)
        expected = draws * softmax(logits, temperature)
        # Both sums are rounded, so that an expectation of 2.9999999999 may be 3.
        assert (counts >= np.floor(expected - 1e-9)).all()
        assert (counts <= np.ceil(expected + 1e-9)).all()


def test_tens_of_thousands_of_draws() -> None:
    logits = random(4, 1000)
    expected = 50_000 * softmax(logits, 1.0)
    counts = counts_of(logits, 50_000, 1.0)
    assert (counts >= np.floor(expected - 1e-6)).all()
    assert (counts <= np.ceil(expected + 1e-6)).all()


def test_whole_expectations_are_met_by_every_draw() -> None:
    # Of 12 draws, 1/2 and 1/4 are 6 and 3; 1/8 is 1.5, which is 1 for one of the two classes and 2 for the other.
    counts = counts_of(torch.tensor([[4.0, 2.0, 1.0, 1.0]]).log().repeat(200, 1), 12, 1.0)
    assert {tuple(row) for row in counts.tolist()} == {(6, 3, 1, 2), (6, 3, 2, 1)}


def check_mean(weights: Array, shares: Array, draws: int) -> None:
    """The mean over many draws is the distribution, within five standard errors."""
    fraction = draws * shares % 1.0
    error = np.sqrt(fraction * (1 - fraction) / len(weights)) / draws
    # The weights are float32, the sums float64.
    assert (np.abs(weights.mean(0) - shares) <= 5 * error + 1e-7).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("draws", [1, 12, 64])
@pytest.mark.parametrize("consecutive", [False, True])
def test_in_the_mean_over_examples_it_is_the_distribution(consecutive: bool, draws: int, temperature: float) -> None:
    logits = random(1, 12, seed=5)
    ids = torch.arange(8000) if consecutive else ids_of(8000, seed=1)
    counts = counts_of(logits.repeat(8000, 1), draws, temperature, ids=ids)
    check_mean(counts / draws, softmax(logits, temperature)[0], draws)


def test_in_the_mean_over_views_it_is_the_distribution() -> None:
    logits, one = random(1, 12, seed=6), ids_of(1)
    codec = codec_of("sample-4", 2.0)
    weights = np.zeros((3000, 12))
    for view in range(3000):
        decoded = through(codec, logits, ids=one, view=view)
        assert isinstance(decoded, Sampled)
        np.add.at(weights[view], decoded.indices[0].numpy(), decoded.weights[0].double().numpy())
    check_mean(weights, softmax(logits, 2.0)[0], 4)


@pytest.mark.parametrize("draws", [1, 2, 7, 12, 50])
def test_it_never_varies_more_than_independent_draws(draws: int) -> None:
    logits = random(1, 9, seed=draws, scale=2.0)
    counts = counts_of(logits.repeat(6000, 1), draws, 1.0, ids=ids_of(6000, seed=2))
    shares = softmax(logits, 1.0)[0]
    fraction = draws * shares % 1.0
    expected = fraction * (1 - fraction) / draws**2
    independent = shares * (1 - shares) / draws
    # Five standard errors of the variance of a count that is one of two neighbours.
    error = 5 * np.sqrt(fraction * (1 - fraction) * (1 - 2 * fraction) ** 2 / 6000) / draws**2 + 1e-3 / draws**2
    variance = (counts / draws).var(0)
    assert (np.abs(variance - expected) <= error).all()
    assert (variance <= independent + error).all()


def test_the_variance_of_six_in_ten() -> None:
    # p = 0.6 and N = 12: 7.2 draws are expected, so 7 or, one time in five, 8 come: the variance is 0.2 · 0.8 / 12²,
    # or 0.0011, where independent draws would have 0.6 · 0.4 / 12 = 0.02.
    logits = torch.tensor([[math.log(0.6), math.log(0.4)]]).repeat(20_000, 1)
    first = counts_of(logits, 12, 1.0, ids=ids_of(20_000, seed=3))[:, 0]
    assert set(first.tolist()) == {7.0, 8.0}
    assert (first == 8).mean() == pytest.approx(0.2, abs=5 * math.sqrt(0.16 / 20_000))
    assert (first / 12).var() == pytest.approx(0.16 / 144, rel=0.055)
    assert (first / 12).var() < 0.02 / 15


@pytest.mark.parametrize("draws", [3, 64, 300])
def test_the_draws_are_a_function_of_example_and_view(draws: int) -> None:
    logits, ids = random(50, 300), ids_of(50)
    codec = codec_of(f"sample-{draws}", 2.0)
    whole = codec.encode(logits, ids, 77)
    order = torch.randperm(50)
    turned = codec.encode(logits[order], ids[order], 77)
    twice = codec.encode(logits[[7, 7]], ids[[7, 7]], 77)
    for name, column in whole.items():
        assert torch.equal(turned[name].to(torch.int64), column.to(torch.int64)[order])
        assert torch.equal(twice[name].to(torch.int64), column.to(torch.int64)[[7, 7]])
    for row in range(0, 50, 9):
        alone = codec.encode(logits[row : row + 1], ids[row : row + 1], 77)
        assert all(torch.equal(alone[name], whole[name][row : row + 1]) for name in whole)


def test_another_view_and_another_example_have_other_draws() -> None:
    logits = random(1, 300, scale=1.0).repeat(200, 1)
    base = counts_of(logits, 20, 1.0, ids=ids_of(200), view=1)
    # One offset in about three hundred chooses the same twenty classes, so that 200 examples share few choices.
    assert len(np.unique(base, axis=0)) > 100
    for view in (0, 2, 3, 2**62, 2**63 - 1):
        other = counts_of(logits, 20, 1.0, ids=ids_of(200), view=view)
        assert (other != base).any(-1).mean() > 0.95


@pytest.mark.parametrize("size", [1e4, 3e38])
def test_a_teacher_that_is_certain_has_all_draws(size: float) -> None:
    logits = torch.tensor([[0.0, size, 0.0], [-size, -size, 0.0], [size, -size, 0.0]])
    assert counts_of(logits, 8, 1.0).tolist() == [[0, 8, 0], [0, 0, 8], [8, 0, 0]]


# How far stored answers may be from live ones


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_same_teacher_is_recognised(name: str, temperature: float) -> None:
    codec = codec_of(name, temperature)
    for scale in (1e-3, 0.5, 3.0, 100.0):
        logits = random(64, 10, scale=scale)
        decoded = through(codec, logits)
        assert 0.0 <= codec.difference(logits, decoded) <= 1.0
        # Another machine, or another batch, rounds differently.
        nearly = logits * (1 + 1e-5 * random(64, 10, seed=9, scale=1.0))
        assert codec.difference(nearly, decoded) <= 1.0


@pytest.mark.parametrize("name", [name for name in EACH if name != "sample-1"])
def test_another_teacher_is_recognised(name: str) -> None:
    codec = codec_of(name)
    logits = random(64, 10)
    decoded = through(codec, logits)
    assert codec.difference(random(64, 10, seed=1), decoded) > 5.0
    assert codec.difference(logits * 1.5, decoded) > 2.0
    assert codec.difference(logits.roll(1, 0), decoded) > 5.0  # the rows of others
    assert codec.difference(logits.roll(1, 1), decoded) > 5.0  # other classes
    one = logits.clone()
    one[33] = logits[34]
    assert codec.difference(one, decoded) > 2.0  # one wrong row of 64


def test_what_lies_in_the_tail_counts() -> None:
    codec, logits = codec_of("top-2"), torch.tensor([[5.0, 4.0, -3.0, -3.0]])
    decoded = through(codec, logits)
    assert codec.difference(logits, decoded) <= 1.0
    # The two that were kept are as before, but they would not have been kept.
    assert codec.difference(torch.tensor([[5.0, 4.0, 9.0, 9.0]]), decoded) > 5.0


def test_a_class_that_would_surely_have_been_drawn_counts() -> None:
    codec, logits = codec_of("sample-64"), torch.zeros(1, 128)
    decoded = through(codec, logits)
    assert isinstance(decoded, Sampled)
    assert codec.difference(logits, decoded) <= 1.0
    other = logits.clone()
    other[0, int(np.setdiff1d(np.arange(128), decoded.indices[0].numpy())[0])] = 5.0  # half of all its mass
    assert codec.difference(other, decoded) > 5.0


# Names


@pytest.mark.parametrize("name", EACH)
def test_a_codec_is_called_what_it_was_asked_for(name: str) -> None:
    codec = codec_of(name, 3.0)
    assert codec.name == name
    assert codec.facts()["codec"] == name
    # Only those that keep a part depend on the temperature.
    assert codec.facts().get("temperature") == (3.0 if name.startswith(("top", "sample")) else None)


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "fp64", "FP16", "float32", "fp16 ", "int4", "int8\n", "top", "top-", "top-0", "top-04", "top--4",
        "top-1.5", "top-1e3", "top-100000", "top_4", "top-4\n", "top-４", "Top-4", "top-K", "sample-0", "sample-N",
        "sample--1", "sample-16-4", "zip", "fp16,int8",
    ],
)  # fmt: skip
def test_what_is_no_codec(name: str) -> None:
    with pytest.raises(InputError, match="no codec") as caught:
        codec_of(name)
    assert f"`{name}`" in str(caught.value)
    assert "top-16 or sample-64" in str(caught.value)


@pytest.mark.parametrize("name", ["top-2", "sample-2"])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_none(name: str, temperature: float) -> None:
    with pytest.raises(InputError, match="temperature must be a finite number above 0"):
        through(codec_of(name, temperature), random(3, 4))


@pytest.mark.parametrize("name", ["top-2", "sample-2"])
def test_a_whole_temperature_is_the_same_one(name: str) -> None:
    # Facts are hashed as text: 4 and 4.0 must not be two stores.
    assert repr(codec_of(name, 4).facts()) == repr(codec_of(name, 4.0).facts())
