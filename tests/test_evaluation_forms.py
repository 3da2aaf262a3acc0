"""Metrics of other forms of the task against scikit-learn and scipy, with ties, gaps and edges, and their intervals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from tutelage.errors import InputError
from tutelage.evaluation import multilabel, ranking, regression, resampling, retrieval

Arrays = tuple[np.ndarray, np.ndarray]


# ---- several labels --------------------------------------------------------------------------------------------------


def labelled(seed: int, n: int = 120, labels: int = 6, digits: int = 1) -> Arrays:
    """Scores in steps, so that many are equal, and targets of which every label has some and some rows have none."""
    generator = np.random.default_rng(seed)
    targets = (generator.uniform(size=(n, labels)) < 0.25).astype(int)
    return (0.3 + 0.4 * targets + 0.3 * generator.normal(size=(n, labels))).round(digits), targets


@pytest.mark.parametrize("digits", [0, 1, 12])
def test_multilabel_metrics_equal_scikit_learn(digits: int) -> None:
    scores, targets = labelled(digits, digits=digits)
    found = multilabel.measure(scores, targets, threshold=0.5)
    said, some = (scores >= 0.5).astype(int), targets.any(axis=1)
    assert 0 < some.sum() < len(some)
    assert found == pytest.approx(
        {
            "map": reference.average_precision_score(targets, scores, average="macro"),
            "macro_auc": reference.roc_auc_score(targets, scores, average="macro"),
            "micro_f1": reference.f1_score(targets, said, average="micro"),
            "macro_f1": reference.f1_score(targets, said, average="macro"),
            "samples_f1": reference.f1_score(targets, said, average="samples", zero_division=1.0),
            "hamming_loss": reference.hamming_loss(targets, said),
            "exact_match": reference.accuracy_score(targets, said),
            "coverage_error": reference.coverage_error(targets[some], scores[some]),
            "lrap": reference.label_ranking_average_precision_score(targets[some], scores[some]),
        }
    )
    assert set(found) == set(multilabel.METHODS)
    rows = multilabel.label_rows(multilabel.as_multilabel(scores, targets), 0.5)
    for label, row in enumerate(rows):
        truth = targets[:, label]
        assert row["true"] == truth.sum()
        assert row["auc"] == pytest.approx(ranking.auc(scores[:, label], truth == 1))
        assert row["average_precision"] == pytest.approx(reference.average_precision_score(truth, scores[:, label]))
        assert row["f1"] == pytest.approx(reference.f1_score(truth, said[:, label]))


def test_unknown_labels_count_nowhere() -> None:
    scores, targets = labelled(3)
    unknown = np.random.default_rng(1).uniform(size=targets.shape) < 0.3
    unknown[5] = True  # nothing is known of one example
    found = multilabel.measure(scores, np.where(unknown, 9, targets), threshold=0.5, unknown=unknown)
    known = ~unknown
    said = scores >= 0.5
    labels = [(targets[known[:, i], i], scores[known[:, i], i]) for i in range(targets.shape[1])]
    assert found["map"] == pytest.approx(np.mean([reference.average_precision_score(t, s) for t, s in labels]))
    assert found["macro_auc"] == pytest.approx(np.mean([reference.roc_auc_score(t, s) for t, s in labels]))
    assert found["macro_f1"] == pytest.approx(np.mean([reference.f1_score(t, s >= 0.5) for t, s in labels]))
    assert found["micro_f1"] == pytest.approx(reference.f1_score(targets[known], said[known]))
    assert found["hamming_loss"] == pytest.approx(np.mean((targets == 1)[known] != said[known]))
    rows = [i for i in range(len(targets)) if known[i].any()]
    assert found["exact_match"] == pytest.approx(
        np.mean([((targets[i] == 1) == said[i])[known[i]].all() for i in rows])
    )
    true = [i for i in rows if targets[i][known[i]].any()]
    pairs = [(targets[i : i + 1, known[i]], scores[i : i + 1, known[i]]) for i in true]
    several = [(t, s) for t, s in pairs if t.size > 1]  # scikit-learn wants two labels; of a single one both are 1
    single = [1.0] * (len(pairs) - len(several))
    depths = [reference.coverage_error(t, s) for t, s in several]
    assert found["coverage_error"] == pytest.approx(np.mean(depths + single))
    precise = [reference.label_ranking_average_precision_score(t, s) for t, s in several]
    assert found["lrap"] == pytest.approx(np.mean(precise + single))


def test_labels_without_a_side_are_left_out_and_nothing_is_ever_nan() -> None:
    scores, targets = labelled(4, labels=4)
    wider = np.hstack([targets, np.zeros((len(targets), 1), int), np.ones((len(targets), 1), int)])
    found = multilabel.measure(np.hstack([scores, scores[:, :2]]), wider, threshold=0.5)
    alone = multilabel.measure(scores, targets, threshold=0.5)
    assert found["macro_auc"] == pytest.approx(alone["macro_auc"])  # neither of the two has one
    assert found["map"] == pytest.approx((4 * alone["map"] + 1) / 5)  # what all have is found whatever the scores
    last = reference.f1_score(wider[:, 5], scores[:, 1] >= 0.5)
    assert found["macro_f1"] == pytest.approx((4 * alone["macro_f1"] + last) / 5)
    rows = multilabel.label_rows(multilabel.as_multilabel(np.hstack([scores, scores[:, :2]]), wider), 0.5)
    assert (rows[4]["average_precision"], rows[4]["auc"], rows[4]["f1"]) == (None, None, None)
    assert rows[5]["auc"] is None
    nothing = multilabel.measure(-np.ones((3, 2)), np.zeros((3, 2)), threshold=0.5)
    assert nothing == {"samples_f1": 1.0, "hamming_loss": 0.0, "exact_match": 1.0}
    every = multilabel.measure(np.ones((1, 1)), np.ones((1, 1)), threshold=0.5)
    assert every == {
        "map": 1.0, "micro_f1": 1.0, "macro_f1": 1.0, "samples_f1": 1.0, "hamming_loss": 0.0, "exact_match": 1.0,
        "coverage_error": 1.0, "lrap": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_has_a_higher_micro_f1_than_the_chosen_one(seed: int) -> None:
    scores, targets = labelled(seed, n=40, labels=3)
    chosen = multilabel.best_threshold(scores, targets)
    best = multilabel.measure(scores, targets, threshold=chosen)["micro_f1"]
    every = [reference.f1_score(targets, (scores >= t).astype(int), average="micro") for t in np.unique(scores)]
    assert best == pytest.approx(max(every))
    assert not np.isin(chosen, scores) or chosen == scores.min()
    unknown = np.zeros(targets.shape, dtype=bool)
    unknown[20:] = True
    assert multilabel.best_threshold(scores, targets, unknown) == multilabel.best_threshold(scores[:20], targets[:20])


def test_a_threshold_between_neighbouring_numbers_still_parts_them() -> None:
    low = 1.0
    high = np.nextafter(low, 2.0)
    assert low < multilabel.best_threshold([[low, high]], [[0, 1]]) <= high
    assert multilabel.best_threshold([[0.5, 0.5]], [[0, 1]]) == 0.5
    with pytest.raises(InputError, match="no threshold can be chosen"):
        multilabel.best_threshold([[0.5, 0.2]], [[0, 0]])


@pytest.mark.parametrize(
    ("scores", "targets", "unknown", "says"),
    [
        ([[0.1, 0.2]], [[0]], None, "one score and one target"),
        ([0.1], [1], None, "one score and one target"),
        ([[0.1]], [[2]], None, "neither 0 nor 1"),
        ([[np.nan]], [[1]], None, "finite"),
        ([[0.1]], [[1]], [[1]], "no label is known"),
        ([[0.1]], [[1]], [[3]], "`unknown` says"),
    ],
    ids=["shape", "one-row", "target", "nan", "nothing-known", "mask"],
)
def test_what_is_no_multilabel_answer_is_refused(scores: list, targets: list, unknown: list | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        multilabel.measure(scores, targets, threshold=0.5, unknown=unknown)


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wide", [None, 3], ids=["one", "three"])
@pytest.mark.parametrize("digits", [0, 12])
@pytest.mark.parametrize("offset", [0.0, 1e7])
def test_regression_metrics_equal_scikit_learn_and_scipy(wide: int | None, digits: int, offset: float) -> None:
    generator = np.random.default_rng(digits)
    shape = (81,) if wide is None else (80, wide)
    truth = (3 * generator.normal(size=shape)).round(digits) + offset
    said = (truth + generator.normal(size=shape) + 0.3).round(digits)
    variance = np.exp(generator.normal(size=shape))
    found = regression.measure(said, truth, variance=variance)
    columns = list(zip(said.reshape(len(said), -1).T, truth.reshape(len(said), -1).T, strict=True))
    normal = stats.norm(said, np.sqrt(variance))
    low, high = normal.interval(0.95)
    covered = float(np.mean((truth >= low) & (truth <= high)))
    expected = {
        "mae": reference.mean_absolute_error(truth, said),
        "rmse": reference.root_mean_squared_error(truth, said),
        "r2": reference.r2_score(truth, said),
        "explained_variance": reference.explained_variance_score(truth, said),
        "median_absolute_error": reference.median_absolute_error(truth, said),
        "pearson": np.mean([stats.pearsonr(a, b).statistic for a, b in columns]),
        "spearman": np.mean([stats.spearmanr(a, b).statistic for a, b in columns]),
        "nll": -normal.logpdf(truth).mean(),
        "coverage_95": covered,
        "coverage_gap": abs(covered - 0.95),
    }
    assert found == pytest.approx(expected, rel=1e-9 if offset == 0 else 1e-6)
    assert set(found) == set(regression.METHODS)
    assert set(regression.measure(said, truth)) == set(expected) - {"nll", "coverage_95", "coverage_gap"}


def test_constant_targets_have_no_share_explained_and_constant_predictions_no_correlation() -> None:
    said = np.array([1.0, 2.0, 4.0])
    constant = regression.measure(said, np.full(3, 0.1))
    assert constant == pytest.approx(
        {"mae": 6.7 / 3, "rmse": np.sqrt(19.63 / 3), "median_absolute_error": 1.9}, rel=1e-3
    )
    flat = regression.measure(np.full(3, 0.1), said)
    assert (flat["pearson"], flat["spearman"]) == (0.0, 0.0)
    assert flat["r2"] == pytest.approx(reference.r2_score(said, np.full(3, 0.1)))
    assert flat["explained_variance"] == pytest.approx(0.0)
    both = regression.measure(np.stack([said, said], 1), np.stack([said, np.ones(3)], 1))
    assert both["r2"] == 1.0  # of the output that varies
    assert regression.measure([2.0], [1.0]) == {"mae": 1.0, "rmse": 1.0, "median_absolute_error": 1.0}
    tiny = regression.measure(said * 1e-90, said * 1e-90)
    assert (tiny["r2"], tiny["pearson"]) == (1.0, pytest.approx(1.0))


@pytest.mark.parametrize(
    ("said", "truth", "variance", "says"),
    [
        ([1.0], [1.0, 2.0], None, "wrong shapes"),
        ([], [], None, "wrong shapes"),
        ([np.nan], [1.0], None, "finite"),
        ([1e200], [1.0], None, "finite"),
        ([1.0], [1.0], [0.0], "variance must be above 0"),
        ([1.0], [1.0], [-1.0], "variance must be above 0"),
    ],
    ids=["lengths", "empty", "nan", "huge", "zero-variance", "negative-variance"],
)
def test_what_are_no_numbers_is_refused(said: list, truth: list, variance: list | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        regression.measure(said, truth, variance=variance)


# ---- items in order --------------------------------------------------------------------------------------------------


def searched(seed: int, queries: int = 30, digits: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries of 2 to 14 items in mixed order; query 3 has nothing relevant, and relevance has three grades."""
    generator = np.random.default_rng(seed)
    query = np.repeat(np.arange(queries), generator.integers(2, 15, size=queries))
    relevance = generator.choice([0, 0, 0, 1, 2], size=query.size)
    relevance[query == 3] = 0
    scores = (generator.normal(size=query.size) + relevance).round(digits)
    order = generator.permutation(query.size)
    return query[order], scores[order], relevance[order]


