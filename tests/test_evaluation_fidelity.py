"""Agreement with the teacher against plain loops, scipy and scikit-learn; intervals against slow bootstraps."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest, bootstrap, entropy, ttest_rel
from sklearn.metrics import accuracy_score

from tutelage.errors import InputError
from tutelage.evaluation import metrics
from tutelage.evaluation.fidelity import METHODS, direction, fidelity, largest, paired_shares
from tutelage.evaluation.significance import Estimate, paired_bootstrap

N, C = 900, 12


def models(seeds: int = 3, n: int = N, classes: int = C) -> tuple[dict[str, list[np.ndarray]], np.ndarray]:
    """A teacher, students that saw its mistakes, and students that did not."""
    generator = np.random.default_rng(5)
    labels = generator.integers(0, classes, n)
    base = 4 * generator.random((n, 1)) * np.eye(classes)[labels] + generator.normal(size=(n, classes))
    own = generator.normal(size=(n, classes))

    def several(like: float) -> list[np.ndarray]:
        return [base + like * own + 0.7 * generator.normal(size=(n, classes)) for _ in range(seeds)]

    return {"teacher": [base + own], "scratch": several(0.0), "taught": several(0.6), "other": several(0.2)}, labels


LOGITS, LABELS = models()
AGAINST = {"taught": "scratch", "other": "scratch"}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return fidelity(LOGITS, LABELS, against=AGAINST, train=({k: LOGITS[k] for k in list(LOGITS)[:3]}, LABELS))


def test_arms_parts_and_methods_are_named(found: dict[str, Any]) -> None:
    assert [(arm["name"], arm["against"]) for arm in found["arms"]] == list(AGAINST.items())
    assert found["methods"] == METHODS
    assert set(METHODS) - {"agreement_by_confidence"} <= set(found["arms"][0]["test"])
    assert found["arms"][1]["train"] is None  # its answers were not among those of the training part
    json.dumps(found, allow_nan=False)


def test_shares_are_those_of_a_loop(found: dict[str, Any]) -> None:
    said, test = LOGITS["teacher"][0].argmax(axis=1), found["arms"][0]["test"]
    for side, name in (("arm", "taught"), ("baseline", "scratch")):
        every, right, copied = [], [], []
        for one in LOGITS[name]:
            students = one.argmax(axis=1)
            every.append(accuracy_score(said, students))
            pairs = list(zip(said.tolist(), students.tolist(), LABELS.tolist(), strict=True))
            right.append(np.mean([s == t for t, s, label in pairs if t == label]))
            copied.append(np.mean([s == t for t, s, label in pairs if t != label]))
        for key, shares in (("agreement", every), ("agreement_right", right), ("copied_errors", copied)):
            assert test[key][side]["value"] == pytest.approx(np.mean(shares)), key
    assert test["teacher_errors"] == test["copied_errors"]["arm"]["n"] == int((said != LABELS).sum())
    own = [metrics.copied_errors(one, LOGITS["teacher"][0], LABELS) for one in LOGITS["taught"]]
    assert test["copied_errors"]["arm"]["value"] == pytest.approx(np.mean(own))


@pytest.mark.parametrize("key", ["agreement", "agreement_right", "copied_errors"])
def test_the_lift_over_seeds_is_a_paired_t_interval(found: dict[str, Any], key: str) -> None:
    said = LOGITS["teacher"][0].argmax(axis=1)
    rows = {"agreement": said >= 0, "agreement_right": said == LABELS, "copied_errors": said != LABELS}[key]
    a, b = ([np.mean((one.argmax(axis=1) == said)[rows]) for one in LOGITS[name]] for name in ("taught", "scratch"))
    test = ttest_rel(a, b)
    low, high = test.confidence_interval(0.95)
    share = found["arms"][0]["test"][key]
    assert share["basis"] == "seeds"
    assert share["difference"] == share["by_seed"]
    assert share["by_seed"]["value"] == pytest.approx(np.mean(a) - np.mean(b))
    assert (share["by_seed"]["ci_low"], share["by_seed"]["ci_high"]) == pytest.approx((low, high))
    assert share["direction"] == ("above" if low > 0 else "below" if high < 0 else "none")


def test_distances_are_those_of_scipy_and_of_sets(found: dict[str, Any]) -> None:
    p, test = softmax(LOGITS["teacher"][0], axis=1), found["arms"][0]["test"]
    divergence, variation, overlap = [], [], []
    for one in LOGITS["taught"]:
        q = softmax(one, axis=1)
        divergence.append(entropy(p, q, axis=1).mean())
        variation.append(np.mean([max(abs((a - b)[a > b].sum()), 0.0) for a, b in zip(p, q, strict=True)]))
        shared = [len(set(np.argsort(-a)[:5]) & set(np.argsort(-b)[:5])) for a, b in zip(p, q, strict=True)]
        overlap.append(np.mean(shared) / 5)
    for key, values in (("divergence", divergence), ("variation", variation), ("top5_overlap", overlap)):
        assert test[key]["arm"]["value"] == pytest.approx(np.mean(values)), key
        gap = test[key]["arm"]["value"] - test[key]["baseline"]["value"]
        assert test[key]["difference"]["value"] == pytest.approx(gap)


def test_of_equal_logits_the_first_class_is_larger() -> None:
    generator = np.random.default_rng(0)
    logits = generator.integers(0, 4, size=(300, 11)).astype(np.float64)
    rank = np.argsort(np.argsort(-logits, axis=1, kind="stable"), axis=1, kind="stable")
    np.testing.assert_array_equal(largest(logits, 5), rank < 5)
    assert (largest(np.zeros((2, 7))) == ([True] * 5 + [False] * 2)).all()


def test_agreement_by_confidence_is_that_of_sorted_rows(found: dict[str, Any]) -> None:
    teacher = LOGITS["teacher"][0]
    order = np.argsort(softmax(teacher, axis=1).max(axis=1), kind="stable")
    bins = found["arms"][0]["test"]["by_confidence"]
    assert len(bins) == 10
    for number, item in enumerate(bins):
        rows = order[90 * number : 90 * (number + 1)]
        shares = [np.mean(one[rows].argmax(axis=1) == teacher[rows].argmax(axis=1)) for one in LOGITS["taught"]]
        assert item["n"] == 90
        assert item["arm"]["value"] == pytest.approx(np.mean(shares))
        assert item["arm"]["n"] == 90  # seeds answered the same examples
        assert item["teacher_accuracy"] == pytest.approx(np.mean(teacher[rows].argmax(axis=1) == LABELS[rows]))
        assert item["confidence"] == pytest.approx(softmax(teacher[rows], axis=1).max(axis=1).mean())
    assert [item["low"] for item in bins] == sorted(item["low"] for item in bins)


def test_a_teacher_of_one_confidence_gives_level_agreement() -> None:
    labels = np.arange(40) % 4
    teacher = 3.0 * np.eye(4)[labels]
    student = teacher.copy()
    student[:20] = np.roll(student[:20], 1, axis=1)  # half of the answers differ
    found = fidelity({"teacher": [teacher], "a": [student], "b": [teacher]}, labels, against={"a": "b"}, resamples=200)
    assert [item["arm"]["value"] for item in found["arms"][0]["test"]["by_confidence"]] == pytest.approx([0.5] * 10)


def test_a_single_run_has_wilson_and_the_bootstrap_and_says_so() -> None:
    single = {name: several[:1] for name, several in LOGITS.items()}
    test = fidelity(single, LABELS, against=AGAINST, resamples=2000)["arms"][0]["test"]
    share = test["copied_errors"]
    assert (share["basis"], share["by_seed"]) == ("examples", None)
    assert share["difference"] == share["by_example"]
    n = test["teacher_errors"]
    wilson = binomtest(round(share["arm"]["value"] * n), n).proportion_ci(method="wilson")
    assert (share["arm"]["ci_low"], share["arm"]["ci_high"]) == pytest.approx((wilson.low, wilson.high))
    assert test["divergence"]["arm"]["ci_low"] is None
    train = fidelity(single, LABELS, against=AGAINST, train=(single, LABELS), resamples=2000)["arms"][0]["train"]
    assert train["copied_errors"]["arm"]["method"] == "Wilson over training examples"
    assert "over training examples" in train["agreement"]["by_example"]["method"]
    assert train["agreement"]["difference"]["value"] == test["agreement"]["difference"]["value"]


def agreements(seeds: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where two arms agree with a teacher on 240 examples of five classes, and where the teacher is wrong."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 5, 240)
    wrong = generator.random(240) < 0.05 + 0.1 * labels
    chance = np.where(wrong, 0.5, 0.9)
    return (
        generator.random((seeds, 240)) < chance,
        generator.random((seeds, 240)) < chance - 0.1,
        labels,
        wrong,
    )


def slow(ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray, wrong: np.ndarray, draws: int) -> np.ndarray:
    """Rows drawn with replacement within each class, one resample after the other: (draws, 3)."""
    generator = np.random.default_rng(17)
    difference = ours.mean(axis=0) - theirs.mean(axis=0)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    found = []
    for _ in range(draws):
        rows = np.concatenate([generator.choice(own, own.size) for own in members])
        d, w = difference[rows], wrong[rows]
        found.append((d.mean(), d[~w].mean(), d[w].mean()))
    return np.array(found)


def test_the_bootstrap_is_that_of_drawn_rows() -> None:
    ours, theirs, labels, wrong = agreements()
    fast = paired_shares(ours, theirs, labels, wrong, resamples=20_000)
    draws = slow(ours, theirs, labels, wrong, 4000)
    difference = ours.mean(axis=0) - theirs.mean(axis=0)
    exact = (difference.mean(), difference[~wrong].mean(), difference[wrong].mean())
    for kind, column, value in zip(("agreement", "agreement_right", "copied_errors"), draws.T, exact, strict=True):
        estimate = fast[kind]
        low, high = np.quantile(column, [0.025, 0.975])
        assert estimate.value == pytest.approx(value)
        assert estimate.ci_low is not None
        assert estimate.ci_high is not None
        # A quantile of 4,000 draws is known to about a twentieth of their spread.
        assert estimate.ci_low == pytest.approx(low, abs=0.15 * column.std())
        assert estimate.ci_high == pytest.approx(high, abs=0.15 * column.std())


def test_agreement_has_the_law_of_the_paired_bootstrap_of_accuracies() -> None:
    ours, theirs, labels, wrong = agreements()
    mine = paired_shares(ours, theirs, labels, wrong, resamples=20_000)["agreement"]
    other = paired_bootstrap(ours, theirs, labels, resamples=20_000)
    assert mine.value == pytest.approx(other.value)
    assert (mine.ci_low, mine.ci_high) == pytest.approx((other.ci_low, other.ci_high), abs=3e-3)


def test_within_one_class_the_bootstrap_is_that_of_scipy() -> None:
    ours, theirs, labels, wrong = agreements(seeds=1)
    labels = np.zeros_like(labels)
    difference = ours[0].astype(float) - theirs[0]
    mine = paired_shares(ours, theirs, labels, wrong, resamples=20_000)["copied_errors"]

    def copied(d: np.ndarray, w: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray((d * w).sum(axis=axis) / w.sum(axis=axis))

    ci = bootstrap(
        (difference, wrong.astype(float)), copied, paired=True, method="percentile", n_resamples=9999, rng=1
    ).confidence_interval
    assert (mine.ci_low, mine.ci_high) == pytest.approx((ci.low, ci.high), abs=0.015)


def test_few_errors_of_the_teacher_give_a_value_but_no_interval() -> None:
    ours, theirs, labels, _ = agreements(seeds=1)
    few = np.zeros(240, dtype=bool)
    few[:9] = True
    estimate = paired_shares(ours, theirs, labels, few, resamples=200)["copied_errors"]
    assert (estimate.ci_low, estimate.ci_high, estimate.n) == (None, None, 9)
    assert estimate.value == pytest.approx(float(ours[0, :9].mean() - theirs[0, :9].mean()))
    assert direction(estimate) == "none"
    assert "copied_errors" not in paired_shares(ours, theirs, labels, np.zeros(240, dtype=bool), resamples=200)


def test_many_classes_take_fewer_resamples_and_say_so() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3000), 2)
    ours, theirs = generator.random((2, 3, labels.size)) < 0.5
    estimate = paired_shares(ours, theirs, labels, np.zeros(labels.size, dtype=bool), resamples=10_000)["agreement"]
    taken = int(estimate.method.split()[-2])
    assert 1000 <= taken < 10_000


def test_a_perfect_teacher_has_no_errors_to_copy() -> None:
    labels = np.arange(60) % 3
    teacher = 5.0 * np.eye(3)[labels]
    found = fidelity({"teacher": [teacher], "a": [teacher], "b": [teacher]}, labels, against={"a": "b"}, resamples=200)
    test = found["arms"][0]["test"]
    assert (test["copied_errors"], test["top5_overlap"], test["teacher_errors"]) == (None, None, 0)
    assert test["agreement"]["arm"]["value"] == 1
    assert test["agreement"]["direction"] == "none"
    assert test["divergence"]["arm"]["value"] == pytest.approx(0)


def test_seeds_pair_by_their_numbers() -> None:
    plain = fidelity(LOGITS, LABELS, against={"taught": "scratch"}, resamples=200)["arms"][0]["test"]
    turned = {**LOGITS, "taught": LOGITS["taught"][::-1]}
    seeds = {"taught": [7, 4, 1], "scratch": [1, 4, 7]}
    same = fidelity(turned, LABELS, against={"taught": "scratch"}, resamples=200, seeds=seeds)["arms"][0]["test"]
    assert same["agreement"]["by_seed"] == plain["agreement"]["by_seed"]
    assert same["divergence"]["difference"] == plain["divergence"]["difference"]
    wrongly = fidelity(turned, LABELS, against={"taught": "scratch"}, resamples=200)["arms"][0]["test"]
    assert wrongly["agreement"]["by_seed"]["ci_low"] != plain["agreement"]["by_seed"]["ci_low"]
    some = {"taught": [7, 4, 1], "scratch": [1, 8, 9]}
    single = fidelity(turned, LABELS, against={"taught": "scratch"}, resamples=200, seeds=some)["arms"][0]["test"]
    assert single["agreement"]["basis"] == "examples"
    assert single["agreement"]["arm"]["seeds"] == 3  # an arm's own share still stands on all its seeds


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.1, 0.2, "above"), (-0.2, -0.1, "below"), (-0.1, 0.2, "none"), (None, None, "none")]
)
def test_direction_claims_no_more_than_the_interval(low: float | None, high: float | None, word: str) -> None:
    assert direction(Estimate(0.0, low, high, 10, 1, "")) == word


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": None}, "no answers of `teacher`"),
        ({"taught": None}, "no answers of `taught`"),
        ({"teacher": LOGITS["scratch"]}, "against one teacher"),
        ({"taught": [one[:, :5] for one in LOGITS["taught"]]}, "answers of `taught` do not fit the teacher's"),
        ({"scratch": [one[:7] for one in LOGITS["scratch"]]}, "answers of `scratch` do not fit the labels"),
        ({"scratch": []}, "answers of `scratch` do not fit the labels"),
    ],
    ids=["no teacher", "no arm", "two teachers", "other classes", "other rows", "no seeds"],
)
def test_answers_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    given = {name: several for name, several in {**LOGITS, **change}.items() if several is not None}
    with pytest.raises(InputError, match=message):
        fidelity(given, LABELS, against={"taught": "scratch"}, resamples=200)


def test_arms_without_a_common_seed_are_refused() -> None:
    with pytest.raises(InputError, match="share no seed"):
        fidelity(LOGITS, LABELS, against={"taught": "scratch"}, seeds={"taught": [1, 2, 3], "scratch": [4, 5, 6]})
