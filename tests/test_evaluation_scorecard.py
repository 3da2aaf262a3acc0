"""The scorecard: every number of the report, reduced once, with its warnings."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, precision_score, recall_score

from scored_runs import CLASSES as PETS
from scored_runs import STORE, make_report
from tutelage.errors import InputError
from tutelage.evaluation import Arm, DataFacts, Judged, RunFacts, scorecard
from tutelage.evaluation.calibration import fit_temperature
from tutelage.evaluation.cost import Latency
from tutelage.evaluation.metrics import nll
from tutelage.evaluation.scorecard import METHODS
from tutelage.evaluation.significance import paired_by_seed

CLASSES = ("cat", "dog", "horse", "crow")
LABELS = np.arange(400) % 4


def logits(accuracy: float, seed: int) -> np.ndarray:
    """Answers that are right on the first `accuracy` share of a shuffled test part."""
    generator = np.random.default_rng(seed)
    said = LABELS.copy()
    wrong = generator.permutation(LABELS.size)[round(accuracy * LABELS.size) :]
    said[wrong] = (said[wrong] + 1) % 4
    return 3.0 * np.eye(4)[said] + generator.normal(scale=0.1, size=(LABELS.size, 4))


def judged(accuracy: float, seed: int | None = None, **more: Any) -> Judged:
    size = {"parameters": 100, "file_bytes": 500} if seed is not None else {"parameters": 1000, "file_bytes": 5000}
    return Judged(
        logits(accuracy, 0 if seed is None else seed + 1), **{**size, "sha256": "a" * 64, "seed": seed, **more}
    )


def arm(name: str, accuracies: Sequence[float], distilled: bool = True, **more: Any) -> Arm:
    students = [judged(value, seed, **more) for seed, value in enumerate(accuracies)]
    return Arm(name, students, distilled, "words")


DATA = DataFacts("pets", {"train": [9, 9, 9, 9], "test": [100] * 4}, "f" * 64, "e" * 64)
RUN = RunFacts("small", "name: small", "tutelage run small", "import torch", {"torch": "2"}, 1.5, True)
SCRATCH = arm("scratch", [0.80, 0.81, 0.79], distilled=False)
TAUGHT = arm("taught", [0.85, 0.87, 0.84])


def card(arms: Sequence[Arm], teacher: Judged | None = None, **more: Any) -> dict[str, Any]:
    facts: Mapping[str, Any] = {"data": DATA, "run": RUN, "resamples": 500, **more}
    teacher = judged(0.9) if teacher is None else teacher
    return scorecard(labels=LABELS, ids=np.arange(400) + 2**62, classes=CLASSES, teacher=teacher, arms=arms, **facts)


def codes(report: Mapping[str, Any]) -> set[str]:
    return {warning["code"] for warning in report["warnings"]}


def test_the_scorecard_is_json_without_nan_and_survives_the_way_to_disk() -> None:
    curve = [{"epoch": 1, "loss": float("nan"), "val_accuracy": 0.5}, {"epoch": 2, "loss": 0.4, "val_accuracy": 0.6}]
    report = card([arm("scratch", [0.8, 0.8], distilled=False, curve=curve), TAUGHT])
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["training"]["scratch"]["0"][0]["loss"] is None
    assert [point["epoch"] for point in report["curves"]["loss"]["scratch"]] == [2]
    assert report["curves"]["val_accuracy"]["scratch"][1] == {
        "epoch": 2,
        "mean": 0.6,
        "low": 0.6,
        "high": 0.6,
        "seeds": 2,
    }


def test_models_carry_means_intervals_and_ratios() -> None:
    times = {
        "teacher": [Latency(1, 6.0, 5.9, 6.1, 7.0, 99, 1), Latency(64, 60.0, 59.0, 61.0, 70.0, 99, 1)],
        "taught": [Latency(1, 1.5, 1.4, 1.6, 2.0, 99, 1), Latency(64, 30.0, 29.0, 31.0, 35.0, 99, 2)],
    }
    report = card([SCRATCH, TAUGHT], latency=times)
    teacher, scratch, taught = report["models"]
    assert [model["role"] for model in report["models"]] == ["teacher", "baseline", "distilled"]
    assert taught["metrics"]["accuracy"]["value"] == pytest.approx(np.mean([0.85, 0.87, 0.84]))
    assert taught["retained"]["value"] == pytest.approx(np.mean([0.85, 0.87, 0.84]) / 0.9)
    assert (taught["parameter_ratio"], taught["size_ratio"]) == (10.0, 10.0)
    assert teacher["metrics"]["agreement"]["value"] == 1.0
    assert scratch["latency"] == []
    # a ratio of times at different thread counts would mean nothing, so there is none
    assert [item["speed_ratio"] for item in taught["latency"]] == [4.0, None]
    assert report["summary"]["speed_ratio"] == 4.0
    assert [run["seed"] for run in taught["runs"]] == [0, 1, 2]


VAL_LABELS = np.arange(200) % 4


def with_validation(one: Judged, wrong: int = 30) -> Judged:
    """The same model with answers to 200 validation examples, `wrong` of them wrong."""
    said = np.where(np.arange(200) < wrong, (VAL_LABELS + 1) % 4, VAL_LABELS)
    noise = np.random.default_rng(one.seed or 0).normal(scale=0.1, size=(200, 4))
    return replace(one, val_logits=3.0 * np.eye(4)[said] + noise)


def test_a_temperature_from_validation_stands_with_the_other_measures() -> None:
    arms = [replace(arm, students=[with_validation(one) for one in arm.students]) for arm in (SCRATCH, TAUGHT)]
    report = card(arms, with_validation(judged(0.9)), val_labels=VAL_LABELS)
    for model in report["models"]:
        found, runs = model["metrics"], [run["metrics"] for run in model["runs"]]
        assert set(found) == set(METHODS) - {"top5_accuracy", "hit_rate_10", "ndcg_10", "mrr"} == set(report["methods"])
        for key, estimate in found.items():
            assert estimate["value"] == pytest.approx(np.mean([run[key] for run in runs]))
        assert (found["temperature"]["n"], found["ece_scaled"]["n"]) == (200, 400)
    taught, first = TAUGHT.students[0], report["models"][2]["runs"][0]["metrics"]
    fitted = fit_temperature(np.asarray(with_validation(taught).val_logits), VAL_LABELS)
    assert fitted is not None
    assert first["temperature"] == fitted.value
    assert first["nll_scaled"] == nll(np.asarray(taught.logits) / fitted.value, LABELS)


def test_a_temperature_that_one_seed_lacks_is_no_mean_but_stays_with_its_run() -> None:
    students = [with_validation(one, wrong=30 * (one.seed != 1)) for one in TAUGHT.students]
    report = card([SCRATCH, replace(TAUGHT, students=students)], val_labels=VAL_LABELS)
    scratch, taught = report["models"][1:]
    for key in ("temperature", "nll_scaled", "ece_scaled"):
        assert key not in taught["metrics"]
        assert [key in run["metrics"] for run in taught["runs"]] == [True, False, True]
        assert not any(key in run["metrics"] for run in scratch["runs"])
    assert "calibration_l2" in taught["metrics"]


def test_validation_answers_need_labels_that_fit() -> None:
    with pytest.raises(InputError, match="`teacher` has validation answers, but no labels"):
        card([SCRATCH], with_validation(judged(0.9)))
    with pytest.raises(InputError, match="wrong shape"):
        card([SCRATCH], with_validation(judged(0.9)), val_labels=VAL_LABELS[:9])


def test_classes_carry_precision_f1_and_auc_beside_their_recall() -> None:
    report = card([SCRATCH, TAUGHT])
    said = [np.asarray(one.logits).argmax(axis=1) for one in TAUGHT.students]
    for number, row in enumerate(report["per_class"]):
        for mark, score in (("precision", precision_score), ("f1", f1_score), ("recall", recall_score)):
            expected = [score(LABELS, one, average=None)[number] for one in said]
            assert row[mark]["taught"] == pytest.approx(np.mean(expected))
            assert set(row[mark]) == {"teacher", "scratch", "taught"}
    areas = [row["auc"]["taught"] for row in report["per_class"]]
    assert np.mean(areas) == pytest.approx(report["models"][2]["metrics"]["macro_auc"]["value"])


def test_with_several_seeds_the_paired_interval_by_seed_decides() -> None:
    report = card([SCRATCH, TAUGHT])
    (gain,) = report["comparisons"]
    assert gain["basis"] == "seeds"
    expected = paired_by_seed([0.85, 0.87, 0.84], [0.80, 0.81, 0.79], 400).to_json()
    assert gain["difference"] == gain["by_seed"] == pytest.approx(expected)
    assert gain["decision"] == "gain"
    assert [item["difference"] for item in gain["per_seed"]] == pytest.approx([0.05, 0.06, 0.05])
    assert gain["newly_right"] - gain["newly_wrong"] == pytest.approx(400 * gain["difference"]["value"])
    assert gain["by_example"]["ci_low"] < gain["difference"]["value"] < gain["by_example"]["ci_high"]


def test_with_a_single_run_only_the_test_examples_speak() -> None:
    report = card([arm("scratch", [0.8], distilled=False), arm("taught", [0.9])])
    (gain,) = report["comparisons"]
    assert gain["basis"] == "examples"
    assert gain["by_seed"] is None
    assert gain["difference"] == gain["by_example"]
    assert gain["p_method"] == "McNemar, exact"
    assert "few-seeds" in codes(report)


@pytest.mark.parametrize(
    ("accuracies", "decision"),
    [([0.85, 0.86, 0.84], "gain"), ([0.80, 0.82, 0.78], "none"), ([0.70, 0.71, 0.69], "worse")],
)
def test_decisions(accuracies: list[float], decision: str) -> None:
    assert card([SCRATCH, arm("taught", accuracies)])["comparisons"][0]["decision"] == decision


def test_several_students_are_corrected_and_the_first_keeps_the_headline() -> None:
    report = card([SCRATCH, TAUGHT, arm("better", [0.89, 0.9, 0.88])])
    assert report["headline"] == "taught"
    assert [item["name"] for item in report["comparisons"]] == ["taught", "better"]
    assert all(item["p_adjusted"] >= item["p"] for item in report["comparisons"])


def test_what_a_report_was_made_from_stands_in_it() -> None:
    report, teacher, _ = make_report(parts=("test", "val", "train"), store=True)
    assert report["answers"] == STORE
    assert (report["resamples"], report["baseline_method"]) == (300, "scratch")
    assert report["notices"] == ["the disk was slow"]
    assert report["warnings"][-1] == {"code": "run", "text": "the disk was slow"}
    sums = report["models"][0]["runs"][0]["answers"]
    assert set(sums) == {"test", "val", "train"}
    other, _, _ = make_report(parts=("test", "val"))
    assert other["models"][0]["runs"][0]["answers"] == {part: sums[part] for part in ("test", "val")}
    assert set(report["drawn"]["models"]) == {"teacher", "scratch", "distilled"}
    assert np.asarray(teacher.logits).shape == (report["drawn"]["n"], len(PETS))


def test_the_drawing_of_the_report_shows_what_a_report_has() -> None:
    report, _, _ = make_report(compress=("int8",), parts=("test", "val", "train"))
    drawing = (
        str(sys.modules[scorecard.__module__].__doc__)
        .partition('"tutelage-report-1"')[2]
        .partition("A metric that is not")[0]
    )
    known = set(re.findall(r"\w+", drawing)) | {"format"}
    rows = [report, report["data"], report["summary"], report["confusion"], report["per_class"][0], report["frontier"]]
    rows += [report["models"][1], report["models"][1]["runs"][0], report["comparisons"][0], report["compressions"][0]]
    rows += [report["frontier"]["points"][0], report["drawn"], report["fidelity"]]
    for row in rows:
        assert set(row) - known == set()
    # What stands at the start of a line of the drawing, or after a gap, is a key of the report.
    named = set(re.findall(r"^    (\w+)", drawing, re.MULTILINE)) | {"training", "methods", "warnings", "resamples"}
    assert named - set(report) == {"exports", "pictures"}


def test_fidelity_is_measured_against_each_students_own_baseline_and_on_training_answers_where_there_are_any() -> None:
    report, teacher, arms = make_report(students=("small", "tiny"), compress=("int8",), parts=("test", "train"))
    found = report["fidelity"]["arms"]
    assert [(item["name"], item["against"]) for item in found] == [
        (item["name"], item["against"]) for item in report["comparisons"]
    ]
    for part, pick in (("test", "logits"), ("train", "train_logits")):
        said = np.argmax(getattr(teacher, pick), 1)
        means = {arm.name: np.mean([np.argmax(getattr(one, pick), 1) == said for one in arm.students]) for arm in arms}
        for item in found:
            assert item[part]["agreement"]["arm"]["value"] == pytest.approx(means[item["name"]])
            assert item[part]["agreement"]["baseline"]["value"] == pytest.approx(means[item["against"]])
    assert [item["train"] for item in make_report()[0]["fidelity"]["arms"]] == [None, None]


def test_training_answers_need_labels_that_fit() -> None:
    one = replace(judged(0.9), train_logits=np.zeros((8, 4)))
    with pytest.raises(InputError, match="`teacher` has training answers, but no labels"):
        card([SCRATCH], one)
    with pytest.raises(InputError, match="wrong shape"):
        card([SCRATCH], one, train_labels=[0, 1, 2])


def right_and_wrong(report_arms: Sequence[Arm]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the paired differences of two arms, means over seeds, and the labels."""
    first, second = (
        np.mean([np.argmax(one.logits, 1) == LABELS for one in arm.students], axis=0) for arm in report_arms
    )
    return second - first, LABELS