def straightforward(scores: list[float], relevance: list[int], k: int) -> dict[str, float]:
    """Of one query whose items have no ties, by the definitions."""
    found = [relevance[i] for i in np.argsort(-np.asarray(scores))]
    hit = [r > 0 for r in found]
    precisions = [sum(hit[: i + 1]) / (i + 1) for i in range(min(k, len(hit))) if hit[i]]
    return {
        "map": sum(precisions) / min(sum(hit), k),
        "mrr": 1 / (1 + hit.index(True)),
        "recall": sum(hit[:k]) / sum(hit),
        "precision": sum(hit[:k]) / k,
    }


@pytest.mark.parametrize("k", [1, 3, 10, 50])
def test_retrieval_metrics_equal_their_definitions_and_scikit_learn(k: int) -> None:
    query, scores, relevance = searched(k)
    found = retrieval.measure(query, scores, relevance, k=k)
    assert set(found) == set(retrieval.METHODS)
    each = [(scores[query == q], relevance[query == q]) for q in np.unique(query)]
    judged = [(s, r) for s, r in each if r.any()]
    assert len(judged) < len(each)
    ours = [straightforward(list(s), list(r), k) for s, r in judged]
    for name in ours[0]:
        assert found[name] == pytest.approx(np.mean([one[name] for one in ours])), name
    gains = [reference.ndcg_score(r[None], s[None], k=k) for s, r in judged]
    assert found["ndcg"] == pytest.approx(np.mean(gains))
    orders = [stats.kendalltau(s, r).statistic for s, r in each if np.ptp(r) > 0]
    assert found["kendall_tau"] == pytest.approx(np.mean(orders))
    if k == 50:
        whole = [reference.average_precision_score(r > 0, s) for s, r in judged]
        assert found["map"] == pytest.approx(np.mean(whole))


