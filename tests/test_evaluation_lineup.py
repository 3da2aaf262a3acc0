"""Runs with several students and compressed files: who is held against whom, and what the report is about."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from scored_runs import LABELS, make_report
from test_evaluation_scorecard import SCRATCH, TAUGHT, arm, card, judged
from tutelage.evaluation import Arm
from tutelage.evaluation.significance import holm


def test_every_student_has_its_own_baseline_and_all_comparisons_are_corrected_together() -> None:
    report, _, arms = make_report(students=("small", "tiny"), compress=("int8",))
    assert (report["headline"], report["baseline"]) == ("small.distilled", "small.scratch")
    assert [(item["name"], item["against"]) for item in report["comparisons"]] == [
        ("small.distilled", "small.scratch"),
        ("small.warm", "small.scratch"),
        ("tiny.distilled", "tiny.scratch"),
        ("tiny.warm", "tiny.scratch"),
    ]
    found = [item["p_adjusted"] for item in report["comparisons"]]
    assert found == pytest.approx(holm([item["p"] for item in report["comparisons"]]))
    right = {arm.name: [np.mean(np.argmax(one.logits, 1) == LABELS["test"]) for one in arm.students]
             for arm in arms}  # fmt: skip
    tiny = report["comparisons"][2]
    assert tiny["difference"]["value"] == pytest.approx(
        np.mean(right["tiny.distilled"]) - np.mean(right["tiny.scratch"])
    )
    expected = stats.ttest_rel(right["tiny.distilled"], right["tiny.scratch"])
    assert tiny["p"] == pytest.approx(expected.pvalue)
    # What the first sentences, the classes and the confusions speak of is one student and its own baseline.
    assert report["confusion"]["models"] == ["teacher", "small.scratch", "small.distilled"]
    for row in report["per_class"]:
        change = row["recall"]["small.distilled"] - row["recall"]["small.scratch"]
        assert row["change"] == pytest.approx(change)
    retained = report["summary"]["retained"]["value"]
    assert retained == pytest.approx(
        np.mean(right["small.distilled"]) / report["models"][0]["metrics"]["accuracy"]["value"]
    )


def test_compressed_arms_stand_against_what_they_were_made_from() -> None:
    report, _, arms = make_report(students=("small", "tiny"), compress=("fp16", "int8"))
    assert [(item["name"], item["against"]) for item in report["compressions"]] == [
        ("small.distilled.fp16", "small.distilled"),
        ("small.distilled.int8", "small.distilled"),
    ]
    row = next(model for model in report["models"] if model["name"] == "small.distilled.int8")
    assert row["role"] == "compressed"
    assert (row["student"], row["method"]) == ("small", "distilled")
    assert (row["of"], row["compression"]) == ("small.distilled", "int8")
    assert (row["size_ratio"], row["multiply_add_ratio"]) == (9000 / 200, pytest.approx(900 / 70))
    pairs = [
        (np.argmax(one.logits, 1) == LABELS["test"], np.argmax(other.logits, 1) == LABELS["test"])
        for one, other in zip(arms[-1].students, arms[1].students, strict=True)
    ]
    found = report["compressions"][1]
    assert [item["difference"] for item in found["per_seed"]] == pytest.approx([a.mean() - b.mean() for a, b in pairs])
    assert found["newly_wrong"] == pytest.approx(np.mean([(b & ~a).sum() for a, b in pairs]))
    # They are no arms that learned: no curve, no comparison with a baseline, no headline.
    assert set(report["training"]) == {arm.name for arm in arms if not arm.compression}
    assert len(report["comparisons"]) == 4
    assert make_report()[0]["compressions"] == []


def test_a_compressed_arm_takes_over_what_it_does_not_say_of_itself() -> None:
    small = Arm("taught.fp16", TAUGHT.students, True, of="taught", compression="fp16")
    # Even as the first of the list it is not what the report is about.
    report = card([small, SCRATCH, TAUGHT])
    assert report["headline"] == "taught"
    assert (report["models"][1]["method"], report["models"][1]["student"]) == ("taught", "")
    assert report["compressions"][0]["difference"]["value"] == 0.0
    assert [item["name"] for item in report["comparisons"]] == ["taught"]


def test_a_student_that_was_never_trained_alone_is_named() -> None:
    lonely = replace(arm("tiny.taught", [0.8, 0.81, 0.82]), student="tiny", method="taught")
    pair = [replace(one, name=f"small.{one.name}", student="small", method=one.name) for one in (SCRATCH, TAUGHT)]
    report = card([*(replace(one, name=name) for one, name in zip(pair, ("a", "b"), strict=True)), lonely])
    assert (report["headline"], report["baseline"]) == ("b", "a")
    assert [item["name"] for item in report["comparisons"]] == ["b"]
    (warning,) = (item for item in report["warnings"] if item["code"] == "no-baseline")
    assert warning["text"].endswith(": tiny.")
    weak = card(pair, judged(0.7))
    assert "the student ‘small’ that never met it" in weak["warnings"][0]["text"]


def test_the_frontier_has_a_point_for_every_model() -> None:
    report, _, _ = make_report(students=("small", "tiny"), compress=("int8",))
    points = {point["name"]: point for point in report["frontier"]["points"]}
    assert list(points) == [model["name"] for model in report["models"]]
    assert (report["frontier"]["batch"], report["frontier"]["threads"]) == (1, 1)
    teacher = report["models"][0]
    assert points["teacher"]["accuracy"] == teacher["accuracy_items"]
    assert points["teacher"]["p50_ms"]["value"] == teacher["latency"][0]["p50_ms"]
    assert points["tiny.warm"]["multiply_adds"] == 71
    smallest = min(points.values(), key=lambda point: point["file_bytes"])
    assert (smallest["name"], smallest["on_size"]) == ("small.distilled.int8", True)
