"""The words: each outcome has its sentence, and none promises more than its interval."""

from typing import Any

import pytest

from tutelage.report import numbers
from tutelage.report.verdict import gain_sentence, verdict


def estimate(value: float, low: float | None, high: float | None, seeds: int = 3) -> dict[str, Any]:
    return {"value": value, "ci_low": low, "ci_high": high, "n": 1000, "seeds": seeds, "method": "t"}


def comparison(value: float, low: float, high: float, decision: str, **more: Any) -> dict[str, Any]:
    difference = estimate(value, low, high)
    return {
        "name": "kd",
        "against": "scratch",
        "basis": "seeds",
        "decision": decision,
        "difference": difference,
        "by_seed": difference,
        "by_example": estimate(value, low, high),
        "p_adjusted": 0.01,
        **more,
    }


def report(**more: Any) -> dict[str, Any]:
    def model(name: str, role: str, accuracy: dict[str, Any]) -> dict[str, Any]:
        latency = [{"batch": 1, "threads": 1, "p50_ms": 1.0}]
        return {"name": name, "role": role, "metrics": {"accuracy": accuracy}, "latency": latency}

    return {
        "models": [
            model("teacher", "teacher", estimate(0.924, None, None, 1)),
            model("scratch", "baseline", estimate(0.901, 0.899, 0.903)),
            model("kd", "distilled", estimate(0.912, 0.909, 0.915)),
        ],
        "baseline": "scratch",
        "headline": "kd",
        "seeds": [0, 1, 2],
        "comparisons": [comparison(0.011, 0.005, 0.017, "gain")],
        "summary": {
            "retained": estimate(0.987, 0.98, 0.99),
            "size_ratio": 9.14,
            "parameter_ratio": 9.0,
            "speed_ratio": 6.31,
            "worst_class": {"class": "horse", "n": 1000, "cost": -0.062},
            "ece": {"teacher": 0.01, "scratch": 0.041, "kd": 0.022},
        },
        "warnings": [],
        **more,
    }


def test_a_gain_in_full() -> None:
    said = verdict(report())
    assert said.tone == "gain"
    assert said.text == (
        "Student keeps 98.7 % of the teacher's accuracy (91.2 ± 0.3 vs 92.4), 9.1× smaller, 6.3× faster "
        "(p50, 1 thread). Distillation itself added +1.1 pp over the same student without a teacher "
        "(95 % CI +0.5…+1.7, 3 seeds, paired). Worst class against the teacher: −6.2 pp (‘horse’, 1,000 test "
        "examples). Calibration: ECE 4.1 → 2.2 % (without → with the teacher)."
    )


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (
            comparison(0.002, -0.004, 0.008, "none"),
            "There is no measurable gain from distillation: +0.2 pp against the same student without a teacher "
            "(95 % CI −0.4…+0.8, 3 seeds, paired).",
        ),
        (
            comparison(-0.009, -0.015, -0.003, "worse"),
            "Distillation made the student worse: −0.9 pp against the same student without a teacher "
            "(95 % CI −1.5…−0.3, 3 seeds, paired).",
        ),
        (
            comparison(0.011, 0.005, 0.017, "gain", basis="examples"),
            "In this single run, distillation itself added +1.1 pp over the same student without a teacher "
            "(95 % CI +0.5…+1.7 over test examples only).",
        ),
        (
            comparison(0.002, -0.004, 0.008, "none", basis="examples"),
            "In this single run, there is no measurable gain from distillation: +0.2 pp against the same student "
            "without a teacher (95 % CI −0.4…+0.8 over test examples only).",
        ),
        (
            comparison(0.011, 0.005, 0.017, "gain", by_example=estimate(0.011, -0.002, 0.024)),
            "Distillation itself added +1.1 pp over the same student without a teacher (95 % CI +0.5…+1.7, 3 seeds, "
            "paired); but over test examples alone the interval is −0.2…+2.4, which holds 0.",
        ),
    ],
)
def test_every_outcome_has_its_sentence(item: dict[str, Any], sentence: str) -> None:
    assert gain_sentence(item, 1) == sentence


def test_several_students_get_a_sentence_each_and_luck_is_named() -> None:
    lucky = comparison(0.011, 0.001, 0.021, "gain", name="other", p_adjusted=0.08)
    said = verdict(report(comparisons=[comparison(-0.009, -0.015, -0.003, "worse"), lucky]))
    assert said.tone == "worse"
    assert said.sentences[1].startswith("‘kd’: distillation made the student worse")
    assert said.sentences[2].startswith("‘other’: distillation itself added +1.1 pp")
    assert said.sentences[2].endswith("but it does not survive Holm's correction for 2 comparisons.")