@pytest.mark.parametrize("k", [1, 3, 4, 10])
@pytest.mark.parametrize(
    ("scores", "relevance"),
    [
        ([1, 1, 1, 1], [0, 1, 0, 1]),
        ([2, 2, 1, 1, 1], [0, 0, 1, 0, 2]),
        ([2, 2, 2, 1, 1, 0], [1, 0, 1, 0, 1, 1]),
        ([3, 2, 2, 2, 2, 1], [1, 0, 0, 2, 1, 0]),
        ([0, 0, 0], [1, 1, 1]),
    ],
)
def test_equal_scores_count_as_the_mean_over_their_orders(scores: list[int], relevance: list[int], k: int) -> None:
    found = retrieval.measure(np.zeros(len(scores), int), scores, relevance, k=k)
    seen: dict[str, list[float]] = {}
    for order in itertools.permutations(range(len(scores))):
        parted = [score - 1e-3 * place for score, place in zip(scores, order, strict=True)]
        for name, value in straightforward(parted, relevance, k).items():
            seen.setdefault(name, []).append(value)
    assert {name: found[name] for name in seen} == pytest.approx({name: np.mean(v) for name, v in seen.items()})
    expected = reference.ndcg_score(np.array([relevance]), np.array([scores]), k=k)
    assert found["ndcg"] == pytest.approx(expected)


