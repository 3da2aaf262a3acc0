"""Metrics against scikit-learn and against the plainest loops."""

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from tutelage.errors import InputError
from tutelage.evaluation import metrics


def answers(seed: int = 0, n: int = 400, classes: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Student logits, teacher logits and labels of a problem that both solve in part."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, size=n)
    signal = 2.0 * np.eye(classes)[labels]
    student, teacher = (signal * weight + generator.normal(size=(n, classes)) for weight in (0.7, 1.0))
    return student, teacher, labels.astype(np.int64)


def test_metrics_equal_scikit_learn() -> None:
    student, teacher, labels = answers()
    found = metrics.measure(student, labels, teacher)
    said = student.argmax(axis=1)
    probability = np.exp(student) / np.exp(student).sum(axis=1, keepdims=True)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, said))
    assert found["macro_recall"] == pytest.approx(reference.balanced_accuracy_score(labels, said))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(labels, said, average="macro"))
    assert found["nll"] == pytest.approx(reference.log_loss(labels, probability, labels=range(5)))
    assert found["agreement"] == pytest.approx(reference.accuracy_score(teacher.argmax(axis=1), said))
    counts = metrics.confusion(student, labels)
    assert np.array_equal(counts, reference.confusion_matrix(labels, said, labels=range(5)))
    for ours, theirs in (
        (metrics.recalls, reference.recall_score),
        (metrics.precisions, reference.precision_score),
        (metrics.f1s, reference.f1_score),
    ):
        assert ours(counts) == pytest.approx(theirs(labels, said, average=None, labels=range(5)))
    assert found["macro_precision"] == pytest.approx(reference.precision_score(labels, said, average="macro"))
    # The mean over classes of the squared error is sklearn's; Brier's score is the sum over classes.
    assert found["brier"] == pytest.approx(5 * reference.mean_squared_error(np.eye(5)[labels], probability))


def test_a_class_that_is_never_named_has_precision_and_f1_zero() -> None:
    labels = np.array([0, 0, 1, 2, 2])
    counts = metrics.confusion(np.eye(4)[[0, 0, 3, 2, 0]], labels)
    assert metrics.precisions(counts) == pytest.approx([2 / 3, 0.0, 1.0, math.nan], nan_ok=True)
    assert metrics.f1s(counts) == pytest.approx([4 / 5, 0.0, 2 / 3, math.nan], nan_ok=True)
    said = [0, 0, 3, 2, 0]
    for ours, theirs in (
        (metrics.macro_precision, reference.precision_score),
        (metrics.macro_recall, reference.recall_score),
        (metrics.macro_f1, reference.f1_score),
    ):
        expected = theirs(labels, said, average="macro", labels=[0, 1, 2], zero_division=0)
        assert ours(counts) == pytest.approx(expected)


def test_the_brier_score_of_two_classes_is_twice_the_binary_one_and_ends_at_two() -> None:
    student, _, labels = answers(seed=2, classes=2)
    chance = 1 / (1 + np.exp(student[:, 0] - student[:, 1]))
    assert metrics.brier(student, labels) == pytest.approx(2 * reference.brier_score_loss(labels, chance))
    sure = np.array([[900.0, 0.0, 0.0]])
    assert metrics.brier(sure, np.array([0])) == 0.0
    assert metrics.brier(sure, np.array([1])) == 2.0
    assert metrics.brier(np.zeros((1, 4)), np.array([2])) == pytest.approx(0.75**2 + 3 * 0.25**2)


def test_the_odds_of_the_top_class_are_those_of_its_probability() -> None:
    student, _, _ = answers(seed=4)
    p = np.exp(metrics.log_probabilities(student)).max(axis=1)
    assert metrics.top_log_odds(student) == pytest.approx(np.log(p / (1 - p)))
    assert metrics.top_log_odds(np.array([[90.0, 10.0]])) == pytest.approx([80.0])  # where p itself is 1
    assert metrics.top_log_odds(np.array([[3.0]])).tolist() == [math.inf]