def test_many_students_are_told_in_groups() -> None:
    items = [
        comparison(0.011, 0.005, 0.017, "gain", name="a"),
        comparison(0.009, 0.001, 0.017, "gain", name="b", p_adjusted=0.2),
        comparison(0.001, -0.004, 0.006, "none", name="c"),
        comparison(-0.011, -0.017, -0.005, "worse", name="d"),
    ]
    said = verdict(report(comparisons=items))
    assert said.claims == (
        "Of 4 distilled students 1 gained from distillation against themselves without a teacher: ‘a’ +1.1 pp "
        "(+0.5…+1.7).",
        "Of 4 distilled students 1 got worse against themselves without a teacher: ‘d’ −1.1 pp (−1.7…−0.5).",
        "Of 4 distilled students 1 showed no measurable gain against themselves without a teacher: ‘c’ +0.1 pp "
        "(−0.4…+0.6).",
        "Of 4 distilled students 1 differed, but not after Holm's correction, against themselves without a teacher: "
        "‘b’ +0.9 pp (+0.1…+1.7).",
    )
    assert said.to_json()["sentences"] == list(said.sentences)


def test_without_a_comparison_nothing_is_claimed() -> None:
    said = verdict(report(comparisons=[], baseline=None))
    assert said.tone == "unknown"
    assert "Nothing can be said about what distillation itself added" in said.text
    assert "added +" not in said.text
    assert "ECE 2.2 %." in said.text


def test_a_larger_slower_better_student_is_said_to_be_so() -> None:
    facts = report()
    facts["models"][2]["metrics"]["accuracy"] = estimate(0.93, None, None, 1)
    facts["summary"] |= {
        "retained": estimate(1.006, None, None, 1),
        "size_ratio": 0.5,
        "speed_ratio": 0.25,
        "worst_class": {"class": "cat", "n": 10, "cost": 0.0},
    }
    said = verdict(facts)
    assert said.sentences[0] == (
        "Student reaches 100.6 % of the teacher's accuracy (93.0 vs 92.4; single run), 2.0× larger, 4.0× slower "
        "(p50, 1 thread)."
    )
    assert "No class does worse than with the teacher." in said.sentences


def test_a_teacher_without_a_right_answer_and_no_times() -> None:
    facts = report()
    facts["summary"] |= {"retained": None, "speed_ratio": None, "size_ratio": 1.01}
    assert verdict(facts).sentences[0] == (
        "Student had a teacher without a single right answer (91.2 ± 0.3 vs 92.4), about the same size."
    )


def test_warnings_are_counted_and_kept() -> None:
    said = verdict(report(warnings=[{"code": "x", "text": "Look out."}]))
    assert said.warnings == ("Look out.",)
    assert said.sentences[-1] == "Warnings: 1."
    assert said.to_json() == {"tone": "gain", "sentences": list(said.sentences)}


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.005, 0.017, "+0.5…+1.7"),
        (-0.0001, 0.012, "−0.01…+1.20"),
        (0.0003, 0.0300, "+0.03…+3.00"),
        (0.0010, 0.0020, "+0.10…+0.20"),
        (0.0, 0.0, "0.0…0.0"),
        (None, None, "–"),
    ],
)
def test_an_interval_never_loses_its_sign_to_rounding(low: float | None, high: float | None, text: str) -> None:
    assert numbers.points_interval(estimate(0.01, low, high)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (numbers.percent(0.9123), "91.2 %"),
        (numbers.percent(None), "–"),
        (numbers.points(-0.0621), "−6.2 pp"),
        (numbers.points(0.00001), "0.0 pp"),
        (numbers.times(23.7), "24×"),
        (numbers.milliseconds(0.04213), "0.0421 ms"),
        (numbers.milliseconds(128.4), "128 ms"),
        (numbers.significant(0), "0"),
        (numbers.p_value(0.0004), "p < 0.001"),
        (numbers.p_value(0.034), "p = 0.034"),
        (numbers.p_value(0.61), "p = 0.61"),
        (numbers.p_value(None), "–"),
        (numbers.count(1234567), "1,234,567"),
        (numbers.count(12.3333), "12.3"),
        (numbers.duration(3.25), "3.2 s"),
        (numbers.duration(754), "12 min 34 s"),
        (numbers.duration(3661), "1 h 1 min"),
        (numbers.plural(1, "seed"), "1 seed"),
        (numbers.plural(2, "class"), "2 classes"),
        (numbers.interval(estimate(0.9, 0.8, 0.95)), "80.0…95.0"),
        (numbers.size(1536), "1.5 KiB"),
        (numbers.against(None, "a", "b", "c"), "–"),
    ],
)
def test_how_numbers_are_written(text: str, expected: str) -> None:
    assert text == expected