def test_long_rankings_and_text_queries_are_no_other_case() -> None:
    generator = np.random.default_rng(0)
    relevance = generator.integers(0, 3, size=700)
    scores = (relevance + generator.normal(size=700)).round(1)
    found = retrieval.measure(np.full(700, "the query"), scores, relevance)
    assert found["kendall_tau"] == pytest.approx(stats.kendalltau(scores, relevance).statistic)
    assert found["ndcg"] == pytest.approx(reference.ndcg_score(relevance[None], scores[None], k=10))


def test_queries_without_relevant_items_are_left_out() -> None:
    assert retrieval.measure([0, 0, 1, 1], [1.0, 2.0, 2.0, 1.0], [0, 0, 1, 0])["mrr"] == 1.0
    assert retrieval.measure([0, 0], [1.0, 2.0], [0, 0]) == {}
    alike = retrieval.measure([0, 0], [1.0, 1.0], [0, 1])
    assert (alike["kendall_tau"], alike["mrr"]) == (0.0, pytest.approx(0.75))
    assert "kendall_tau" not in retrieval.measure([0, 0], [1.0, 2.0], [1, 1])


@pytest.mark.parametrize(
    ("queries", "scores", "relevance", "says"),
    [
        ([0], [1.0, 2.0], [1, 0], "a query, a score and a relevance"),
        ([0], [np.nan], [1], "finite"),
        ([0], [1.0], [-1], "at least 0"),
        ([0], [1.0], [np.nan], "at least 0"),
    ],
    ids=["lengths", "nan", "negative", "nan-relevance"],
)
def test_what_is_no_ranking_is_refused(queries: list, scores: list, relevance: list, says: str) -> None:
    with pytest.raises(InputError, match=says):
        retrieval.measure(queries, scores, relevance)
    with pytest.raises(InputError, match="k at least 1"):
        retrieval.measure([0], [1.0], [1], k=0)


# ---- intervals -------------------------------------------------------------------------------------------------------


def multilabel_parts(rows: np.ndarray) -> list[resampling.Part]:
    scores, targets = labelled(8, n=60, labels=3)
    return multilabel.parts(multilabel.as_multilabel(scores[rows], targets[rows]), 0.5)


