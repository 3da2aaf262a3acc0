"""The points of curves against scikit-learn, scipy and plain loops, and against the numbers that stand beside them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc

from tutelage.errors import InputError
from tutelage.evaluation import calibration, metrics
from tutelage.evaluation.drawn import HISTOGRAM_BINS, MOST_POINTS, drawn, equal_mass


def answers(n: int, classes: int, seeds: int = 1, start: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Logits that are right for most of `n` examples, of several seeds, and the labels."""
    generator = np.random.default_rng(start)
    labels = np.arange(n) % classes
    sure = 4 * generator.random((n, 1)) * np.eye(classes)[labels]
    return [sure + generator.normal(size=(n, classes)) for _ in range(seeds)], labels


def test_reliability_is_that_of_scikit_learn_and_adds_up_to_the_ece() -> None:
    (logits,), labels = answers(1500, 6)
    bins = drawn({"a": [logits]}, labels)["models"]["a"]["reliability"]
    confidence, right = softmax(logits, axis=1).max(axis=1), logits.argmax(axis=1) == labels
    true, predicted = calibration_curve(right, confidence, n_bins=15, strategy="quantile")
    assert [item["n"] for item in bins] == [100] * 15
    np.testing.assert_allclose([item["accuracy"]["value"] for item in bins], true)
    np.testing.assert_allclose([item["confidence"] for item in bins], predicted)
    gap = sum(item["n"] * abs(item["confidence"] - item["accuracy"]["value"]) for item in bins) / labels.size
    assert gap == pytest.approx(metrics.ece(logits, labels))
    for item, share in zip(bins, true, strict=True):
        wilson = binomtest(round(share * 100), 100).proportion_ci(method="wilson")
        assert (item["accuracy"]["ci_low"], item["accuracy"]["ci_high"]) == pytest.approx((wilson.low, wilson.high))


def test_seeds_are_pooled_but_count_as_one_test_part() -> None:
    (logits,), labels = answers(450, 4)
    one = drawn({"a": [logits]}, labels)["models"]["a"]
    same = drawn({"a": [logits] * 3}, labels)["models"]["a"]
    for single, pooled in zip(one["reliability"], same["reliability"], strict=True):
        assert pooled["n"] == 3 * single["n"]
        assert pooled["confidence"] == pytest.approx(single["confidence"])
        for end in ("value", "ci_low", "ci_high", "n"):
            assert pooled["accuracy"][end] == pytest.approx(single["accuracy"][end])
    assert same["reliability"][0]["accuracy"]["seeds"] == 3
    assert {key: same[key] for key in ("confidence", "risk_coverage", "roc")} == {
        key: one[key] for key in ("confidence", "risk_coverage", "roc")
    }


def test_equal_confidences_share_their_accuracy_whatever_their_order() -> None:
    labels = np.array([0] * 30 + [1] * 30)
    logits = np.tile([2.0, 0.0], (60, 1))
    shuffled = np.random.default_rng(1).permutation(60)
    for order in (np.arange(60), shuffled):
        bins = drawn({"a": [logits[order]]}, labels[order])["models"]["a"]["reliability"]
        assert [item["accuracy"]["value"] for item in bins] == pytest.approx([0.5] * 15)


def test_equal_mass_bins_of_few_rows_hold_one_row_each() -> None:
    parts, shared = equal_mass(np.array([3.0, 1.0, 2.0]), np.array([[1.0, 0.0], [0.0, 0.5], [1.0, 1.0]]), 15)
    assert [part.tolist() for part in parts] == [[1], [2], [0]]
    np.testing.assert_array_equal(shared, [[1.0, 0.0], [0.0, 0.5], [1.0, 1.0]])


def test_the_spread_of_confidences_counts_every_answer_once() -> None:
    logits, labels = answers(700, 5, seeds=2)
    found = drawn({"a": logits}, labels)["models"]["a"]["confidence"]
    right, wrong = [0] * HISTOGRAM_BINS, [0] * HISTOGRAM_BINS
    for one in logits:
        for row, label in zip(softmax(one, axis=1), labels, strict=True):
            side = right if row.argmax() == label else wrong
            side[min(int(row.max() * HISTOGRAM_BINS), HISTOGRAM_BINS - 1)] += 1
    np.testing.assert_allclose(found["right"], np.array(right) / 1400, atol=1e-6)
    np.testing.assert_allclose(found["wrong"], np.array(wrong) / 1400, atol=1e-6)
    assert found["edges"][0] == 0
    assert found["edges"][-1] == 1


