"""All tasks of an example at once: who got all of them right, and of questions exact match and F1, to the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tutelage.errors import InputError
from tutelage.evaluation import Arm, DataFacts, Judged, RunFacts, TaskFacts, scorecard
from tutelage.evaluation.rebuild import differences
from tutelage.evaluation.significance import holm
from tutelage.report import verdict, write_report
from tutelage.report.card import card
from tutelage.report.html import page
from tutelage.run.compare import compare_runs
from tutelage.run.evalfiles import Kept, KeptTask, write_eval_file
from tutelage.run.rescore import rescore

N, L = 150, 40
NAMES = ("no answer", *map(str, range(1, L)))
IDS = np.random.default_rng(3).permutation(N).astype(np.int64) + 2**60


def truth() -> np.ndarray:
    """(N, 2) places, every fourth question without an answer."""
    generator = np.random.default_rng(11)
    first = generator.integers(10, L - 5, N)
    found = np.stack([first, first + generator.integers(0, 4, N)], axis=1)
    found[::4] = 0
    return found


TRUTH = truth()


def said(strength: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, L) of both places in float32; where no answer can be they are -100."""
    generator = np.random.default_rng([seed, 5])
    logits = []
    for task in (0, 1):
        one = generator.normal(size=(N, L)) + strength * np.eye(L)[TRUTH[:, task]]
        one[:, 1:10] = -100.0
        logits.append(one.astype(np.float32))
    return logits[0], logits[1]


def judged(strength: float, draw: int, **more: Any) -> Judged:
    start, end = said(strength, draw)
    return Judged(start, tasks={"end": end}, **more)


def lined_up(seeds: Sequence[int] = (0, 1, 2)) -> tuple[Judged, list[Arm]]:
    teacher = judged(5.0, 999, parameters=1000, file_bytes=9000, sha256="a" * 64)
    arms = []
    for number, (method, strength) in enumerate((("scratch", 2.0), ("distilled", 3.0))):
        students = [
            judged(strength, 100 * number + seed, parameters=90, file_bytes=800, sha256=f"{seed:064x}", seed=seed)
            for seed in seeds
        ]
        arms.append(Arm(method, students, method != "scratch", f"words of {method}", "", method))
    return teacher, arms


def scored(seeds: Sequence[int] = (0, 1, 2), *, questions: bool = True, **more: Any) -> dict[str, Any]:
    teacher, arms = lined_up(seeds)
    counts = np.bincount(TRUTH[:, 0], minlength=L).tolist()
    given: Mapping[str, Any] = {
        "data": DataFacts("faq", {"train": [5] * 9 + [0] * (L - 9), "test": counts}, "f" * 64, "e" * 64,
                          task="question-answering"),
        "run": RunFacts("asked", "name: asked", "tutelage run asked", "import torch", {"torch": "2"}, 1.5, True),
        "tasks": TaskFacts("start", {"end": (TRUTH[:, 1], NAMES)}, questions),
        "resamples": 300,
    }  # fmt: skip
    return scorecard(
        labels=TRUTH[:, 0], ids=IDS, classes=NAMES, teacher=teacher, arms=arms, **given | more
    )  # fmt: skip


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return scored()


@pytest.fixture(scope="module")
def tasks_report() -> dict[str, Any]:
    return scored(questions=False)


def best(start: np.ndarray, end: np.ndarray) -> list[tuple[int, int]]:
    """The likeliest pair of each question, by trying all."""
    found = []
    for one, two in zip(start.astype(float), end.astype(float), strict=True):
        pairs = [(one[a] + two[b], -a, -b) for a in range(1, L) for b in range(a, min(a + 30, L))]
        score, first, last = max(pairs)
        found.append((0, 0) if one[0] + two[0] >= score else (-first, -last))
    return found


def marks(model: Judged) -> tuple[list[bool], list[float]]:
    """Exact and F1 of every question, by sets of tokens."""
    right, shares = [], []
    for (a, b), (c, d) in zip(best(*map(np.asarray, (model.logits, model.tasks["end"]))), TRUTH.tolist(), strict=True):
        ours, theirs = set(range(a, b + 1)), set(range(c, d + 1))  # {0} is no answer
        right.append((a, b) == (c, d))
        shares.append(2 * len(ours & theirs) / (len(ours) + len(theirs)))
    return right, shares


# ---- what was right --------------------------------------------------------------------------------------------------