def regression_parts(rows: np.ndarray) -> list[resampling.Part]:
    generator = np.random.default_rng(9)
    truth = generator.normal(size=(60, 2)).round(1)
    said = (truth + generator.normal(size=(60, 2))).round(1)
    return regression.parts(regression.as_numbers(said[rows], truth[rows], np.exp(truth[rows])))


@pytest.mark.parametrize("make", [multilabel_parts, regression_parts], ids=["multilabel", "regression"])
def test_a_weight_is_a_row_that_stands_so_often(make: object) -> None:
    generator = np.random.default_rng(1)
    counts = np.stack([np.bincount(generator.integers(0, 60, size=60), minlength=60) for _ in range(20)])
    whole = make(np.arange(60))  # type: ignore[operator]
    found = {name: v for part in whole for name, v in part.at(counts.astype(float)).items()}
    for number, row in enumerate(counts):
        repeated = resampling.values_of(make(np.repeat(np.arange(60), row)), 60)  # type: ignore[operator]
        assert {name: v[number] for name, v in found.items()} == pytest.approx(repeated)


def test_the_interval_of_a_difference_is_that_of_a_plain_paired_bootstrap() -> None:
    generator = np.random.default_rng(2)
    truth = generator.normal(size=150)
    first, second = truth + 0.8 * generator.normal(size=150), truth + generator.normal(size=150)
    sides = [regression.parts(regression.as_numbers(one, truth)) for one in (first, second)]
    *_, found = resampling.bootstrap(sides, 150, resamples=4_000)

    def difference(rows: np.ndarray, axis: int = -1) -> np.ndarray:
        errors = [np.sqrt(np.mean((one[rows] - truth[rows]) ** 2, axis=axis)) for one in (first, second)]
        return np.asarray(errors[0] - errors[1])

    plain = stats.bootstrap((np.arange(150),), difference, n_resamples=4_000, method="percentile", rng=3)
    estimate = found["rmse"]
    assert estimate.value == pytest.approx(float(difference(np.arange(150))))
    ends = (plain.confidence_interval.low, plain.confidence_interval.high)
    width = ends[1] - ends[0]
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx(ends, abs=0.06 * width)  # Monte Carlo: 4 of its errors
    assert estimate.method == "paired bootstrap over test examples, 4000 resamples"


def test_strata_keep_their_sizes_and_one_unit_has_no_interval() -> None:
    strata = np.repeat([0, 1], [30, 10])
    share = resampling.ratios({"share": ((strata == 1).astype(float), np.ones(40))})
    [kept] = resampling.bootstrap([[share]], 40, strata=strata, resamples=200)
    assert (kept["share"].ci_low, kept["share"].ci_high) == (0.25, 0.25)
    [free] = resampling.bootstrap([[share]], 40, resamples=200)
    assert free["share"].ci_low < 0.25 < free["share"].ci_high  # type: ignore[operator]
    [alone] = resampling.bootstrap([regression.parts(regression.as_numbers([1.0], [2.0]))], 1)
    assert (alone["mae"].value, alone["mae"].ci_low) == (1.0, None)
    with pytest.raises(InputError, match="no interval"):
        resampling.bootstrap([[share]], 40, resamples=10)


def test_what_is_dear_gets_fewer_resamples_and_at_last_none() -> None:
    share = resampling.ratios({"share": (np.eye(40)[0], np.ones(40))})
    for width, method in (
        (1, "bootstrap over test examples, 1000 resamples"),
        (40_000, "bootstrap over test examples, 250 resamples"),
        (100_000, "bootstrap over test examples, 200 resamples"),
        (10_000_000, "no interval: too dear to resample"),
    ):
        [found] = resampling.bootstrap([[resampling.Part(share.at, width)]], 40, resamples=1000)
        assert found["share"].value == 1 / 40
        assert found["share"].method == method
        assert (found["share"].ci_high is None) == (width == 10_000_000)


def test_the_same_model_twice_differs_by_nothing() -> None:
    query, scores, relevance = searched(0, digits=0)
    rows = retrieval.as_rows(query, scores, relevance)
    first, second, difference = resampling.bootstrap(
        [retrieval.parts(rows), retrieval.parts(rows)], rows.queries, unit="queries", resamples=300
    )
    assert first == second
    for estimate in difference.values():
        assert (estimate.value, estimate.ci_low, estimate.ci_high) == (0.0, 0.0, 0.0)
        assert estimate.n == 30
        assert estimate.method == "paired bootstrap over queries, 300 resamples"
