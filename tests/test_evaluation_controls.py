"""Controls: where nothing was gained nothing is found, about as seldom as 95 % says; where something was, it is found.

Simulated answers share how hard every example is; each seed adds luck of its own, to the whole model and to every
example. Counts are held against binomial bounds that a sound method misses once in a thousand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import tutelage
from tutelage.data import load
from tutelage.evaluation.comparison import compare
from tutelage.evaluation.significance import minimum_detectable
from tutelage.losses import cross_entropy, soft_target
from tutelage.objective import Term
from tutelage.teachers import TableTeacher

N, TRIALS, RESAMPLES = 400, 200, 400
LABELS = (np.arange(N) % 5).astype(np.int64)
LEAST_OF_95 = int(stats.binom.ppf(0.001, TRIALS, 0.95))  # 179 of 200


def pair(generator: np.random.Generator, seeds: int, *, luck: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Who is right where, (seeds, N) twice, for two arms that differ by nothing but chance.

    Logit of being right = how easy the example is + the luck of this training + its luck with this example.
    """
    ease = generator.normal(1.6, 1.8, size=N)

    def arm() -> np.ndarray:
        training = generator.normal(0.0, luck, size=(seeds, 1))
        example = generator.normal(0.0, 0.6, size=(seeds, N))
        return generator.uniform(size=(seeds, N)) < 1 / (1 + np.exp(-(ease + training + example)))

    return arm(), arm()


def judged(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    arms = [dict(enumerate(np.atleast_2d(one))) for one in (first, second)]
    return compare("distilled", arms[0], "scratch", arms[1], LABELS, resamples=RESAMPLES)


@pytest.mark.parametrize("seeds", [3, 5])
def test_arms_that_differ_only_by_seed_show_no_difference(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    decisions = [judged(*pair(generator, seeds))["decision"] for _ in range(TRIALS)]
    assert decisions.count("none") >= LEAST_OF_95
    # Nor is the interval so wide that it could never say anything.
    assert decisions.count("none") < TRIALS


def test_the_interval_by_seed_is_needed_where_trainings_differ_by_luck() -> None:
    """Test examples know nothing of another training: alone they would find gains that the next seed takes back."""
    generator = np.random.default_rng(5)
    found = [judged(*pair(generator, 5)) for _ in range(TRIALS)]
    silent = sum(one["by_example"]["ci_low"] <= 0 <= one["by_example"]["ci_high"] for one in found)
    assert silent < LEAST_OF_95
    assert sum(one["decision"] == "none" for one in found) >= LEAST_OF_95


def test_a_single_run_is_judged_rightly_where_only_examples_bring_luck() -> None:
    generator = np.random.default_rng(1)
    decisions = [judged(*pair(generator, 1, luck=0.0))["decision"] for _ in range(TRIALS)]
    assert decisions.count("none") >= LEAST_OF_95
    assert decisions.count("none") < TRIALS


def test_a_gain_of_twice_the_detectable_difference_is_found_in_a_single_run() -> None:
    """The report's minimum detectable difference is 1.96 standard errors: at twice that, theory finds 97.5 %."""
    generator, differ = np.random.default_rng(2), 0.10
    gain = 2 * minimum_detectable(differ, N)
    found = []
    for _ in range(TRIALS):
        second = generator.uniform(size=N) < 0.8
        kind = generator.uniform(size=N)
        # Of all examples a share `differ` changes sides: (differ + gain) / 2 to the right, the others to the wrong.
        first = np.where(kind < (differ + gain) / 2, True, second)
        second = np.where(kind < (differ + gain) / 2, False, second)
        lost = (kind >= (differ + gain) / 2) & (kind < differ)
        first, second = np.where(lost, False, first), np.where(lost, True, second)
        found.append(judged(first, second)["decision"])
    assert found.count("gain") >= 0.95 * TRIALS
    assert "worse" not in found


def test_the_power_of_five_seeds_is_that_of_the_t_test() -> None:
    """A planted gain of twice the expected half width of the interval by seed, t₀.₉₇₅,₄ σ / √5."""
    generator, seeds = np.random.default_rng(3), 5
    pairs = [pair(generator, seeds) for _ in range(TRIALS)]
    spread = float(np.std([a.mean(axis=1) - b.mean(axis=1) for a, b in pairs]))
    threshold = float(stats.t.ppf(0.975, seeds - 1))
    gain = 2 * threshold * spread / np.sqrt(seeds)
    decisions = []
    for first, second in pairs:
        mended = generator.uniform(size=first.shape) < gain / float(1 - np.mean([a.mean() for a, _ in pairs]))
        decisions.append(judged(first | mended, second)["decision"])
    power = float(stats.nct.sf(threshold, seeds - 1, 2 * threshold))
    low, high = stats.binom.ppf([0.001, 0.999], TRIALS, power)
    assert power > 0.95
    assert low <= decisions.count("gain") <= high
    assert decisions.count("gain") >= 0.95 * TRIALS


def test_a_shuffled_teacher_is_no_teacher_and_a_deaf_arm_learns_nothing_from_it(tmp_path: Path) -> None:
    splits = load("digits", path=None, val=0.1, test=0.2)
    parts = (splits.train, splits.val, splits.test)
    ids, labels = torch.cat([part.ids for part in parts]), torch.cat([part.targets for part in parts])
    answers = 5.0 * torch.nn.functional.one_hot(labels, 10).float()
    shuffled = answers[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]
    run = tutelage.distill(
        TableTeacher(ids, shuffled), {"model": "mlp", "args": {"width": 8, "depth": 1}}, splits,
        out=tmp_path / "run", epochs=3, lr=0.01, seeds=(0, 1, 2), quiet=True,
        arms={"deaf": [Term(soft_target, 0.0), cross_entropy]},
    )  # fmt: skip
    found = {one["name"]: one for one in run.report["comparisons"]}
    assert run.report["models"][0]["metrics"]["accuracy"]["value"] < 0.2
    assert found["distilled"]["decision"] != "gain"
    assert found["distilled"]["difference"]["value"] < 0
    assert [one["difference"] for one in found["deaf"]["per_seed"]] == [0.0, 0.0, 0.0]
    assert found["deaf"]["decision"] == "none"