def test_exact_match_and_f1_of_every_run(report: dict[str, Any]) -> None:
    teacher, arms = lined_up()
    everyone = {"teacher": [teacher]} | {arm.name: list(arm.students) for arm in arms}
    for row, model in zip(report["tasks"]["joint"]["models"], report["models"], strict=True):
        expected = [marks(one) for one in everyone[row["name"]]]
        assert [run["right"] for run in row["runs"]] == pytest.approx([np.mean(right) for right, _ in expected])
        assert [run["f1"] for run in row["runs"]] == pytest.approx([np.mean(f1) for _, f1 in expected])
        assert [run["seed"] for run in row["runs"]] == [run["seed"] for run in model["runs"]]
        assert row["f1"]["value"] >= row["right"]["value"]
        # Of questions the report's accuracy is that of whole answers, and no number is of hundreds of classes.
        assert model["metrics"]["accuracy"] == row["right"]
        assert model["metrics"]["f1"] == row["f1"]
        assert model["accuracy_items"] == row["right_items"]
        assert not {"macro_f1", "macro_auc", "top5_accuracy"} & model["metrics"].keys()
    assert report["tasks"]["questions"]
    pairs = [tuple(pair) for pair in TRUTH.tolist()]
    assert report["data"]["majority_share"] == max(map(pairs.count, pairs)) / N
    assert "script" not in report["methods"]["f1"]
    assert "exact" not in report["tasks"]["each"][0]["models"][0]


def test_comparisons_are_paired_and_adjusted_together(report: dict[str, Any]) -> None:
    _, arms = lined_up()
    found = report["tasks"]["joint"]["comparisons"]
    assert [(one["measure"], one["name"], one["against"]) for one in found] == [
        ("right", "distilled", "scratch"), ("f1", "distilled", "scratch")
    ]  # fmt: skip
    for number, one in enumerate(found):
        ours, theirs = ([np.mean(marks(model)[number]) for model in arm.students] for arm in (arms[1], arms[0]))
        expected = stats.ttest_rel(ours, theirs)
        assert one["p"] == pytest.approx(expected.pvalue)
        low, high = expected.confidence_interval()
        assert (one["difference"]["ci_low"], one["difference"]["ci_high"]) == pytest.approx((low, high))
        assert one["decision"] == "gain"
    assert [one["p_adjusted"] for one in found] == pytest.approx(holm([one["p"] for one in found]))
    apart = [row["comparisons"][0] for row in report["tasks"]["each"]]
    assert [one["p_adjusted"] for one in apart] == pytest.approx(holm([one["p"] for one in apart]))
    # What the first sentences speak of is the first of them, alone.
    (main,) = report["comparisons"]
    assert main["difference"] == found[0]["difference"]
    assert main["p_adjusted"] == main["p"]


def test_a_single_run_is_judged_by_its_questions() -> None:
    report = scored(seeds=[0])
    _, arms = lined_up(seeds=[0])
    exact, f1 = report["tasks"]["joint"]["comparisons"]
    ours, theirs = (marks(arm.students[0]) for arm in (arms[1], arms[0]))
    gap = np.subtract(ours[1], theirs[1])
    assert f1["p_method"] == "paired t by example"
    assert f1["p"] == pytest.approx(stats.ttest_1samp(gap, 0.0).pvalue)
    assert (f1["newly_right"], f1["newly_wrong"]) == (int((gap > 0).sum()), int((gap < 0).sum()))
    # Drawing questions anew moves a mean as its standard error says; strata of single places would hide most of it.
    # (with and without an answer are two strata, so the spread is that within them)
    for one, own in ((exact, np.subtract(np.array(ours[0], float), np.array(theirs[0], float))), (f1, gap)):
        parts = [own[TRUTH[:, 0] == 0], own[TRUTH[:, 0] > 0]]
        error = np.sqrt(sum(part.size * part.var() for part in parts)) / N
        width = one["by_example"]["ci_high"] - one["by_example"]["ci_low"]
        assert width == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert exact["p"] == pytest.approx(
        stats.binomtest(int(exact["newly_right"]), int(exact["newly_right"] + exact["newly_wrong"])).pvalue
    )
    assert exact["minimum_detectable"] == pytest.approx(
        1.959964 * np.sqrt((exact["newly_right"] + exact["newly_wrong"]) / N / N)
    )
    assert f1["minimum_detectable"] == pytest.approx(1.959964 * np.sqrt(np.mean(gap**2) / N))


def test_of_other_tasks_all_must_be_right(tasks_report: dict[str, Any]) -> None:
    _, arms = lined_up()
    row = tasks_report["tasks"]["joint"]["models"][2]
    expected = [
        np.mean((np.argmax(one.logits, 1) == TRUTH[:, 0]) & (np.argmax(one.tasks["end"], 1) == TRUTH[:, 1]))
        for one in arms[1].students
    ]
    assert [run["right"] for run in row["runs"]] == pytest.approx(expected)
    assert "f1" not in row
    assert not tasks_report["tasks"]["questions"]
    assert {one["measure"] for one in tasks_report["tasks"]["joint"]["comparisons"]} == {"right"}
    # The rest of the report is of the main task, as ever.
    first = tasks_report["tasks"]["each"][0]["models"][2]["accuracy"]
    assert tasks_report["models"][2]["metrics"]["accuracy"] == first
    assert "macro_f1" in tasks_report["models"][2]["metrics"]
    assert "all_right" in tasks_report["methods"]