@pytest.mark.parametrize(("n", "seeds"), [(40, 1), (100, 2), (2000, 3)])
def test_risk_and_coverage_are_those_of_a_loop_and_their_mean_is_the_aurc(n: int, seeds: int) -> None:
    logits, labels = answers(n, 5, seeds)
    curve = drawn({"a": logits}, labels)["models"]["a"]["risk_coverage"]
    assert len(curve["coverage"]) <= MOST_POINTS
    for coverage, risk in zip(curve["coverage"], curve["risk"], strict=True):
        kept, shares = round(coverage * n), []
        for one in logits:
            surest = np.argsort(-softmax(one, axis=1).max(axis=1), kind="stable")[:kept]
            shares.append(np.mean(one[surest].argmax(axis=1) != labels[surest]))
        assert risk == pytest.approx(np.mean(shares), abs=1e-6)
    area = float(np.mean([calibration.aurc(one, labels) for one in logits]))
    if n <= MOST_POINTS:
        assert np.mean(curve["risk"]) == pytest.approx(area, abs=1e-6)
    assert auc(curve["coverage"], curve["risk"]) == pytest.approx(area, rel=0.05)
    assert curve["coverage"][-1] == 1
    assert curve["risk"][-1] == pytest.approx(1 - np.mean([metrics.accuracy(one, labels) for one in logits]), abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_roc_is_the_mean_of_scikit_learns_curves_and_holds_their_area(classes: int) -> None:
    logits, labels = answers(1200, classes, seeds=2)
    curve = drawn({"a": logits}, labels)["models"]["a"]["roc"]
    false, true = np.array(curve["false_positive"]), np.array(curve["true_positive"])
    assert false.size <= MOST_POINTS
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert (np.diff(false) >= 0).all()
    assert (np.diff(true) >= 0).all()
    rates, areas = [], []
    for one in logits:
        for label in range(classes):
            p = softmax(one, axis=1)[:, label]
            x, y, _ = sklearn_roc(labels == label, p, drop_intermediate=False)
            areas.append(roc_auc_score(labels == label, p))
            # The highest point at or left of each rate, joined by straight lines.
            last = np.append(np.flatnonzero(np.diff(x)), x.size - 1)
            for number, rate in enumerate(false[1:], start=1):
                right = last[np.searchsorted(x[last], rate, side="right") - 1]
                step = min(right + 1, x.size - 1)
                slope = (y[step] - y[right]) / (x[step] - x[right]) if x[step] > x[right] else 0.0
                rates.append((number, y[right] + slope * (rate - x[right])))
    for number in range(1, false.size):
        mean = np.mean([value for at, value in rates if at == number])
        assert true[number] == pytest.approx(mean, abs=2e-3)  # grids are rounded to six digits
    assert auc(false, true) == pytest.approx(np.mean(areas), abs=2e-3)


def test_what_cannot_be_drawn_is_null() -> None:
    (wide,), labels = answers(303, 101)
    assert drawn({"a": [wide]}, labels)["models"]["a"]["roc"] is None
    (logits,), labels = answers(50, 3)
    assert drawn({"a": [logits]}, np.zeros_like(labels))["models"]["a"]["roc"] is None
    some = drawn({"a": [logits]}, np.minimum(labels, 1))["models"]["a"]["roc"]  # class 2 has no example
    assert some is not None


def test_points_are_json_and_the_same_every_time() -> None:
    logits, labels = answers(500, 4, seeds=2)
    first = json.dumps(drawn({"teacher": logits[:1], "a": logits}, labels), allow_nan=False)
    assert json.dumps(drawn({"teacher": logits[:1], "a": logits}, labels)) == first
    assert set(json.loads(first)["models"]) == {"teacher", "a"}


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"a": []}, "answers of `a` do not fit"),
        ({"a": [np.zeros((3, 2))]}, "answers of `a` do not fit"),
        ({"a": [np.zeros((4, 2)), np.zeros((4, 3))]}, "answers of `a` do not fit"),
        ({"a": [np.zeros((4, 2))], "b": [np.zeros((4, 3))]}, "different numbers of classes"),
        ({}, "different numbers of classes"),
    ],
    ids=["no answers", "too few rows", "seeds differ", "models differ", "no models"],
)
def test_answers_that_do_not_fit_are_refused(models: dict[str, list[np.ndarray]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        drawn(models, np.array([0, 1, 0, 1]))
