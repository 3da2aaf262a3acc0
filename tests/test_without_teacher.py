"""Arms that learned without a teacher are held against the baseline; teachers that know nothing are told of at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import tutelage
from scored_runs import make_report
from test_evaluation_scorecard import SCRATCH, TAUGHT, arm, card
from tutelage.data import from_arrays
from tutelage.evaluation import Arm
from tutelage.evaluation.lineup import Lineup
from tutelage.evaluation.rebuild import differences
from tutelage.evaluation.significance import holm
from tutelage.recipe import from_mapping
from tutelage.report import verdict
from tutelage.report.card import card as model_card
from tutelage.report.html import page
from tutelage.run import run_recipe
from tutelage.run.crossval import cross_validate
from tutelage.run.doubts import doubts_of
from tutelage.run.rescore import rescore


def alone(name: str, *accuracies: float) -> Arm:
    return arm(name, accuracies, distilled=False)


WEIGHTED = alone("weighted", 0.88, 0.86, 0.87)
SMOOTH = alone("smooth", 0.80, 0.82, 0.79)


# ---- what is compared ------------------------------------------------------------------------------------------------


def test_arms_without_a_teacher_stand_against_the_baseline_behind_the_distilled_ones() -> None:
    report = card([SCRATCH, WEIGHTED, TAUGHT, SMOOTH])
    assert [(one["name"], one["against"]) for one in report["comparisons"]] == [
        ("taught", "scratch"), ("weighted", "scratch"), ("smooth", "scratch")
    ]  # fmt: skip
    assert {model["name"]: model["role"] for model in report["models"]}["weighted"] == "other"
    item = report["comparisons"][1]
    expected = stats.ttest_rel([0.88, 0.86, 0.87], [0.80, 0.81, 0.79])
    assert item["p"] == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert (item["difference"]["ci_low"], item["difference"]["ci_high"]) == pytest.approx((low, high))
    found = [one["p_adjusted"] for one in report["comparisons"]]
    assert found == pytest.approx(holm([one["p"] for one in report["comparisons"]]))
    # Agreement with a teacher is asked of those who listened to it.
    assert [one["name"] for one in report["fidelity"]["arms"]] == ["taught"]


def test_nothing_changes_where_there_are_none() -> None:
    report, _, arms = make_report(students=("small", "tiny"))
    lineup = Lineup.of(arms, "scratch")
    assert lineup.compared() == lineup.against_baselines()
    assert all("Without a teacher" not in claim for claim in verdict(report).claims)
    assert "What distillation added" in page(report, "en")


def test_an_arm_whose_student_has_no_baseline_is_compared_with_nobody() -> None:
    lineup = Lineup.of([TAUGHT, WEIGHTED], "scratch")
    assert lineup.compared() == {}


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_the_verdict_says_what_was_gained_without_a_teacher() -> None:
    said = verdict(card([SCRATCH, TAUGHT, WEIGHTED]))
    taught, weighted, best = said.claims
    assert taught.startswith("‘taught’: distillation itself added +5.3 pp over")
    assert weighted.startswith("Without a teacher, ‘weighted’ gained 7.0 pp over ‘scratch’ (95 % CI +")
    assert "3 seeds, paired" in weighted
    assert best == (
        "‘weighted’ did at least as well as the best distilled arm, ‘taught’ (87.0 % and 85.3 %): such a gain "
        "needs no teacher."
    )
    assert said.tone == "gain"


def test_the_teacher_keeps_its_merit_where_a_distilled_arm_did_better() -> None:
    claims = verdict(card([SCRATCH, TAUGHT, alone("weighted", 0.83, 0.84, 0.82)])).claims
    assert any("‘weighted’ gained 3.00 pp over ‘scratch’" in claim for claim in claims)
    assert not any("needs no teacher" in claim for claim in claims)


def test_what_may_be_chance_is_not_mentioned_and_harm_is() -> None:
    claims = verdict(card([SCRATCH, TAUGHT, SMOOTH])).claims
    assert len(claims) == 1
    claims = verdict(card([SCRATCH, TAUGHT, alone("worse", 0.70, 0.71, 0.69)])).claims
    assert claims[1].startswith("Without a teacher, ‘worse’ lost 10.00 pp against ‘scratch’ (95 % CI −")


def test_a_single_run_says_so() -> None:
    claims = verdict(card([alone("scratch", 0.7), arm("taught", [0.72]), alone("weighted", 0.9)])).claims
    (said,) = (claim for claim in claims if "weighted" in claim and "gained" in claim)
    assert said.startswith("Without a teacher, ‘weighted’ gained 20.0 pp over ‘scratch’ (single run, 95 % CI +")
    assert "over test examples only" in said


def test_without_any_distilled_arm_nothing_is_credited_to_distillation() -> None:
    report = card([SCRATCH, WEIGHTED])
    said = verdict(report)
    assert said.tone == "unknown"
    assert said.claims[0].startswith("Nothing can be said about what distillation itself added")
    assert said.claims[1].startswith("Without a teacher, ‘weighted’ gained")
    assert "from distillation itself" not in page(report, "en")


def test_many_of_them_share_a_sentence() -> None:
    several = [alone(f"way-{number}", *(0.90 + 0.01 * number + shift for shift in (0.0, 0.01, 0.02)))
               for number in range(4)]  # fmt: skip
    claims = verdict(card([SCRATCH, TAUGHT, *several])).claims
    (said,) = (claim for claim in claims if claim.startswith("Without a teacher"))
    assert said.startswith("Without a teacher, 4 of 4 other arms differ from their baselines: ‘way-0’ +11.0 pp (")
    assert sum("needs no teacher" in claim for claim in claims) == 1


def test_the_page_and_the_card_list_them() -> None:
    report = card([SCRATCH, TAUGHT, WEIGHTED])
    shown = page(report, "en")
    assert "What each arm added" in shown
    assert "weighted − scratch" in shown
    assert "No teacher, but another way than the baseline&#x27;s: ‘weighted’." in shown
    assert "means that distillation helped" not in shown
    assert "‘weighted’ gained 7.0 pp" in model_card(report)


# ---- from a recipe, and again from files -----------------------------------------------------------------------------

RECIPE: dict[str, Any] = {
    "name": "smoothed",
    "seeds": [0, 1],
    "data": {"source": "digits"},
    "teacher": {"model": "mlp", "args": {"width": 16}, "train": {"epochs": 1}},
    "student": {"model": "mlp", "args": {"width": 8}},
    "arms": {
        "distilled": [{"loss": "soft_target", "temperature": 2}],
        "smooth": [{"loss": "cross_entropy", "options": {"label_smoothing": 0.2}}],
    },
    "train": {"epochs": 1},
    "report": {"latency": False, "bootstrap": 200},
}


def test_a_run_is_computed_again_with_them(tmp_path: Path) -> None:
    run = run_recipe(from_mapping(RECIPE), tmp_path / "run", quiet=True)
    assert [one["name"] for one in run.report["comparisons"]] == ["distilled", "smooth"]
    assert differences(json.loads((run.folder / "report.json").read_text()), rescore(run.folder)) == []


def test_folds_decide_for_them_too(tmp_path: Path) -> None:
    run = cross_validate(from_mapping({**RECIPE, "seeds": [0]}), tmp_path / "folds", folds=2, quiet=True)
    assert [one["name"] for one in run.report["folds"]["comparisons"]] == ["distilled", "smooth"]
    smooth = run.report["comparisons"][1]
    assert smooth["basis"] == "folds"
    assert smooth["p_adjusted"] == pytest.approx(holm([one["p"] for one in run.report["comparisons"]])[1])
    assert differences(json.loads((run.folder / "report.json").read_text()), rescore(run.folder)) == []


# ---- a teacher that knows nothing ------------------------------------------------------------------------------------


def answers(right: int, labels: torch.Tensor) -> torch.Tensor:
    """Logits of which the first `right` name the label, and the others the next class."""
    said = labels.clone()
    said[right:] = (said[right:] + 1) % 3
    return nn.functional.one_hot(said, 3).float()


def test_a_teacher_must_be_right_more_often_than_the_most_frequent_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    said = [list(doubts_of("teacher", answers(right, labels), {"label": labels}, {"label": 3}))
            for right in (51, 50, 20)]  # fmt: skip
    assert said[0] == []
    assert "teacher is right on 50.00% of the validation part, no more than" in said[1][0]
    assert "(50.00%)" in said[1][0]
    assert "clearly less than" in said[2][0]
    # 20 of 100 leaves 29 % possible at most, which is below 50 %; 45 of 100 does not rule 50 % out.
    assert "no more than" in next(doubts_of("teacher", answers(45, labels), {"label": labels}, {"label": 3}))


def test_each_task_is_looked_at_by_itself() -> None:
    labels = {"label": torch.tensor([0, 1, 2] * 20), "parity": torch.tensor([0, 1] * 30)}
    logits = torch.cat([answers(60, labels["label"]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(30, 1)], dim=1)
    (said,) = doubts_of("teacher big", logits, labels, {"label": 3, "parity": 2})
    assert "teacher big, task `parity` is right on 0.00%" in said


def test_it_is_told_before_students_are_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 3
    data = from_arrays(generator.uniform(size=(300, 6)).astype(np.float32), labels, val=0.2, test=0.2)

    class Stubborn(nn.Module):
        """Names the first class, whatever it sees."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 0.0, 0.0]).expand(len(x), 3) + 0 * x[:, :3]

    tutelage.distill(Stubborn(), "mlp", data, out=tmp_path / "run", epochs=1, seeds=[0])
    lines = capsys.readouterr().err.splitlines()
    notice = next(number for number, line in enumerate(lines) if line.startswith("notice: teacher is right on"))
    first = next(number for number, line in enumerate(lines) if line.startswith("arm "))
    assert notice < first
    assert "always naming its most frequent class" in lines[notice]
    assert "`tutelage check`" in lines[notice]