def test_a_class_without_test_examples_does_not_lower_the_means() -> None:
    student, _, labels = answers(classes=4)
    wider = np.concatenate([student, np.full((labels.size, 1), -50.0)], axis=1)
    narrow, wide = metrics.confusion(student, labels), metrics.confusion(wider, labels)
    assert metrics.macro_recall(wide) == metrics.macro_recall(narrow)
    assert metrics.macro_f1(wide) == metrics.macro_f1(narrow)
    assert math.isnan(metrics.recalls(wide)[4])


def test_ece_equals_the_plain_loop_over_equal_mass_bins() -> None:
    student, _, labels = answers(seed=3, n=450)
    probability = np.exp(metrics.log_probabilities(student))
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == labels
    order, total = np.argsort(confidence), 0.0
    for start in range(0, 450, 30):  # 15 bins of 30
        part = order[start : start + 30]
        total += 30 / 450 * abs(confidence[part].mean() - right[part].mean())
    assert metrics.ece(student, labels) == pytest.approx(total)


def test_ece_of_a_model_that_knows_its_own_chance_is_small_and_of_a_braggart_large() -> None:
    generator = np.random.default_rng(1)
    chance = generator.uniform(0.5, 1.0, size=60_000)
    labels = (generator.uniform(size=chance.size) > chance).astype(np.int64)
    logits = np.stack([np.log(chance), np.log1p(-chance)], axis=1)
    assert metrics.ece(logits, labels) < 0.01
    assert metrics.ece(20 * logits, labels) > 0.2


def test_ece_does_not_depend_on_the_order_of_equally_confident_examples() -> None:
    logits = np.tile([[3.0, 0.0]], (40, 1))
    labels = np.array([0] * 25 + [1] * 15)
    shuffled = np.random.default_rng(0).permutation(labels)
    assert metrics.ece(logits, labels) == pytest.approx(metrics.ece(logits, shuffled), abs=1e-12)
    assert metrics.ece(logits, labels) == pytest.approx(abs(1 / (1 + math.exp(-3)) - 25 / 40))


def test_fidelity_counts_repeated_errors_and_divergence() -> None:
    labels = np.array([0, 0, 0, 0])
    teacher = np.array([[2.0, 0, 0], [0, 2.0, 0], [0, 2.0, 0], [0, 0, 2.0]])
    student = np.array([[2.0, 0, 0], [0, 2.0, 0], [2.0, 0, 0], [0, 2.0, 0]])
    found = metrics.measure(student, labels, teacher)
    assert found["copied_errors"] == pytest.approx(1 / 3)
    assert found["agreement"] == 0.5
    p = np.exp(metrics.log_probabilities(teacher))
    q = np.exp(metrics.log_probabilities(student))
    assert found["divergence"] == pytest.approx(float((p * np.log(p / q)).sum(axis=1).mean()))
    assert metrics.measure(teacher, labels, teacher)["divergence"] == 0.0


def test_a_teacher_without_errors_has_none_to_repeat() -> None:
    perfect = np.eye(3) * 9
    assert "copied_errors" not in metrics.measure(perfect, np.arange(3), perfect)


def test_extreme_and_impossible_logits_stay_finite() -> None:
    logits = np.array([[1e4, -1e4], [-np.inf, 0.0], [0.0, -np.inf]])
    found = metrics.measure(logits, np.array([0, 0, 0]), logits)
    assert all(math.isfinite(value) for value in found.values())
    assert found["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        ([[0.0, float("nan")]], [0], "1 NaN"),
        ([[-np.inf, -np.inf]], [0], "cannot be judged"),
        ([0.0, 1.0], [0], "wrong shape"),
        ([[0.0, 1.0]], [2], "not a class number"),
        ([[0.0, 1.0]], [0.5], "class numbers"),
        ([[0.0, 1.0], [1.0, 0.0]], [0], "wrong shape"),
    ],
)
def test_what_cannot_be_judged_is_refused(logits: list[list[float]], labels: list[float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        metrics.measure(logits, labels, logits)


def test_answers_of_different_width_are_refused() -> None:
    with pytest.raises(InputError, match="different questions"):
        metrics.measure(np.zeros((3, 2)), np.zeros(3, dtype=int), np.zeros((3, 4)))
