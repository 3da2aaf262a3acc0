"""Top-k, ROC and AUC against scikit-learn, with ties, missing classes, two classes and one example."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from tutelage.errors import InputError
from tutelage.evaluation import metrics, ranking


def answers(seed: int, n: int = 300, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right now and then, and labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, size=n)
    return 1.5 * np.eye(classes)[labels] + generator.normal(size=(n, classes)), labels.astype(np.int64)


def tied(seed: int, n: int = 300, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """The same with logits of a few values, so that most scores meet an equal one."""
    logits, labels = answers(seed, n, classes)
    return logits.round(), labels


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("k", [1, 2, 5, 11, 12, 40])
@pytest.mark.parametrize("make", [answers, tied])
def test_top_k_equals_scikit_learn(make: object, k: int) -> None:
    logits, labels = make(k, classes=12)  # type: ignore[operator]
    # scikit-learn lets the last of equal scores win, so it is shown the classes from behind.
    expected = reference.top_k_accuracy_score(11 - labels, logits[:, ::-1], k=k, labels=range(12)) if k < 12 else 1.0
    assert ranking.top_k_accuracy(logits, labels, k) == pytest.approx(expected)


def test_top_k_grows_with_k_and_begins_with_the_accuracy() -> None:
    logits, labels = tied(1, classes=10)
    found = [ranking.top_k_accuracy(logits, labels, k) for k in range(1, 11)]
    assert found[0] == metrics.accuracy(logits, labels)
    assert found == sorted(found)
    assert found[-1] == 1.0


def test_of_equal_logits_the_first_class_counts_as_larger() -> None:
    flat = np.zeros((10, 10))
    assert ranking.top_k_accuracy(flat, np.arange(10), 5) == 0.5
    assert ranking.top_k_accuracy(flat[:1], np.array([4]), 5) == 1.0
    assert ranking.top_k_accuracy(flat[:1], np.array([5]), 5) == 0.0
    with pytest.raises(InputError, match="k of at least 1"):
        ranking.top_k_accuracy(flat, np.arange(10), 0)


@pytest.mark.parametrize("digits", [0, 1, 12])
def test_roc_and_auc_equal_scikit_learn(digits: int) -> None:
    generator = np.random.default_rng(digits)
    positive = generator.uniform(size=200) < 0.3
    scores = (generator.normal(size=200) + positive).round(digits)
    misses, hits, thresholds = ranking.roc_curve(scores, positive)
    expected = reference.roc_curve(positive, scores, drop_intermediate=False)
    for ours, theirs in zip((misses, hits, thresholds), expected, strict=True):
        assert ours == pytest.approx(theirs)
    area = ranking.auc(scores, positive)
    assert area == pytest.approx(reference.roc_auc_score(positive, scores))
    assert area == pytest.approx(reference.auc(misses, hits))  # the two definitions agree, ties and all


def test_auc_is_the_share_of_pairs_in_order_and_knows_its_extremes() -> None:
    scores, positive = np.array([3.0, 1.0, 2.0, 2.0]), np.array([True, False, True, False])
    assert ranking.auc(scores, positive) == (1 + 1 + 1 + 0.5) / 4
    assert ranking.auc(-scores, positive) == pytest.approx(1 - 3.5 / 4)
    assert ranking.auc(np.exp(scores), positive) == 3.5 / 4  # only the order counts
    assert ranking.auc(positive.astype(float), positive) == 1.0
    assert ranking.auc(np.zeros(4), positive) == 0.5


@pytest.mark.parametrize("side", [True, False])
def test_one_side_alone_has_no_area_and_no_curve(side: bool) -> None:
    assert ranking.auc([1.0, 2.0], [side, side]) is None
    assert ranking.auc([1.0], [side]) is None
    with pytest.raises(InputError, match="both sides"):
        ranking.roc_curve([1.0, 2.0], [side, side])


@pytest.mark.parametrize(
    ("scores", "positive"),
    [([1.0], [True, False]), ([float("nan"), 1.0], [True, False]), ([[1.0, 2.0]], [[True, False]])],
    ids=["lengths", "nan", "dimensions"],
)
def test_scores_that_cannot_be_ranked_are_refused(scores: list[float], positive: list[bool]) -> None:
    for call in (ranking.auc, ranking.roc_curve):
        with pytest.raises(InputError, match="one score that is a number"):
            call(scores, positive)


@pytest.mark.parametrize("seed", range(3))
def test_macro_auc_equals_scikit_learn_one_against_the_rest(seed: int) -> None:
    logits, labels = answers(seed)
    areas = ranking.auc_by_class(logits, labels)
    probability = softmax(logits)
    expected = reference.roc_auc_score(labels, probability, multi_class="ovr", average=None)
    assert areas == pytest.approx(expected)
    assert ranking.macro_auc(areas) == pytest.approx(expected.mean())


def test_equal_rows_are_ties_of_every_class() -> None:
    logits, labels = answers(7, n=40)
    logits, labels = np.tile(logits, (3, 1)), np.random.default_rng(0).permutation(np.tile(labels, 3))
    expected = reference.roc_auc_score(labels, softmax(logits), multi_class="ovr", average=None)
    assert ranking.auc_by_class(logits, labels) == pytest.approx(expected)


def test_a_missing_class_has_no_auc_and_leaves_the_mean_alone() -> None:
    logits, labels = answers(2, classes=4)
    wider = np.concatenate([logits, np.full((labels.size, 1), -60.0)], axis=1)
    areas = ranking.auc_by_class(wider, labels)
    assert math.isnan(areas[4])
    assert ranking.macro_auc(areas) == pytest.approx(np.mean(ranking.auc_by_class(logits, labels)))


@pytest.mark.parametrize("make", [answers, tied])
def test_two_classes_share_the_binary_auc(make: object) -> None:
    logits, labels = make(3, classes=2)  # type: ignore[operator]
    areas = ranking.auc_by_class(logits, labels)
    assert areas[0] == areas[1]
    assert ranking.macro_auc(areas) == pytest.approx(reference.roc_auc_score(labels, logits[:, 1] - logits[:, 0]))


def test_one_example_and_one_class_have_no_auc_but_the_other_measures() -> None:
    areas = ranking.auc_by_class(np.arange(10.0)[None], np.array([9]))
    assert ranking.macro_auc(areas) is None
    assert ranking.measure(np.arange(10.0)[None], np.array([9]), areas) == {"top5_accuracy": 1.0}
    single = np.ones((4, 1))
    assert ranking.measure(single, np.zeros(4, dtype=np.int64), ranking.auc_by_class(single, np.zeros(4))) == {}


@pytest.mark.parametrize("classes", [2, 3])
def test_odds_tell_apart_what_rounds_to_certainty(classes: int) -> None:
    logits = np.zeros((4, classes))
    logits[:, 1] = [50.0, 60.0, 70.0, 80.0]  # all of them 1.0 as a probability
    labels = np.array([0, 0, 1, 1])
    assert len(np.unique(softmax(logits)[:, 1])) == 1
    assert ranking.auc_by_class(logits, labels)[1] == 1.0
    small = np.array([[0.3, -1.0, 0.2]])
    p = softmax(small)
    assert ranking.log_odds(small) == pytest.approx(np.log(p / (1 - p)))


def test_top_five_is_measured_from_ten_classes_on() -> None:
    for classes, measured in ((9, False), (10, True)):
        logits, labels = answers(4, classes=classes)
        found = ranking.measure(logits, labels, ranking.auc_by_class(logits, labels))
        assert ("top5_accuracy" in found) is measured
        assert set(found) <= set(ranking.METHODS)


def test_the_marks_of_classes_are_means_over_seeds_and_null_where_not_defined() -> None:
    logits, labels = answers(5, classes=3)
    wider = np.concatenate([logits, np.full((labels.size, 1), -60.0)], axis=1)
    one, other = ranking.class_marks(wider, labels), ranking.class_marks(np.roll(wider, 1, axis=0), labels)
    rows = ranking.with_marks([{"class": str(i)} for i in range(4)], {"a": [one, other], "b": [one]})
    assert rows[3] == {"class": "3"} | {mark: {"a": None, "b": None} for mark in ("precision", "f1", "auc")}
    assert rows[1]["f1"]["a"] == pytest.approx((one["f1"][1] + other["f1"][1]) / 2)
    assert rows[1]["auc"]["b"] == one["auc"][1]
    said = wider.argmax(axis=1)
    assert one["precision"][:3] == pytest.approx(reference.precision_score(labels, said, average=None))
