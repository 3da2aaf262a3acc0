"""Temperature against a grid and other optimisers; debiased error and AURC against loops and hand-derived numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize
from torch.nn.functional import cross_entropy

from tutelage.errors import InputError
from tutelage.evaluation import calibration, metrics
from tutelage.evaluation.calibration import LEAST_TEMPERATURE, MOST_TEMPERATURE, aurc, debiased_l2, fit_temperature


def drawn(seed: int, n: int = 2000, classes: int = 5, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits z and labels drawn from softmax(z), so z is calibrated; then z times `sharpness`."""
    generator = np.random.default_rng(seed)
    logits = 2.0 * generator.normal(size=(n, classes))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)  # a draw from the softmax
    return sharpness * logits, labels.astype(np.int64)


def two(confidences: list[float], right: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Answers of two classes that name class 0 with the given confidences."""
    p = np.array(confidences)
    return np.stack([np.log(p), np.log1p(-p)], axis=1), np.where(right, 0, 1).astype(np.int64)


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_temperature_is_that_of_other_optimisers(classes: int, sharpness: float) -> None:
    logits, labels = drawn(classes, n=600, classes=classes, sharpness=sharpness)
    found = fit_temperature(logits, labels)
    assert found is not None

    def loss(t: float) -> float:
        return float(cross_entropy(torch.from_numpy(logits / t), torch.from_numpy(labels)))

    other = minimize(lambda x: loss(float(np.exp(x[0]))), [0.0], method="Nelder-Mead", options={"xatol": 1e-8})
    assert found.value == pytest.approx(float(np.exp(other.x[0])), rel=1e-4)
    grid = np.linspace(0.7, 1.4, 29) * found.value
    assert found.nll_after <= min(loss(t) for t in grid) + 1e-12
    assert found.nll_before == pytest.approx(loss(1.0))
    assert found.nll_after == pytest.approx(loss(found.value))


def test_the_slope_of_the_loss_is_zero_at_the_temperature() -> None:
    logits, labels = drawn(3, n=500, sharpness=2.0)

    def slope(inverse: float) -> float:
        odds = np.exp(inverse * logits)
        mean = (odds * logits).sum(axis=1) / odds.sum(axis=1)
        return float((mean - logits[np.arange(labels.size), labels]).mean())

    found = fit_temperature(logits, labels)
    assert found is not None
    assert found.value == pytest.approx(1 / brentq(slope, 0.05, 5.0, xtol=1e-14), rel=1e-6)


@pytest.mark.parametrize("factor", [0.25, 0.9, 1.7, 6.0])
def test_the_temperature_scales_with_the_logits_and_ignores_what_softmax_ignores(factor: float) -> None:
    logits, labels = drawn(4, n=800)
    shift = np.random.default_rng(0).normal(size=(800, 1))
    plain, scaled = fit_temperature(logits, labels), fit_temperature(factor * logits + shift, labels)
    assert plain is not None
    assert scaled is not None
    assert scaled.value == pytest.approx(factor * plain.value, rel=1e-6)
    assert scaled.nll_after == pytest.approx(plain.nll_after)


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_logits_that_were_calibrated_at_a_temperature_get_it_back(true: float) -> None:
    logits, labels = drawn(5, n=60_000, classes=4, sharpness=true)  # softmax(logits / true) is what labels come from
    found = fit_temperature(logits, labels)
    assert found is not None
    assert found.value == pytest.approx(true, rel=0.02)
    assert metrics.ece(logits / found.value, labels) < 0.01


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_on_the_validation_part_never_gets_worse(seed: int) -> None:
    logits, labels = drawn(seed, n=30, classes=3, sharpness=0.5 + seed)
    found = fit_temperature(logits, labels)
    assert found is not None
    assert LEAST_TEMPERATURE < found.value < MOST_TEMPERATURE
    assert metrics.nll(logits / found.value, labels) <= metrics.nll(logits, labels)


NO_MINIMUM = {
    "all right": (np.eye(3) * 4.0, np.arange(3)),
    "all right and sure": (np.eye(3) * 1e4, np.arange(3)),
    "all wrong": (np.eye(3) * 4.0, np.array([1, 2, 0])),
    "no better than chance": (np.eye(2)[[0, 0, 1, 1]], np.array([0, 1, 0, 1])),
    "always as sure of everything": (np.zeros((4, 3)), np.array([0, 1, 2, 0])),
    "one right example": (np.array([[2.0, 0.0]]), np.array([0])),
    "one wrong example": (np.array([[2.0, 0.0]]), np.array([1])),
    "one class": (np.ones((3, 1)), np.zeros(3, dtype=np.int64)),
    "beyond the bounds": (200 * drawn(6)[0], drawn(6)[1]),
}


@pytest.mark.parametrize("case", NO_MINIMUM.values(), ids=NO_MINIMUM.keys())
def test_where_no_temperature_is_best_there_is_none(case: tuple[np.ndarray, np.ndarray]) -> None:
    assert fit_temperature(*case) is None
    assert set(calibration.measure(*case, None)) <= {"aurc", "calibration_l2"}


def test_two_examples_of_one_confidence_give_the_temperature_of_their_odds() -> None:
    logits = np.tile([[3.0, 0.0]], (4, 1))
    found = fit_temperature(logits, np.array([0, 0, 0, 1]))  # right in 3 of 4: the odds should be 3 to 1
    assert found is not None
    assert found.value == pytest.approx(3.0 / math.log(3.0), rel=1e-6)


def test_the_temperature_comes_from_validation_and_is_used_on_test() -> None:
    logits, labels = drawn(8, sharpness=3.0)
    fitted = calibration.temperature_of("a", logits[:1000].astype(np.float32), labels[:1000], 5)
    assert fitted is not None
    found = calibration.measure(logits[1000:], labels[1000:], fitted)
    assert found["temperature"] == fitted.value
    assert found["nll_scaled"] == metrics.nll(logits[1000:] / fitted.value, labels[1000:])
    assert found["ece_scaled"] == metrics.ece(logits[1000:] / fitted.value, labels[1000:])
    assert found["ece_scaled"] < metrics.ece(logits[1000:], labels[1000:]) / 3
    assert set(found) == set(calibration.METHODS)
    assert calibration.temperature_of("a", None, labels, 5) is None


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (np.zeros((2, 3)), None, "no labels came with them"),
        (np.zeros((2, 4)), [0, 1], "`a` answers other classes"),
        (np.zeros((3, 3)), [0, 1], "wrong shape"),
        (np.zeros((2, 3)), [0, 3], "not a class number"),
    ],
    ids=["no labels", "width", "length", "label"],
)
def test_validation_answers_that_do_not_fit_are_refused(logits: np.ndarray, labels: list[int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        calibration.temperature_of("a", logits, labels, 3)


def by_hand(logits: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """The estimator as a loop over bins of distinct confidences."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    pairs = sorted(zip(p.max(axis=1).tolist(), (p.argmax(axis=1) == labels).tolist(), strict=True))
    total, each = 0.0, len(pairs) // bins
    for start in range(0, len(pairs), each):
        part = pairs[start : start + each]
        sure, right = (sum(column) / each for column in zip(*part, strict=True))
        total += each / len(pairs) * ((sure - right) ** 2 - right * (1 - right) / (each - 1))
    return math.sqrt(max(0.0, total))


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_the_debiased_error_equals_the_loop_over_bins(sharpness: float) -> None:
    logits, labels = drawn(9, n=450, sharpness=sharpness)
    assert debiased_l2(logits, labels) == pytest.approx(by_hand(logits, labels, 15), abs=1e-12)
    assert debiased_l2(logits, labels, bins=5) == pytest.approx(by_hand(logits, labels, 5), abs=1e-12)


def test_the_debiased_error_of_one_bin_is_the_formula() -> None:
    logits, labels = two([0.9] * 10, [True] * 6 + [False] * 4)
    assert debiased_l2(logits, labels) == pytest.approx(math.sqrt(0.3**2 - 0.6 * 0.4 / 9))
    # Calibrated to the last digit: the variance alone is left, which would make the square negative.
    assert debiased_l2(*two([0.6] * 10, [True] * 6 + [False] * 4)) == 0.0


def test_two_bins_weigh_by_their_examples_and_never_part_equal_confidences() -> None:
    confidences, right = [0.6] * 5 + [0.9] * 3, [True, False, False, False, False, True, True, True]
    first = 5 / 8 * ((0.6 - 0.2) ** 2 - 0.2 * 0.8 / 4)
    expected = math.sqrt(first + 3 / 8 * 0.1**2)
    assert debiased_l2(*two(confidences, right), bins=2) == pytest.approx(expected)
    backwards = two(confidences[::-1], right[::-1])
    assert debiased_l2(*backwards, bins=2) == pytest.approx(expected)
    # The ninth example is alone in its bin, has no variance, and so adds nothing.
    alone = two([*confidences, 0.99], [*right, False])
    squared = 5 / 9 * (0.4**2 - 0.2 * 0.8 / 4) + 3 / 9 * 0.1**2
    assert debiased_l2(*alone, bins=9) == pytest.approx(math.sqrt(squared))


def test_the_debiased_square_is_right_on_average_where_the_plug_in_is_not() -> None:
    squares, plain, generator = [], [], np.random.default_rng(0)
    for _ in range(400):  # sure to 0.9, right in 0.7: the true error is 0.2
        logits, labels = two([0.9] * 12, list(generator.uniform(size=12) < 0.7))
        right = float(np.mean(labels == 0))
        plain.append((0.9 - right) ** 2)
        squares.append(plain[-1] - right * (1 - right) / 11)
        assert debiased_l2(logits, labels) == pytest.approx(math.sqrt(max(0.0, squares[-1])))
    error = np.std(squares) / math.sqrt(400)
    assert abs(np.mean(squares) - 0.2**2) < 3 * error
    assert np.mean(plain) - 0.2**2 > 3 * error


def test_one_example_has_no_debiased_error_and_two_have_one() -> None:
    assert debiased_l2(*two([0.9], [True])) is None
    assert debiased_l2(*two([0.8, 0.9], [True, True])) == pytest.approx(0.15)
    assert calibration.measure(*two([0.9], [True]), None) == {"aurc": 0.0}


def test_aurc_of_hand_derived_orders() -> None:
    sure = [0.9, 0.8, 0.7, 0.6]
    assert aurc(*two(sure, [True, True, True, False])) == pytest.approx(1 / 16)
    assert aurc(*two(sure, [False, True, True, True])) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert aurc(*two(sure, [True, False, True, False])) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    coverage, risk = calibration.risk_coverage(*two(sure[::-1], [False, True, False, True]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])


@pytest.mark.parametrize(("right", "expected"), [(True, 0.0), (False, 1.0)])
@pytest.mark.parametrize("n", [1, 7])
def test_aurc_without_errors_is_0_and_without_right_answers_1(n: int, right: bool, expected: float) -> None:
    assert aurc(*two(np.linspace(0.6, 0.9, n).tolist(), [right] * n)) == expected


def test_aurc_of_a_perfect_order_is_near_its_known_limit() -> None:
    n, wrong = 20_000, 4_000
    found = aurc(*two(np.linspace(0.99, 0.51, n).tolist(), [True] * (n - wrong) + [False] * wrong))
    assert found == pytest.approx(0.2 + 0.8 * math.log(0.8), abs=1e-4)  # r + (1 − r) ln(1 − r)
    assert found == pytest.approx(sum(j / (n - wrong + j) for j in range(1, wrong + 1)) / n)


def test_equally_sure_examples_share_their_errors_whatever_their_order() -> None:
    right = [True] * 7 + [False] * 3
    assert aurc(*two([0.8] * 10, right)) == pytest.approx(0.3)
    generator = np.random.default_rng(2)
    sure, errors = generator.choice([0.6, 0.7, 0.8], size=40), generator.uniform(size=40) < 0.4
    found = aurc(*two(sure.tolist(), (~errors).tolist()))
    assert aurc(*two(sure[::-1].tolist(), (~errors)[::-1].tolist())) == pytest.approx(found)
    orders = []
    for _ in range(3000):  # the mean over random orders of the equal ones
        mixed = generator.permutation(40)
        order = mixed[np.argsort(-sure[mixed], kind="stable")]
        orders.append(float((errors[order].cumsum() / np.arange(1, 41)).mean()))
    assert found == pytest.approx(np.mean(orders), abs=4 * np.std(orders) / math.sqrt(3000))


def test_aurc_depends_on_the_order_of_confidence_only() -> None:
    logits, labels = drawn(11, n=300, classes=2)
    assert aurc(3 * logits, labels) == pytest.approx(aurc(logits, labels))
    sure = np.array([[50.0, 0.0], [60.0, 0.0], [70.0, 0.0]])  # all of them 1.0 as a probability
    assert aurc(sure, np.array([1, 0, 0])) == pytest.approx((0 + 0 + 1 / 3) / 3)