def test_the_interval_over_examples_equals_a_plain_slow_bootstrap() -> None:
    (found,) = card([SCRATCH, TAUGHT], resamples=10_000)["comparisons"]
    difference, labels = right_and_wrong([SCRATCH, TAUGHT])
    generator = np.random.default_rng(3)
    members = [np.flatnonzero(labels == number) for number in range(4)]
    means = [
        difference[np.concatenate([generator.choice(own, size=own.size) for own in members])].mean()
        for _ in range(4000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    # An end of an interval from R draws errs by about √(p(1 − p) / R) / density, here 0.0006; four times that.
    error = 4 * np.sqrt(0.025 * 0.975 / 4000) / stats.norm.pdf(stats.norm.ppf(0.025)) * np.std(means)
    assert found["by_example"]["value"] == pytest.approx(difference.mean())
    assert found["by_example"]["ci_low"] == pytest.approx(low, abs=error)
    assert found["by_example"]["ci_high"] == pytest.approx(high, abs=error)


def test_the_interval_over_examples_equals_scipys_bootstrap_with_a_sample_for_each_class() -> None:
    (found,) = card([SCRATCH, TAUGHT], resamples=10_000)["comparisons"]
    difference, labels = right_and_wrong([SCRATCH, TAUGHT])
    samples = [difference[labels == number] for number in range(4)]

    def mean(*classes: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(sum(one.sum(axis=axis) for one in classes) / labels.size)

    expected = stats.bootstrap(
        samples, mean, n_resamples=6000, batch=500, method="percentile", rng=np.random.default_rng(5), vectorized=True
    )
    error = 4 * np.sqrt(0.025 * 0.975 / 6000) / stats.norm.pdf(stats.norm.ppf(0.025)) * expected.standard_error
    assert found["by_example"]["ci_low"] == pytest.approx(expected.confidence_interval.low, abs=error)
    assert found["by_example"]["ci_high"] == pytest.approx(expected.confidence_interval.high, abs=error)


def test_only_common_seeds_are_paired() -> None:
    late = Arm("taught", [judged(0.85, 1), judged(0.86, 2), judged(0.9, 7)], True)
    report = card([SCRATCH, late])
    assert [item["seed"] for item in report["comparisons"][0]["per_seed"]] == [1, 2]
    assert "seeds-differ" in codes(report)


def test_per_class_recalls_weigh_up_to_the_accuracy_and_name_the_worst_class() -> None:
    worse = logits(1.0, 5)
    worse[LABELS == 2] = np.roll(worse[LABELS == 2], 1, axis=1)  # every horse is taken for a crow
    student = Judged(worse, 10, 10, "b", seed=0)
    report = card([arm("scratch", [1.0], distilled=False), Arm("taught", [student], True)], teacher=judged(1.0))
    rows = {row["class"]: row for row in report["per_class"]}
    assert rows["horse"]["recall"] == {"teacher": 1.0, "scratch": 1.0, "taught": 0.0}
    assert (rows["horse"]["change"], rows["horse"]["changed"], rows["cat"]["changed"]) == (-1.0, True, False)
    assert report["summary"]["worst_class"] == {"class": "horse", "n": 100, "cost": -1.0}
    assert report["summary"]["forgotten"]["count"] == 100
    assert report["summary"]["forgotten"]["ids"][0] == str(2**62 + 2)
    assert report["confusion"]["pairs"][0] == {
        "true": "horse",
        "predicted": "crow",
        "n": 100,
        "rates": {"teacher": 0.0, "scratch": 0.0, "taught": 1.0},
    }
    assert report["confusion"]["difference"][2] == [0.0, 0.0, -1.0, 1.0]
    rates = np.array(report["confusion"]["rates"]["taught"])
    assert rates.sum(axis=1) == pytest.approx(np.ones(4))


def test_warnings_say_what_a_reader_must_know() -> None:
    data = DataFacts("pets", {"train": [9, 9, 0, 9], "test": [100] * 4}, "f", "e", test_looks=3, shared_examples=4)
    run = RunFacts("small", "", "", "", {}, 1.0, deterministic=False)
    big = arm("taught", [0.82, 0.83], parameters=5000)
    weak = card([SCRATCH, big], teacher=judged(0.6), data=data, run=run, warnings=["the disk was slow"])
    assert codes(weak) == {
        "few-seeds",
        "seeds-differ",
        "not-deterministic",
        "teacher-weaker",
        "not-smaller",
        "shared-examples",
        "test-looks",
        "empty-class",
        "run",
    }
    assert weak["warnings"][-1] == {"code": "run", "text": "the disk was slow"}
    assert codes(card([SCRATCH, TAUGHT])) == set()
    assert codes(card([TAUGHT], teacher=judged(0.26))) == {"teacher-near-chance", "no-baseline"}
    assert codes(card([SCRATCH])) == {"no-distilled"}


def test_many_classes_leave_out_the_matrices_and_keep_the_pairs() -> None:
    labels = np.arange(100) % 25
    answers = np.eye(25)[(labels + (np.arange(100) < 10)) % 25]
    teacher = Judged(np.eye(25)[labels], 10, 10, "a")
    report = scorecard(
        labels=labels,
        ids=labels,
        classes=[f"c{i}" for i in range(25)],
        teacher=teacher,
        arms=[Arm("taught", [Judged(answers, 1, 1, "b", seed=0)], True)],
        data=DataFacts("many", {"test": [4] * 25}, "f", "e"),
        run=RUN,
    )
    # Ten are wrong; four of them have their label among the first five still.
    assert report["models"][1]["metrics"]["top5_accuracy"]["value"] == 0.94
    assert report["confusion"]["rates"] is None
    assert report["confusion"]["difference"] is None
    assert len(report["confusion"]["pairs"]) == 10


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ([], "names of their own"),
        ([SCRATCH, SCRATCH], "names of their own"),
        ([Arm("teacher", [judged(0.5, 0)], True)], "names of their own"),
        ([Arm("taught", [], True)], "one student for each seed"),
        ([Arm("taught", [judged(0.5, 0), judged(0.5, 0)], True)], "one student for each seed"),
        ([Arm("taught", [judged(0.5)], True)], "one student for each seed"),
        ([SCRATCH, Arm("taught", [judged(0.5, 9)], True)], "share no seed"),
        ([SCRATCH, replace(TAUGHT, of="scratch")], "what was compressed, and how"),
        ([SCRATCH, replace(TAUGHT, compression="int8")], "what was compressed, and how"),
        ([SCRATCH, replace(TAUGHT, of="scratcj", compression="int8")], "did you mean `scratch`"),
        ([replace(SCRATCH, of="scratch", compression="int8")], "what was compressed, and how"),
        ([SCRATCH, replace(TAUGHT, method="scratch")], "2 arms train student"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(arms: list[Arm], words: str) -> None:
    with pytest.raises(InputError, match=words):
        card(arms)


def test_counts_must_name_every_class() -> None:
    with pytest.raises(InputError, match="split `test`"):
        card([SCRATCH], data=DataFacts("pets", {"test": [1, 2]}, "f", "e"))


def test_answers_and_ids_must_fit_the_test_part() -> None:
    narrow = Judged(np.zeros((400, 3)), 1, 1, "a")
    with pytest.raises(InputError, match="`teacher` answers other classes"):
        card([SCRATCH], teacher=narrow)
    with pytest.raises(InputError, match="needs its id"):
        scorecard(
            labels=LABELS,
            ids=[1],
            classes=CLASSES,
            teacher=judged(0.9),
            arms=[SCRATCH],
            data=DATA,
            run=RUN,
            resamples=9,
        )