def test_questions_are_two_tasks_over_the_same_places() -> None:
    with pytest.raises(InputError, match="where it starts and where it ends"):
        scored(tasks=TaskFacts("start", {}, True))
    three = {"end": (TRUTH[:, 1], NAMES), "third": (TRUTH[:, 1], NAMES)}
    with pytest.raises(InputError, match="where it starts and where it ends"):
        scored(tasks=TaskFacts("start", three, True))


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_the_page_of_questions_speaks_of_answers(report: dict[str, Any]) -> None:
    text = verdict(report).text
    assert "of the teacher's exact match" in text
    assert "F1: " in text
    assert "Worst class" not in text
    assert "ECE" not in text
    shown = page(report, "en")
    for words in (
        "Places of answers",
        "Exact match against file size",
        "exact match, %",
        "F1 over tokens",
        "stricter than the script of SQuAD",
    ):
        assert words in shown
    for words in ("Class by class", "What is mistaken for what", "Examples of every class", "Macro", "ROC", "no train"):
        assert words not in shown
    gains = [line for line in shown.split("<tr>") if "<td>scratch</td>" in line]
    assert [next(name for name in ("start", "end", "exact match", "F1") if f"<td>{name}</td>" in line)
            for line in gains] == ["start", "end", "exact match", "F1"]  # fmt: skip


def test_the_card_of_questions(report: dict[str, Any]) -> None:
    text = card(report)
    head = text.split("---\n")[1]
    assert "pipeline_tag: question-answering" in head
    assert "type: exact_match" in head
    assert "| model | exact match, % | F1, % | parameters | file |" in text
    assert "stricter" in text
    assert "Weakest classes" not in text
    assert "start: 17" not in text


def test_the_page_of_tasks_has_a_column_of_all(tasks_report: dict[str, Any]) -> None:
    shown = page(tasks_report, "en")
    assert "All right ↑" in shown
    assert "<td>all right</td>" in shown
    assert "Class by class" in shown
    assert "| all right, % |" in card(tasks_report)


def test_reports_of_earlier_versions_still_have_pages(tasks_report: dict[str, Any]) -> None:
    old = json.loads(json.dumps(tasks_report))
    for key in ("joint", "questions"):
        del old["tasks"][key]
    assert "Task by task" in page(old, "en")
    assert "All right" not in page(old, "en")
    assert "all right" not in card(old)


# ---- the same again from files ---------------------------------------------------------------------------------------


def test_saved_answers_give_the_same_report(tmp_path: Path) -> None:
    teacher, arms = lined_up(seeds=[0, 1])
    report = scored(seeds=[0, 1])
    (tmp_path / "eval").mkdir()
    named = [("teacher", teacher)] + [(f"{arm.name}-seed-{one.seed}", one) for arm in arms for one in arm.students]
    for name, model in named:
        further = {"end": KeptTask(TRUTH[:, 1], np.asarray(model.tasks["end"]), NAMES)}
        write_eval_file(tmp_path / "eval" / f"{name}.npz", Kept(IDS, TRUTH[:, 0], np.asarray(model.logits), further))
    write_report(tmp_path, report)
    (tmp_path / "manifest.json").write_text('{"outcome": "complete"}')
    assert differences(json.loads((tmp_path / "report.json").read_text()), rescore(tmp_path)) == []
    # Two arms side by side differ as in the report.
    found = compare_runs(f"{tmp_path}:scratch", f"{tmp_path}:distilled", resamples=300)
    assert found.levels["second"]["accuracy"] == report["models"][2]["metrics"]["accuracy"]["value"]
    for key in ("difference", "by_example", "p"):
        assert found.accuracy[key] == report["comparisons"][0][key]
    assert found.per_class == ()
    assert "accuracy is exact match" in found.summary()
    assert "worst class" not in found.summary()


def test_answers_that_end_before_they_start_are_no_truth() -> None:
    ends = TRUTH[:, 1].copy()
    ends[1] = TRUTH[1, 0] - 1
    with pytest.raises(InputError, match="ends before it starts"):
        scored(tasks=TaskFacts("start", {"end": (ends, NAMES)}, True))


def test_models_need_answers_to_both(report: dict[str, Any]) -> None:
    teacher, arms = lined_up()
    lame = [replace(arm, students=[replace(one, tasks={}) for one in arm.students]) for arm in arms]
    with pytest.raises(InputError, match="no answers to the task `end`"):
        scorecard(
            labels=TRUTH[:, 0], ids=IDS, classes=NAMES, teacher=teacher, arms=lame,
            data=DataFacts("faq", {"test": [1] * L}, "f" * 64, "e" * 64),
            run=RunFacts("a", "b", "c", "d", {}, 1.0, True),
            tasks=TaskFacts("start", {"end": (TRUTH[:, 1], NAMES)}, True),
        )  # fmt: skip
