"""Intervals and tests against scipy, closed forms, slow twins and simulated truth."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.utils import resample

from tutelage.errors import InputError
from tutelage.evaluation import significance as s


@pytest.mark.parametrize(("right", "n"), [(0, 10), (7, 10), (10, 10), (912, 1000), (1, 3)])
def test_wilson_equals_scipy(right: int, n: int) -> None:
    found = s.wilson(right / n, n)
    expected = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert found.ci_low == pytest.approx(expected.low, abs=1e-12)
    assert found.ci_high == pytest.approx(expected.high, abs=1e-12)
    assert (found.value, found.n, found.seeds) == (right / n, n, 1)


def test_over_seeds_equals_scipy() -> None:
    values = [0.911, 0.914, 0.909, 0.917]
    found = s.over_seeds(values, 1000)
    low, high = stats.t.interval(0.95, df=3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.ci_low, found.ci_high) == (pytest.approx(low), pytest.approx(high))
    assert (found.value, found.seeds, found.method) == (pytest.approx(np.mean(values)), 4, "t over seeds")


def test_one_seed_has_no_interval() -> None:
    found = s.over_seeds([0.9], 1000)
    assert found.to_json() == {
        "value": 0.9,
        "ci_low": None,
        "ci_high": None,
        "n": 1000,
        "seeds": 1,
        "method": "single run",
    }
    assert s.paired_p([0.9], [0.8], 1000) is None


def test_paired_interval_and_p_equal_scipy() -> None:
    first, second = [0.914, 0.911, 0.918, 0.909], [0.903, 0.905, 0.901, 0.904]
    found = s.paired_by_seed(first, second, 1000)
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(np.subtract(first, second)))
    assert (found.ci_low, found.ci_high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert s.paired_p(first, second, 1000) == pytest.approx(expected.pvalue)


def test_equal_differences_by_accident_do_not_make_an_interval_of_no_width() -> None:
    found = s.paired_by_seed([0.51, 0.52], [0.50, 0.51], 100)
    assert found.ci_low is not None
    assert found.ci_high is not None
    half = float(stats.t.ppf(0.975, 1)) / (100 * math.sqrt(12)) / math.sqrt(2)
    assert found.ci_high - found.ci_low == pytest.approx(2 * half)
    with pytest.raises(InputError, match="same seeds"):
        s.paired_by_seed([0.5], [0.5, 0.6], 100)


def test_the_t_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    draws = generator.normal(0.9, 0.004, size=(4000, 3))
    found = [s.over_seeds(row.tolist(), 1000) for row in draws]
    covered = np.mean([e.ci_low <= 0.9 <= e.ci_high for e in found if e.ci_low is not None and e.ci_high is not None])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def outcomes(seeds: int, n: int, gain: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paired right-or-wrong outcomes that share the hardness of the examples."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 5
    ease = generator.uniform(0.5, 1.0, size=n) - 0.04 * labels
    first, second = (generator.uniform(size=(seeds, n)) < ease + shift for shift in (gain, 0.0))
    return first, second, labels.astype(np.int64)


def test_bootstrap_equals_resampling_rows_one_by_one() -> None:
    first, second, labels = outcomes(3, 500, 0.03)
    found = s.paired_bootstrap(first, second, labels, resamples=20_000)
    difference = first.mean(axis=0) - second.mean(axis=0)
    slow = [
        float(np.mean(resample(difference, stratify=labels, random_state=round_))) for round_ in range(1500)
    ]  # rows drawn within a class, as a reader would write it
    low, high = np.quantile(slow, [0.025, 0.975])
    assert found.value == pytest.approx(difference.mean())
    assert found.ci_low == pytest.approx(low, abs=0.003)
    assert found.ci_high == pytest.approx(high, abs=0.003)


def test_bootstrap_width_equals_the_closed_form_of_a_stratified_mean() -> None:
    first, second, labels = outcomes(2, 4000, 0.02, seed=2)
    found = s.paired_bootstrap(first, second, labels, resamples=20_000)
    difference = first.mean(axis=0) - second.mean(axis=0)
    variance = sum(float(difference[labels == c].var()) * 800 for c in range(5)) / 4000**2
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert (found.ci_high - found.ci_low) / (2 * 1.96) == pytest.approx(math.sqrt(variance), rel=0.03)


def test_bootstrap_is_repeatable_paired_and_zero_for_the_same_model() -> None:
    first, second, labels = outcomes(1, 200, 0.05)
    assert s.paired_bootstrap(first, second, labels) == s.paired_bootstrap(first, second, labels)
    same = s.paired_bootstrap(first, first, labels)
    assert (same.value, same.ci_low, same.ci_high) == (0.0, 0.0, 0.0)
    with pytest.raises(InputError, match="differ in length"):
        s.paired_bootstrap(first, second, labels[:-1])


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 5), (12, 3), (0, 9), (40, 61)])
def test_mcnemar_equals_the_exact_binomial_test(gained: int, lost: int) -> None:
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert s.mcnemar(gained, lost) == pytest.approx(expected)


def test_minimum_detectable_difference_of_the_textbook_case() -> None:
    assert s.minimum_detectable(0.10, 10_000) == pytest.approx(0.0062, abs=5e-5)


def test_holm_and_benjamini_hochberg_equal_known_values() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005]
    assert s.holm(p_values) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert s.benjamini_hochberg(p_values) == pytest.approx(stats.false_discovery_control(p_values))
    assert s.holm([]) == []


def test_scaling_keeps_the_kind_of_an_estimate() -> None:
    found = s.over_seeds([0.8, 0.9], 50).scaled(2.0)
    assert found.value == pytest.approx(1.7)
    assert found.seeds == 2
    assert s.over_seeds([0.8], 50).scaled(2.0).ci_low is None


@pytest.mark.parametrize(("share", "n"), [(1.5, 10), (-0.1, 10), (0.5, 0)])
def test_a_share_outside_its_range_is_refused(share: float, n: int) -> None:
    with pytest.raises(InputError, match="share must lie"):
        s.wilson(share, n)


def test_an_interval_ends_where_its_number_must() -> None:
    wild = s.over_seeds([0.2, 0.9], 100)
    assert wild.ci_low is not None
    assert wild.ci_low < 0.0
    kept = wild.within(0.0, 1.0)
    assert (kept.value, kept.ci_low, kept.ci_high) == (wild.value, 0.0, 1.0)
    calm = s.over_seeds([0.5, 0.51, 0.49], 100)
    assert calm.within(0.0, 1.0) == calm
    assert s.over_seeds([0.5], 100).within(0.0, 1.0).ci_low is None
